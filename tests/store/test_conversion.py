from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import assert_same, flip_bit, make_features, read_arrays, write_palm_folder, write_sample
from upath import UPath

from palm_cache.errors import DamagedStoreError, OutputError, ParameterError, StoreError
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.extraction.whereabouts import locate
from palm_cache.store import conversion as exporting
from palm_cache.store.conversion import export
from palm_cache.store.features import FeatureStore, fold_parts
from palm_cache.store.layout import STORE_ROOT
from palm_cache.store.places import place
from palm_cache.store.places.remote import RemoteFolder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two views, two clips that failed."""
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
            assert np.array_equal(stored, values, equal_nan=values.dtype.kind == "f"), name
        assert file["class_names"].asstr()[:].tolist() == [f"class {number}" for number in range(4)]
        assert json.loads(file["header"][()])["fingerprint"] == "f" * 64
    assert export(tmp_path / "x.h5", tmp_path / "back.zarr") == 120
    assert_same(read_arrays(tmp_path / "back.zarr"), arrays)
    assert FeatureStore(tmp_path / "back.zarr").read().digest == FeatureStore(store).read().digest


def test_npz_is_read_by_numpy_without_unpickling(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "x.npz")
    arrays = read_arrays(store)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        errors = dict(zip(arrays.pop("errors/row"), arrays.pop("errors/reason"), strict=True))
        assert {row: error for row, error in enumerate(file["error"]) if error} == errors
        assert file["content_sha256"].tolist() == [
            one.tobytes().hex() for one in arrays.pop("content_sha256")
        ]
        for name, values in arrays.items():
            key = name.replace("folds/", "fold_").replace("/", "_")
            assert np.array_equal(file[key], values, equal_nan=values.dtype.kind == "f")
        assert json.loads(str(file["header"]))["templates"] == file["templates"].tolist()


def test_parquet_has_a_row_per_clip(store: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export(store, tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    arrays = read_arrays(store)
    assert table.column_names == [
        *("path", "start", "end", "label", "content_sha256", "error", "class_name"),
        *("embedding", "embedding_1"),
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
    assert fold_parts(fold, 4).tolist() == ["train", "both", "test", None]


def test_a_copy_is_the_same_file_by_file(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "new" / "copy.zarr")
    assert files(tmp_path / "new" / "copy.zarr") == files(store)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy.zarr"]


def test_a_copy_finds_the_dataset_from_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a project a store says where its dataset lies from its own folder on."""
    monkeypatch.chdir(tmp_path)
    audio = write_palm_folder(tmp_path / "data" / "raw" / "Tones")
    store = tmp_path / "data" / "features" / "Tones" / "mini.zarr"
    extract(read_dataset(str(audio)), "mini", store)
    assert FeatureStore(store).header.source == str(audio)
    for copy in (tmp_path / "copy.zarr", tmp_path.parent / f"{tmp_path.name} copies" / "a" / "copy.zarr"):
        export(store, copy)
        opened = FeatureStore(copy)
        assert opened.header.source == str(audio)
        assert opened.problems() == []
        names = opened.clip_names()
        assert set(locate(opened.header, names)) == set(names)


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
    assert_same(read_arrays(tmp_path / "again.zarr"), read_arrays(store))


@pytest.mark.parametrize("ending", list(exporting.FORMATS))
@pytest.mark.parametrize("trouble", ["damaged", "killed", "replaced"])
def test_what_cannot_be_finished_leaves_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, trouble: str
) -> None:
    target = tmp_path / "out" / f"x{ending}"

    def meddle(self: FeatureStore) -> None:
        if trouble == "killed":
            raise KeyboardInterrupt
        write_sample(store, make_features(n_views=2, seed=3))
        check_steady(self)

    check_steady = FeatureStore.check_steady
    if trouble == "damaged":
        flip_bit(store / "audio" / "c" / "0" / "0" / "0")
    else:
        monkeypatch.setattr(FeatureStore, "check_steady", meddle)
    with pytest.raises((StoreError, KeyboardInterrupt)) as caught:
        export(store, target)
    said = {"damaged": "is damaged", "killed": "", "replaced": "has replaced it while it was read"}[trouble]
    assert said in str(caught.value)
    assert not target.parent.exists() or list(target.parent.iterdir()) == []


def test_nothing_is_overwritten(store: Path, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_text("mine")
    with pytest.raises(OutputError, match=r"x\.h5: there is something here already; remove it or choose"):
        export(store, tmp_path / "x.h5")
    with pytest.raises(OutputError, match="there is something here already"):
        export(store, store)
    assert (tmp_path / "x.h5").read_text() == "mine"


@pytest.fixture
def exported(store: Path, tmp_path: Path) -> Path:
    export(store, tmp_path / "x.h5")
    return tmp_path / "x.h5"


@pytest.mark.parametrize(
    "kind", ["external storage", "external link", "soft link", "virtual", "huge", "short", "nan", "deep"]
)
def test_an_hdf5_that_points_elsewhere_or_claims_too_much_is_refused(
    exported: Path, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"s" * 120 * 2 * 24 * 4)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["audio"] = np.ones((120, 2, 24), np.float32)
    with h5py.File(exported, "a") as file:
        del file["audio"]
        if kind == "external storage":
            size = 120 * 2 * 24 * 4
            file.create_dataset("audio", (120, 2, 24), "float32", external=[(str(secret), 0, size)])
        elif kind == "external link":
            file["audio"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "audio")
        elif kind == "soft link":
            file["audio"] = h5py.SoftLink("/text")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((120, 2, 24), "float32")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "audio", (120, 2, 24))
            file.create_virtual_dataset("audio", layout)
        elif kind == "nan":
            file.create_dataset("audio", data=np.full((120, 2, 24), np.nan, np.float32))
        elif kind == "deep":
            del file["header"]
            file["header"] = "[" * 100_000
        elif kind == "huge":
            file.create_dataset("audio", (10**9, 2, 24), "float32", chunks=(64, 2, 24))
        else:
            file.create_dataset("audio", (120, 2, 24), "float32", chunks=(64, 2, 24))  # nothing is stored
    with pytest.raises(DamagedStoreError, match=r"x\.h5: not an exported feature store"):
        export(exported, tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()


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
    put = RemoteFolder._put

    def interrupt(self: RemoteFolder, built: Path, names: list[str]) -> None:
        if STORE_ROOT in names:
            raise KeyboardInterrupt
        put(self, built, names)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "_put", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(store, away)
    assert (away / "audio" / "zarr.json").exists()
    with pytest.raises(StoreError, match="no feature store here"):
        FeatureStore(away)
    write_sample(away, make_features())  # what is there says that it is ours
    assert FeatureStore(away).problems() == []
