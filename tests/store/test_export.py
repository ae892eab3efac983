from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import assert_same, flip_bit, make_features, read_arrays, write_sample
from upath import UPath

from palm_cache.errors import DamagedStoreError, OutputError, ParameterError, StoreError
from palm_cache.store import export as exporting
from palm_cache.store.export import export
from palm_cache.store.features import FeatureStore
from palm_cache.store.places import place


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two chunks, two views, two clips that failed."""
    return write_sample(tmp_path / "features.zarr", make_features(n_views=2, failed=[5, 70]))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_hdf5_holds_everything_and_becomes_the_same_store_again(store: Path, tmp_path: Path) -> None:
    assert export(store, tmp_path / "x.h5") == 120
    arrays = read_arrays(store)
    with h5py.File(tmp_path / "x.h5") as file:
        for name, values in arrays.items():
            stored = file[name].asstr()[:] if values.dtype.kind == "T" else file[name][:]
            assert np.array_equal(stored, values), name
        assert file["class_names"].asstr()[:].tolist() == [f"class {number}" for number in range(4)]
        assert json.loads(file["header"][()])["fingerprint"] == "f" * 64
    assert export(tmp_path / "x.h5", tmp_path / "back.zarr") == 120
    assert_same(read_arrays(tmp_path / "back.zarr"), arrays)
    assert files(tmp_path / "back.zarr") == files(store)


def test_npz_is_read_by_numpy_without_unpickling(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "x.npz")
    arrays = read_arrays(store)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        for name, values in arrays.items():
            key = name.replace("folds/", "fold_").replace("/", "_")
            assert file[key].tolist() == values.tolist()
        assert json.loads(str(file["header"]))["templates"] == file["templates"].tolist()


def test_parquet_has_a_row_per_clip(store: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export(store, tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    arrays = read_arrays(store)
    assert table.column_names == [
        *("path", "label", "class_name", "content_sha256", "error", "embedding", "embedding_1"),
        *("fold_1", "fold_2", "fold_3"),
    ]
    rows = table.to_pylist()
    for view, name in enumerate(("embedding", "embedding_1")):
        found = np.array([row[name] for row in rows], dtype=np.float32)
        assert np.array_equal(found, arrays["audio"][:, view])
    assert [row["class_name"] for row in rows[:3]] == ["class 0", "class 1", "class 2"]
    assert [row for row, clip in enumerate(rows) if clip["error"]] == [5, 70]
    test = [row for row, clip in enumerate(rows) if clip["fold_2"] == "test"]
    assert test == sorted(arrays["folds/2/test"].tolist())
    header = json.loads(table.schema.metadata[b"palm_cache"])
    assert header == json.loads(json.dumps(asdict(FeatureStore(store).header)))


def test_a_clip_may_be_in_both_tables_of_a_fold_or_in_none() -> None:
    import torch

    from palm_cache.types import Fold

    fold = Fold(torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert exporting._parts(fold, 4) == ["train", "train and test", "test", None]


def test_a_copy_is_the_same_file_by_file(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "new" / "copy.zarr")
    assert files(tmp_path / "new" / "copy.zarr") == files(store)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy.zarr"]


def test_a_store_goes_into_a_bucket_and_comes_back(store: Path, tmp_path: Path, bucket: str) -> None:
    away = place(f"{bucket}/deep/copy.zarr")
    export(store, away)
    assert FeatureStore(away).read().digest == FeatureStore(store).read().digest
    export(away, place(f"{bucket}/other.zarr"))
    export(place(f"{bucket}/other.zarr"), tmp_path / "back.zarr")
    assert files(tmp_path / "back.zarr") == files(store)
    export(away, place(f"{bucket}/x.h5"))
    export(place(f"{bucket}/x.h5"), place(f"memory://{tmp_path.name}/again.zarr"))
    export(place(f"memory://{tmp_path.name}/again.zarr"), tmp_path / "again.zarr")
    assert files(tmp_path / "again.zarr") == files(store)


@pytest.mark.parametrize("ending", list(exporting.FORMATS))
@pytest.mark.parametrize("trouble", ["damaged", "killed", "written to"])
def test_what_cannot_be_finished_leaves_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, trouble: str
) -> None:
    target = tmp_path / "out" / f"x{ending}"
    read_chunk, read_audio = FeatureStore.read_chunk, FeatureStore._read_audio

    def meddle(self: FeatureStore) -> None:
        if trouble == "killed":
            raise KeyboardInterrupt
        if trouble == "written to":
            FeatureStore(store).write_chunk(1, read_chunk(self, 1), ["other"] * 56, [""] * 56)

    def read_one(self: FeatureStore, chunk: int) -> np.ndarray:
        meddle(self)
        return read_chunk(self, chunk)

    def read_all(self: FeatureStore) -> np.ndarray:
        meddle(self)
        return read_audio(self)

    if trouble == "damaged":
        flip_bit(store / "audio" / "c" / "1" / "0" / "0")
    else:
        monkeypatch.setattr(FeatureStore, "read_chunk", read_one)
        monkeypatch.setattr(FeatureStore, "_read_audio", read_all)
    with pytest.raises((StoreError, KeyboardInterrupt)) as caught:
        export(store, target)
    said = {"damaged": "chunk 1 of audio is damaged", "killed": "", "written to": "has written to it"}[
        trouble
    ]
    assert said in str(caught.value)
    assert list(tmp_path.glob("out/x*")) == []


def test_nothing_is_overwritten(store: Path, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_text("mine")
    with pytest.raises(OutputError, match=r"x\.h5: there is something here already; remove it or choose"):
        export(store, tmp_path / "x.h5")
    with pytest.raises(OutputError, match="there is something here already"):
        export(store, store)
    assert (tmp_path / "x.h5").read_text() == "mine"


def test_an_unfinished_store_is_not_exported(store: Path, tmp_path: Path) -> None:
    FeatureStore(store).uncommit(1)
    with pytest.raises(StoreError, match="1 of 2 chunks are not extracted yet"):
        export(store, tmp_path / "x.zarr")


def test_mistakes_are_named(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match=r"x\.csv: the ending says the format; known: \.zarr, \.h5"):
        export(store, tmp_path / "x.csv")
    with pytest.raises(StoreError, match=r"gone\.h5: no such file"):
        export(tmp_path / "gone.h5", tmp_path / "x.zarr")
    export(store, tmp_path / "x.h5")
    with pytest.raises(ParameterError, match=r"an exported \.h5 becomes a \.zarr again"):
        export(tmp_path / "x.h5", tmp_path / "x.npz")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["text"]
    with pytest.raises(DamagedStoreError, match=r"x\.h5: not an exported feature store"):
        export(tmp_path / "x.h5", tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()
    shutil.copy(store / "zarr.json", tmp_path / "other.h5")
    with pytest.raises(DamagedStoreError, match=r"other\.h5: not an exported feature store"):
        export(tmp_path / "other.h5", tmp_path / "x.zarr")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ParameterError, match=r"Parquet needs pyarrow: pip install 'palm-cache\[parquet\]'"):
        export(store, tmp_path / "x.parquet")


def test_a_copy_in_a_bucket_is_there_only_when_it_is_whole(
    store: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = place(f"{bucket}/copy.zarr")
    assert isinstance(away, UPath)

    def interrupt(self: FeatureStore, digest: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_check_steady", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(store, away)
    assert (away / "audio" / "zarr.json").exists()
    with pytest.raises(StoreError, match="no feature store here"):
        FeatureStore(away)
