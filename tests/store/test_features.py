from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samples import make_features, write_sample

from palm_cache.errors import DamagedStoreError, StoreError
from palm_cache.store.features import CHUNK_CLIPS, FeatureStore
from palm_cache.types import Features


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Two chunks: 120 clips."""
    return FeatureStore(write_sample(tmp_path / "features.zarr", make_features(failed=[5, 70])))


def chunk_file(store: FeatureStore, chunk: int, array: str = "audio") -> Path:
    return store.path / array / "c" / str(chunk) / ("0/0" if array == "audio" else "")


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
    assert store.failures() == [("5.wav", "broken"), ("70.wav", "broken")]


def test_plain_zarr_reads_it(store: FeatureStore) -> None:
    group = zarr.open_group(store.path, mode="r")
    assert group["audio"].shape == (120, 1, 24)
    assert group["audio"].chunks == (CHUNK_CLIPS, 1, 24)
    assert group["path"][3] == "3.wav"
    assert group["error"][5] == "broken"
    assert group["folds/2/test"][:].tolist() == make_features().folds[1].test.tolist()
    assert group.attrs["class_names"] == ["class 0", "class 1", "class 2", "class 3"]
    assert group.attrs["fingerprint"] == "f" * 64


@settings(max_examples=20, deadline=None)
@given(
    values=arrays(np.float32, (3, 2, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    error=st.text(max_size=20),
)
def test_any_chunk_survives_the_round_trip(tmp_path_factory, values: np.ndarray, error: str) -> None:
    features = replace(
        make_features(dim=4, n_views=2, n_classes=3, clips_per_class=1, n_folds=1), dataset="round trip"
    )
    store = FeatureStore(write_sample(tmp_path_factory.mktemp("store") / "s.zarr", features))
    store.write_chunk(0, values, ["a", "b", "c"], ["", error, ""])
    assert np.array_equal(store.read_chunk(0), values)
    assert store.hashes_and_errors(0) == (["a", "b", "c"], ["", error, ""])


def test_a_chunk_whose_clips_all_failed_is_done_too(tmp_path: Path) -> None:
    store = FeatureStore(write_sample(tmp_path / "s.zarr", make_features(failed=range(64))))
    assert store.missing() == []
    assert store.problems() == []


def test_the_commit_mark_is_written_last_and_can_be_taken_back(store: FeatureStore) -> None:
    store.uncommit(1)
    assert store.committed() == {0}
    assert store.missing() == [1]
    with pytest.raises(StoreError, match="1 of 2 chunks are not extracted yet; finish it with"):
        store.read()


def test_a_killed_writers_temporary_file_is_no_commit_mark_and_is_removed(store: FeatureStore) -> None:
    store.uncommit(1)
    leftover = chunk_file(store, 0).with_name("0.abc.partial")
    leftover.write_bytes(b"half")
    (store.path / "audio" / "c" / "1" / "0").mkdir(parents=True, exist_ok=True)
    (store.path / "audio" / "c" / "1" / "0" / "0.def.partial").write_bytes(b"half")
    assert store.missing() == [1]
    store.remove_leftovers()
    assert not leftover.exists()


@pytest.mark.parametrize("array", ["audio", "content_sha256", "error"])
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_chunk_is_named(store: FeatureStore, array: str, damage: str) -> None:
    file = chunk_file(store, 1, array)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    file.write_bytes(content if damage == "flip" else content[:10])
    problems = store.problems()
    assert len(problems) == 1
    assert f"chunk 1 of {array} is damaged" in problems[0]
    assert "rows 64-119" in problems[0]
    where = "chunk 1 of audio" if array == "audio" else array
    with pytest.raises(DamagedStoreError, match=f": {where} is damaged"):
        store.read()


@pytest.mark.parametrize("array", ["text", "path", "label", "folds/1/train"])
def test_a_damaged_small_array_is_named(store: FeatureStore, array: str) -> None:
    file = next(file for file in sorted((store.path / array / "c").rglob("*")) if file.is_file())
    content = bytearray(file.read_bytes())
    content[1] ^= 1
    file.write_bytes(content)
    assert any(f"{array} is damaged" in problem for problem in store.problems())


def test_verify_names_missing_chunks_infinite_rows_and_zero_vectors(tmp_path: Path) -> None:
    features = make_features()
    features.audio[3] = float("inf")
    features.audio[70] = 0
    store = FeatureStore(write_sample(tmp_path / "s.zarr", features))
    assert store.problems() == ["row 3: not finite", "row 70: a zero vector"]
    store.uncommit(1)
    assert store.problems() == ["chunk 1 is missing (rows 64-119)", "row 3: not finite"]


def test_a_store_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no feature store here; make it with: palm-cache extract"):
        FeatureStore(tmp_path / "nothing.zarr")


@pytest.mark.parametrize("content", ["", "{", '{"zarr_format": 3, "node_type": "group", "attributes": {}}'])
def test_a_folder_that_is_no_store_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(DamagedStoreError, match="not a readable feature store"):
        FeatureStore(tmp_path)


def test_another_format_is_refused_by_its_number(store: FeatureStore) -> None:
    zarr.open_group(store.path, mode="r+").attrs["format_version"] = 99
    with pytest.raises(StoreError, match="store format 99, this palm-cache reads 1"):
        FeatureStore(store.path)


def test_the_digest_follows_everything_a_head_depends_on(tmp_path: Path) -> None:
    base = make_features()
    variants = [
        base,
        replace(base, labels=base.labels.roll(1)),
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


@pytest.mark.parametrize("what", ["chunk", "store"])
def test_a_store_that_is_written_to_while_it_is_read_gives_no_mixture(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    other = write_sample(tmp_path / "other.zarr", replace(make_features(seed=1), fingerprint="0" * 64))
    read_audio = FeatureStore._read_audio

    def change_and_read(self: FeatureStore) -> np.ndarray:
        if what == "chunk":
            self.write_chunk(0, np.ones((64, 1, 24), np.float32), ["new"] * 64, [""] * 64)
        else:
            store.path.rename(tmp_path / "old.zarr")
            other.rename(store.path)
        return read_audio(self)

    monkeypatch.setattr(FeatureStore, "_read_audio", change_and_read)
    with pytest.raises(StoreError, match="an extraction has written to it while it was read; wait for it"):
        FeatureStore(store.path).read()


def test_the_digest_is_known_without_the_embeddings(store: FeatureStore) -> None:
    assert store.digest() == store.read().digest
