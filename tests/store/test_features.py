from __future__ import annotations

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samples import flip_bit, make_features, write_sample

from palm_cache.errors import DamagedStoreError, OlderFormatError, OutputError, StoreError
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import differences, row_keys
from palm_cache.store.places import folder, place
from palm_cache.store.places.local import LocalFolder, this_writer
from palm_cache.store.root import root_hash
from palm_cache.store.writing import claimed_files
from palm_cache.types import Features


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """120 clips, of which two have failed."""
    return FeatureStore(write_sample(tmp_path / "features.zarr", make_features(failed=[5, 70])))


def same(one: Features, other: Features) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("audio", "text", "labels", "usable")
    ) and all(
        torch.equal(a.train, b.train) and torch.equal(a.test, b.test)
        for a, b in zip(one.folds, other.folds, strict=True)
    )


def test_what_is_written_is_read(store: FeatureStore) -> None:
    features = make_features(failed=[5, 70])
    again = store.read()
    assert same(again, features)
    assert again.class_names == features.class_names
    assert again.templates == features.templates
    assert store.failures() == [("5.wav", "broken", ""), ("70.wav", "broken", "")]


def test_a_store_is_opened_by_the_text_of_its_path(store: FeatureStore) -> None:
    assert FeatureStore(str(store.path)).read().digest == store.read().digest


def test_plain_zarr_reads_it(store: FeatureStore) -> None:
    group = zarr.open_group(store.path, mode="r")
    assert group["audio"].shape == (120, 1, 24)
    assert group["audio"].chunks == (120, 1, 24)
    assert group["path"][3] == "3.wav"
    assert group["errors/row"][:].tolist() == [5, 70]
    assert group["errors/reason"][0] == "broken"
    assert group["content_sha256"][3].tobytes().hex() == f"{4:064x}"
    assert group["folds/2/test"][:].tolist() == make_features().folds[1].test.tolist()
    assert group.attrs["class_names"] == ["class 0", "class 1", "class 2", "class 3"]
    assert group.attrs["fingerprint"] == "f" * 64


@settings(max_examples=20)
@given(
    values=arrays(np.float32, (3, 2, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    failed=st.sets(st.integers(0, 2)),
)
def test_any_rows_survive_the_round_trip(tmp_path_factory, values: np.ndarray, failed: set[int]) -> None:
    features = make_features(dim=4, n_views=2, n_classes=3, clips_per_class=1, n_folds=1)
    features = replace(features, audio=torch.from_numpy(values))
    features.usable[list(failed)] = False
    store = FeatureStore(write_sample(tmp_path_factory.mktemp("store") / "s.zarr", features))
    assert np.array_equal(store.audio(), values)
    assert store.read().usable.tolist() == [row not in failed for row in range(3)]


def test_rows_are_known_by_content_and_stretch() -> None:
    contents = np.arange(96, dtype=np.uint8).reshape(3, 32)
    whole = row_keys(contents, np.zeros(3), np.full(3, np.nan))
    assert np.array_equal(whole, contents)
    parts = row_keys(contents[[0, 0, 0]], np.array([0.0, 0.0, 1.0]), np.array([1.0, 2.0, np.nan]))
    assert len({key.tobytes() for key in (*whole, *parts)}) == 6


def test_a_store_without_labels_folds_and_text_is_a_store(tmp_path: Path) -> None:
    features = make_features()
    bare = replace(
        features,
        labels=torch.full_like(features.labels, -1),
        class_names=(),
        templates=(),
        folds=(),
        text=torch.zeros(0, 0, 24),
    )
    store = FeatureStore(write_sample(tmp_path / "s.zarr", bare))
    assert store.read().text.shape == (0, 0, 24)
    assert store.read().labels.unique().tolist() == [-1]
    assert store.problems() == []


def files_of(store: FeatureStore) -> list[Path]:
    return sorted(path for path in store.path.rglob("*") if path.is_file())


def test_no_damage_is_read_in_silence(store: FeatureStore, tmp_path: Path) -> None:
    """Bits flipped, files cut and files lost, anywhere: an error of ours, and ``problems`` names it."""
    whole, path = store.read(), tmp_path / "damaged.zarr"
    generator = np.random.default_rng(0)
    for file in files_of(store):
        content = file.read_bytes()
        flips = [bytearray(content) for _ in range(4)]
        for flipped in flips:
            flipped[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))
        for damaged in (*map(bytes, flips), content[:-1], b"", None):
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(store.path, path)
            target = path / file.relative_to(store.path)
            target.unlink() if damaged is None else target.write_bytes(damaged)
            try:
                opened = FeatureStore(path)
                problems = opened.problems()
            except StoreError:
                continue
            assert problems, file
            with suppress(StoreError):
                assert same(opened.read(), whole)  # what is damaged was not needed


@pytest.mark.parametrize("gone", [False, True])
def test_a_store_that_is_replaced_while_it_is_read_is_not_called_damaged(
    store: FeatureStore, gone: bool
) -> None:
    opened = [FeatureStore(store.path) for _ in range(4)]
    opened[0].labels()
    write_sample(store.path, make_features(n_classes=4, clips_per_class=9, seed=5))
    if gone:
        shutil.rmtree(store.path)
    reads = (opened[0].clip_names, opened[1].labels, opened[2].audio, lambda: opened[3].n_clips)
    for read in reads:
        with pytest.raises(StoreError, match=r"zarr: an extraction has replaced it while it was read; try"):
            read()
    assert any("missing" in problem or "bytes instead" in problem for problem in opened[1].problems())


def test_a_file_that_goes_while_files_are_checked_is_missing(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = store.folder.files()
    monkeypatch.setattr(LocalFolder, "files", lambda _: there)
    (store.path / "label/c/0").unlink()
    assert store.problems() == ["label/c/0 is missing"]


@pytest.mark.parametrize("array", ["audio", "text", "path", "label", "folds/1/train"])
def test_what_is_damaged_is_named_with_what_to_do(store: FeatureStore, array: str) -> None:
    file = next(file for file in sorted((store.path / array / "c").rglob("*")) if file.is_file())
    flip_bit(file)
    assert store.problems() == [f"{file.relative_to(store.path).as_posix()} is damaged"]
    with pytest.raises(DamagedStoreError, match=f"{array} is damaged .*make it anew, from what the cache"):
        (store.read(), store.clip_names())


def test_verify_names_infinite_rows_and_zero_vectors(tmp_path: Path) -> None:
    features = make_features()
    features.audio[3] = float("inf")
    features.audio[70] = 0
    store = FeatureStore(write_sample(tmp_path / "s.zarr", features))
    assert store.problems() == ["row 3: not finite", "row 70: a zero vector"]


def test_a_store_that_may_not_be_read_is_not_called_damaged(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: LocalFolder, name: str, *_: object) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(LocalFolder, "read", refuse)
    with pytest.raises(StoreError, match="cannot be read: stale file handle") as caught:
        FeatureStore(store.path)
    assert not isinstance(caught.value, DamagedStoreError)


def test_a_store_whose_root_cannot_be_read_again_is_not_called_replaced(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an extraction would make it anew."""
    read_file = LocalFolder.read

    def refuse(self: LocalFolder, name: str, *part: int) -> bytes:
        if name == "zarr.json":
            raise OSError(errno.EMFILE, "Too many open files")
        return read_file(self, name, *part)

    shutil.rmtree(store.path / "label")
    monkeypatch.setattr(LocalFolder, "read", refuse)
    for read in (store.check_steady, store.labels):
        with pytest.raises(StoreError, match="zarr: cannot be read: too many open files") as caught:
            read()
        assert not isinstance(caught.value, DamagedStoreError)


@pytest.mark.parametrize("looking", ["files", "read"])
def test_files_that_cannot_be_looked_at_are_not_called_damaged(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, looking: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(LocalFolder, looking, refuse)
    with pytest.raises(StoreError, match=r"zarr: .*cannot be read: too many open files") as caught:
        store.problems()
    assert not isinstance(caught.value, DamagedStoreError)


def test_a_store_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no feature store here; make it with: palm-cache extract"):
        FeatureStore(tmp_path / "nothing.zarr")


@pytest.mark.parametrize("content", ["", "{", '{"zarr_format": 3, "node_type": "group", "attributes": {}}'])
def test_a_folder_that_is_no_store_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(DamagedStoreError, match="not a readable feature store"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("made_with", value) for value in (None, ["torch"], {"torch": 2})],
        *[("descriptions", value) for value in ([], {"a": [1]}, {"a": "text"})],
        *[("templates", value) for value in ("{c}", [1], None)],
        *[("text_recipe", []), ("recipe", None), ("dim", True), ("views", "1"), ("seconds", "2"), ("id", 3)],
    ],
)
def test_a_header_that_cannot_be_is_damage_and_named(store: FeatureStore, field: str, value: object) -> None:
    file = store.path / "zarr.json"
    root = json.loads(file.read_bytes())
    root["attributes"][field] = value
    root["attributes"]["sha256"] = root_hash(root)
    file.write_text(json.dumps(root))
    with pytest.raises(DamagedStoreError, match=rf"not a readable feature store \({field} is "):
        FeatureStore(store.path)


def test_another_format_is_refused_by_its_number(store: FeatureStore) -> None:
    zarr.open_group(store.path, mode="r+").attrs["format_version"] = 99
    with pytest.raises(StoreError, match="store format 99, this palm-cache reads 2; update palm-cache"):
        FeatureStore(store.path)
    zarr.open_group(store.path, mode="r+").attrs["format_version"] = 1
    with pytest.raises(OlderFormatError, match=r"embeddings are taken over by .*: palm-cache extract"):
        FeatureStore(store.path)


def test_the_digest_follows_everything_a_head_depends_on(tmp_path: Path) -> None:
    base = make_features()
    variants = [
        base,
        replace(base, labels=base.labels.roll(1)),
        replace(base, templates=tuple(reversed(base.templates))),
        replace(base, text=base.text + 1),
        replace(base, fingerprint="0" * 64),
        replace(base, folds=base.folds[::-1]),
        replace(base, class_names=("a", "b", "c", "d")),
        make_features(failed=[0]),
    ]
    digests = {
        FeatureStore(write_sample(tmp_path / f"{number}.zarr", variant)).read().digest
        for number, variant in enumerate(variants)
    }
    assert len(digests) == len(variants)
    again = FeatureStore(write_sample(tmp_path / "again.zarr", base)).read().digest
    assert again in digests


def test_a_store_that_is_replaced_while_it_is_read_gives_no_mixture(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text = FeatureStore.text

    def replace_and_read(self: FeatureStore) -> np.ndarray:
        write_sample(store.path, make_features(seed=1))
        return read_text(self)

    monkeypatch.setattr(FeatureStore, "text", replace_and_read)
    with pytest.raises(StoreError, match="an extraction has replaced it while it was read; try again"):
        FeatureStore(store.path).read()


def test_a_store_is_replaced_whole_and_what_others_put_in_it_stays(store: FeatureStore) -> None:
    (store.path / "audio" / "thesis.tex").write_text("mine")
    (store.path / "notes").mkdir()
    (store.path / "notes" / "1.txt").write_text("mine too")
    write_sample(store.path, make_features(clips_per_class=4, seed=2))
    again = FeatureStore(store.path)
    assert again.n_clips == 16
    assert again.problems() == []
    assert (store.path / "audio" / "thesis.tex").read_text() == "mine"
    assert (store.path / "notes" / "1.txt").read_text() == "mine too"
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]


@pytest.mark.parametrize("scheme", ["", "memory://"])
@pytest.mark.parametrize("foreign", ["audio/song.wav", ".git/config", "zarr.json", "notes.txt"])
def test_what_is_no_store_is_never_replaced(tmp_path: Path, scheme: str, foreign: str) -> None:
    where = place(f"{scheme}{tmp_path}/mine")
    (where / foreign).parent.mkdir(parents=True, exist_ok=True)
    (where / foreign).write_text("{}")
    with pytest.raises(OutputError, match=r"there is something else here .* not a feature store"):
        write_sample(where, make_features())
    assert (where / foreign).read_text() == "{}"


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_store_claims_its_own_files_and_nothing_else(tmp_path: Path, scheme: str) -> None:
    where = place(f"{scheme}{tmp_path}/s.zarr")
    write_sample(where, make_features())
    ours = folder(where)
    assert claimed_files(ours) == set(ours.files())
    (where / "text" / "mine.txt").write_text("mine")
    ours.remove(claimed_files(ours))
    assert list(ours.files()) == ["text/mine.txt"]


def test_a_link_to_a_store_stays_one(tmp_path: Path) -> None:
    real = write_sample(tmp_path / "disk" / "s.zarr", make_features())
    (tmp_path / "link.zarr").symlink_to(real)
    write_sample(tmp_path / "link.zarr", make_features(seed=1))
    assert (tmp_path / "link.zarr").is_symlink()
    assert same(FeatureStore(real).read(), make_features(seed=1))


def test_writers_at_once_leave_one_whole_store(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    samples = [make_features(seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda features: [write_sample(path, features) for _ in range(5)], samples))
    found = FeatureStore(path)
    assert found.problems() == []
    assert any(same(found.read(), features) for features in samples)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    machine, _, _ = this_writer().partition("-")
    writers = f"{machine}-{2**22 + 1}", this_writer()
    left, alive = (tmp_path / f".s.zarr.{writer}.{0:08x}.partial" for writer in writers)
    for work in (left, alive):
        (work / "store" / "audio").mkdir(parents=True)
        (work / "store" / "zarr.json").touch()
    (tmp_path / ".mine.partial").mkdir()  # of somebody else
    write_sample(tmp_path / "s.zarr", make_features())
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, ".mine.partial", "s.zarr"}


@pytest.mark.parametrize("absent", [{}, {"output": None}, {"output": ""}])
def test_what_only_one_recipe_names_is_told_as_that(absent: dict[str, object]) -> None:
    assert list(differences(absent, {"output": "vector"})) == ["with output vector"]
    assert list(differences({"output": "vector"}, absent)) == ["no more output vector"]
