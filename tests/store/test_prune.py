from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr
from samples import make_features, write_sample

from palm_cache.errors import OutputError
from palm_cache.store.atomic import replacing
from palm_cache.store.cache import Cache
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import FORMAT_VERSION
from palm_cache.store.places import local
from palm_cache.store.prune import Waste, cache_waste, known_recipes, remove_waste, store_waste
from palm_cache.store.segments import new_name

USED = {"encoder": "mini", "precision": "fp32"}
"""The recipe of what ``write_sample`` writes."""

UNUSED = {"encoder": "mini", "precision": "bf16"}


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """A folder with one store."""
    write_sample(tmp_path / "features" / "clusters" / "mini.zarr", make_features())
    return tmp_path / "features"


def fill(cache: Path, recipe: dict[str, str], kind: str = "audio", count: int = 3) -> Cache:
    made = Cache(cache, kind, recipe, (2,))
    keys = np.random.default_rng(0).integers(0, 256, (count, 32), np.uint8)
    made.add(keys, np.ones((count, 2), np.float32))
    return made


def everything(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_sound_store_is_no_waste_whatever_lies_beside_it(features: Path) -> None:
    zarr.create_array(features / "mine.zarr", data=np.arange(3))
    zarr.create_group(features / "clusters" / "theirs.zarr", attributes={"dataset": "x"})
    (features / "clusters" / "notes.txt").write_text("mine")
    (features / "clusters" / ".mini.zarr.old").mkdir()
    (features / "clusters" / ".x.partial").mkdir()
    (features / "clusters" / ".x.partial" / "thesis.txt").write_text("mine")
    assert store_waste(features) == []
    assert store_waste(features / "nowhere") == []


def test_a_store_that_cannot_be_read_is_listed_and_only_its_own_files_go(features: Path) -> None:
    store = features / "clusters" / "mini.zarr"
    (store / "notes.txt").write_text("mine")
    root = store / "zarr.json"
    root.write_text(root.read_text().replace('"dim": 24', '"dim": 25'))
    (waste,) = store_waste(features)
    assert waste.place == store
    assert "damaged" in waste.why
    assert waste.bytes == sum((store / name).stat().st_size for name in waste.files)
    remove_waste(waste)
    assert everything(features) == {"clusters/mini.zarr/notes.txt"}
    assert store_waste(features) == []


@pytest.mark.parametrize("version", [1, FORMAT_VERSION + 1])
def test_a_store_of_another_format_stays(features: Path, version: int) -> None:
    root = features / "clusters" / "mini.zarr" / "zarr.json"
    root.write_text(
        root.read_text().replace(f'"format_version": {FORMAT_VERSION}', f'"format_version": {version}')
    )
    assert str(version) in root.read_text()
    assert store_waste(features) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="for this user no file is unreadable")
def test_a_store_that_may_not_be_read_is_no_waste(features: Path) -> None:
    root = features / "clusters" / "mini.zarr" / "zarr.json"
    root.chmod(0)
    assert store_waste(features) == []


def test_a_store_that_the_disk_does_not_give_is_no_waste(
    features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("palm_cache.store.places.local.LocalFolder.read", refuse)
    assert store_waste(features) == []


def test_what_a_killed_process_left_goes_but_not_what_a_running_one_has(features: Path) -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    machine, _, _ = local.this_writer().partition("-")
    writers = {"dead": f"{machine}-{dead.pid}", "alive": local.this_writer(), "away": f"{1:08x}-{dead.pid}"}
    works = {
        name: features / "clusters" / f".mini.zarr.{writer}.{0:08x}.partial"
        for name, writer in writers.items()
    }
    mine = features / "clusters" / works["dead"].name.replace("mini.zarr", "notes")
    for work in (*works.values(), mine):
        (work / "store" / "audio" / "c").mkdir(parents=True)
        (work / "store" / "audio" / "zarr.json").write_text("{}")
    (waste,) = store_waste(features)
    assert (waste.place / waste.files[0], len(waste.files), waste.bytes) == (works["dead"], 1, 2)
    assert waste.why == "left by a process that was killed"
    remove_waste(waste)
    assert not works["dead"].exists()
    assert store_waste(features) == []
    first = features / "new" / works["dead"].name / "store" / "zarr.json"  # beside no store yet
    first.parent.mkdir(parents=True)
    first.write_text("{}")
    (waste,) = store_waste(features)
    assert (waste.place, waste.files) == (features / "new", (works["dead"].name,))
    remove_waste(waste)
    assert not (features / "new").exists()
    for work in (works["alive"], works["away"], mine):
        assert (work / "store" / "audio" / "zarr.json").is_file()
    assert FeatureStore(features / "clusters" / "mini.zarr").problems() == []


WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from palm_cache.store.places import folder
with folder(Path(sys.argv[1])).replacing(sys.argv[2]) as partial:
    partial.write_bytes(b"half")
    print(partial.name, flush=True)
    time.sleep(600)
"""


@contextmanager
def writer_of(where: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Have a process write a file, and never be done; gives what the file is called meanwhile."""
    words = [sys.executable, "-c", WRITE_AND_WAIT, str(where), name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("by", ["prune", "extraction"])
def test_the_partial_file_of_a_killed_writer_goes_and_nothing_else(features: Path, by: str) -> None:
    cache = features / ".cache"
    where = fill(cache, USED).folder.place
    left, mine, strange = new_name(), f".notes.txt.{local.this_writer()}.{0:08x}.partial", ".x.partial"
    away, old = (f".{new_name()}.{1:08x}-1.{number:08x}.partial" for number in range(2))
    for name in (mine, strange, away, old):
        (where / name).write_text("?")
    os.utime(where / old, (0, 0))
    with writer_of(where, left) as (process, partial):
        (cleared,) = cache_waste(known_recipes(cache, features), cache)
        assert cleared.files == (f"{where.name}/{old}",)
        process.kill()
        process.wait()
        (waste,) = cache_waste(known_recipes(cache, features), cache)
        assert set(waste.files) == {f"{where.name}/{partial}", f"{where.name}/{old}"}
        assert (waste.bytes, waste.why) == (5, "left by a process that was killed")
        if by == "prune":
            remove_waste(waste)
        else:
            Cache(cache, "audio", USED, (2,)).merge()
    assert {mine, strange, away} == {file.name for file in where.glob(".*.partial")}
    assert Cache(cache, "audio", USED, (2,)).n_keys == 3


def test_a_file_that_is_written_again_loses_what_a_killed_writer_left_of_it(tmp_path: Path) -> None:
    with writer_of(tmp_path, "heads.h5") as (process, partial):
        process.kill()
        process.wait()
        assert (tmp_path / partial).is_file()
        with replacing(tmp_path / "scores.csv") as file:
            file.write_text("a")
        assert (tmp_path / partial).is_file()
        with replacing(tmp_path / "heads.h5") as file:
            file.write_text("b")
    assert {file.name for file in tmp_path.iterdir()} == {"heads.h5", "scores.csv"}


def test_a_content_that_lies_in_two_segments_counts_once(features: Path) -> None:
    for count in (3, 5):
        fill(features / ".cache", USED, count=count)
    (known,) = known_recipes(features / ".cache", features)
    assert (known.contents, len(known.files)) == (5, 3)


def test_a_cache_is_described_recipe_by_recipe_with_the_stores_made_of_it(features: Path) -> None:
    cache = features / ".cache"
    fill(cache, USED)
    fill(cache, UNUSED, count=5)
    fill(cache, {"content": "sha256"}, kind="files")
    assert FeatureStore(features / "clusters" / "mini.zarr").header.recipe == USED
    known = {(one.kind, str(one.recipe.get("precision"))): one for one in known_recipes(cache, features)}
    assert {key: one.contents for key, one in known.items()} == {
        ("audio", "fp32"): 3,
        ("audio", "bf16"): 5,
        ("files", "None"): 3,
    }
    assert known["audio", "fp32"].used_by == (str(features / "clusters" / "mini.zarr"),)
    assert known["audio", "bf16"].used_by == ()


@pytest.mark.parametrize(
    ("minutes", "age"),
    [(0, "0 minutes"), (1, "1 minute"), (59, "59 minutes"), (61, "1 hour"), (3 * 24 * 60 + 1, "3 days")],
)
def test_what_may_be_of_an_extraction_that_goes_on_is_told_with_its_age(
    features: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, age: str
) -> None:
    fill(features / ".cache", UNUSED)
    fill(features / ".cache", UNUSED)
    now = time.time_ns() + minutes * 60_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    (waste,) = cache_waste(known_recipes(features / ".cache", features), features / ".cache")
    assert waste.why.endswith(
        f", the last of it written {age} ago; an extraction that has not ended goes on from it"
    )


@pytest.mark.parametrize(("minutes", "in_work"), [(0, True), (59, True), (61, False)])
def test_what_was_written_of_late_may_be_of_an_extraction_that_runs(
    features: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, in_work: bool
) -> None:
    cache = features / ".cache"
    for recipe, kind in ((USED, "audio"), (UNUSED, "audio"), ({"content": "sha256"}, "files")):
        fill(cache, recipe, kind)
    now = time.time_ns() + minutes * 60_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    found = [known.recipe for known in known_recipes(cache, features) if known.may_be_in_work]
    assert found == [UNUSED] * in_work


def test_what_no_store_is_made_of_goes_and_nothing_else(features: Path) -> None:
    cache = features / ".cache"
    used, unused = fill(cache, USED), fill(cache, UNUSED)
    files = fill(cache, {"content": "sha256"}, kind="files")
    (unused.folder.place / "notes.txt").write_text("mine")
    stranger = cache / f"audio-{0:032x}"
    stranger.mkdir()
    (stranger / "recipe.json").write_text(json.dumps({"palm_cache": "another"}))
    (stranger / "model.safetensors").write_bytes(b"mine")
    (waste,) = cache_waste(known_recipes(cache, features), cache)
    assert waste.why.startswith("audio of a recipe that no store here is made by, ")
    assert waste.bytes == sum((cache / name).stat().st_size for name in waste.files)
    remove_waste(waste)
    assert {name.split("/")[0] for name in everything(cache)} == {
        used.folder.place.name,
        files.folder.place.name,
        unused.folder.place.name,
        stranger.name,
    }
    assert [file.name for file in unused.folder.place.iterdir()] == ["notes.txt"]
    assert cache_waste(known_recipes(cache, features), cache) == []


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b'{"recipe": {}}', b"[" * 9999])
@pytest.mark.parametrize(("recipe", "stores"), [(USED, 1), (UNUSED, 0)])
def test_a_recipe_whose_words_are_damaged_is_listed_and_told_anew_by_the_next_that_uses_it(
    features: Path, content: bytes | None, recipe: dict[str, str], stores: int
) -> None:
    cache = features / ".cache"
    made = fill(cache, recipe)
    words = made.folder.place / "recipe.json"
    whole = words.read_bytes()
    words.unlink()
    if content is None:
        os.mkfifo(words)
    elif content:
        words.write_bytes(content)
    (known,) = known_recipes(cache, features)
    assert (known.name, known.kind, known.recipe) == (made.folder.place.name, "audio", {})
    assert (known.contents, len(known.used_by)) == (3, stores)
    assert known.damaged == (f"{known.name}/recipe.json",)
    (waste,) = cache_waste([known], cache)
    assert waste.why.startswith("damaged: " if stores else "audio of a recipe that no store here is made by")
    Cache(cache, "audio", recipe, (2,)).merge()
    assert words.read_bytes() == whole
    remove_waste(waste)
    assert words.exists() is False


@pytest.mark.parametrize(
    "words", ['{"palm_cache": "palm-cache segment 2", "recipe": {}}', '{"palm_cache": 3}']
)
def test_the_cache_of_another_version_stays(features: Path, words: str) -> None:
    cache = features / ".cache"
    (fill(cache, UNUSED).folder.place / "recipe.json").write_text(words)
    assert known_recipes(cache, features) == []


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_what_a_store_that_cannot_be_read_may_be_made_of_stays(features: Path, share: float) -> None:
    """It is made anew of that."""
    cache, store = features / ".cache", features / "clusters" / "mini.zarr"
    fill(cache, USED)
    root = (store / "zarr.json").read_bytes()
    (store / "zarr.json").write_bytes(root[: int(share * len(root))])
    (known,) = known_recipes(cache, features)
    assert (known.used_by, known.unread) == ((), (str(store),))
    assert cache_waste([known], cache) == []
    (store / "zarr.json").write_bytes(root)
    zarr.create_group(features / "mine.zarr", attributes={"dataset": "x"})
    fill(cache, UNUSED)
    assert [waste.why[:5] for waste in cache_waste(known_recipes(cache, features), cache)] == ["audio"]


def test_a_segment_that_cannot_be_read_goes_and_the_others_stay(features: Path) -> None:
    cache = features / ".cache"
    used = fill(cache, USED)
    (damaged,) = used.folder.place.glob("*.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:5])
    fill(cache, USED)
    (waste,) = cache_waste(known_recipes(cache, features), cache)
    assert waste.files == (f"{used.folder.place.name}/{damaged.name}",)
    assert waste.why == "damaged: nothing can be read of it"
    remove_waste(waste)
    assert not damaged.exists()
    assert len(list(used.folder.place.glob("*.safetensors"))) == 1


def test_what_another_user_left_and_cannot_be_removed_does_not_pass_for_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()

    def refuse(*_: object, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("palm_cache.store.places.local.shutil.rmtree", refuse)
    with pytest.raises(OutputError, match="permission denied"):
        remove_waste(Waste(tmp_path, ("tree",), 0, "left"))
