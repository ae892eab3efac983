from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zarr
from samples import make_features, write_sample

from palm_cache.store.cache import Cache
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import FORMAT_VERSION
from palm_cache.store.places.local import UNFINISHED
from palm_cache.store.prune import cache_waste, known_recipes, remove_waste, store_waste

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
    for name, process in (("dead", dead.pid), ("alive", os.getpid())):
        work = features / "clusters" / f".mini.zarr.{name}.partial"
        (work / "store" / "audio").mkdir(parents=True)
        (work / "store" / "audio" / "zarr.json").write_text("{}")
        (work / UNFINISHED).write_text(str(process))
    (waste,) = store_waste(features)
    assert waste.place.name == ".mini.zarr.dead.partial"
    assert waste.why == "left by a process that was killed"
    remove_waste(waste)
    assert not waste.place.exists()
    assert (features / "clusters" / ".mini.zarr.alive.partial" / UNFINISHED).is_file()
    assert FeatureStore(features / "clusters" / "mini.zarr").problems() == []


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
    assert waste.why == "audio of a recipe that no store here is made by"
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
