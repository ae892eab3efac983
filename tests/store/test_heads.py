from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch

from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads import find_head
from palm_cache.errors import DamagedStoreError, OutputError, StoreError
from palm_cache.params import FitParams
from palm_cache.store.heads import read_heads, run_name, write_heads
from palm_cache.types import Features, FittedHead, Training


@pytest.fixture
def fitted(features: Features) -> list[FittedHead]:
    heads = ("zero-shot", "palm", "knn", "linear-probe", "tip-adapter", "muka")
    params = FitParams(heads=heads, shots=(4,), seeds=(0, 1), training=Training(epochs=2))
    return fit_runs(replace(features, parts=(10, 14)), params)[0]


def test_reloaded_heads_predict_the_same_logits(
    fitted: list[FittedHead], features: Features, tmp_path: Path
) -> None:
    write_heads(tmp_path / "heads.h5", fitted, Path("some/store.zarr"))
    reloaded, stores = read_heads(tmp_path / "heads.h5")
    assert stores == (Path("some/store.zarr"),)
    by_run = {head.run: head for head in reloaded}
    assert set(by_run) == {head.run for head in fitted}
    for head in fitted:
        again = by_run[head.run]
        logits = find_head(head.run.head).logits
        assert torch.equal(
            logits(head.state, features.audio[:, 0]), logits(again.state, features.audio[:, 0])
        )
        for name in (
            "class_names",
            "template",
            "hyperparameters",
            "fingerprint",
            "digest",
            "n_train",
            "n_params",
        ):
            assert getattr(again, name) == getattr(head, name)


def test_joined_stores_are_all_remembered(fitted: list[FittedHead], tmp_path: Path) -> None:
    stores = (Path("some/store.zarr"), Path("other.zarr"))
    write_heads(tmp_path / "heads.h5", fitted, *stores)
    assert read_heads(tmp_path / "heads.h5")[1] == stores


def test_a_group_can_be_read_without_palm_cache(fitted: list[FittedHead], tmp_path: Path) -> None:
    write_heads(tmp_path / "heads.h5", fitted, Path("store.zarr"))
    with h5py.File(tmp_path / "heads.h5") as file:
        group = file["palm-4shots-fold1-seed0"]
        assert group["class_embeddings"].shape == (4, 24)
        assert list(group.attrs["class_names"]) == ["class 0", "class 1", "class 2", "class 3"]
        assert group.attrs["encoder"] == "mini"


def test_run_names_are_unique(fitted: list[FittedHead]) -> None:
    assert len({run_name(head.run) for head in fitted}) == len(fitted)


def test_a_file_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no heads here; fit some with: palm-cache fit"):
        read_heads(tmp_path / "heads.h5")


def test_a_truncated_file_is_named(fitted: list[FittedHead], tmp_path: Path) -> None:
    path = tmp_path / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DamagedStoreError, match=r"heads\.h5: not a readable heads file"):
        read_heads(path)


def test_a_failed_write_leaves_the_old_file(fitted: list[FittedHead], tmp_path: Path) -> None:
    path = tmp_path / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"))
    before = path.read_bytes()
    broken = fitted[0].__class__(
        **{name: getattr(fitted[0], name) for name in fitted[0].__slots__} | {"state": {"x": None}}
    )
    with pytest.raises(AttributeError):
        write_heads(path, [broken], Path("store.zarr"))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["heads.h5"]


def test_a_place_that_cannot_be_written_is_named(fitted: list[FittedHead], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write: .*choose another folder with --out"):
        write_heads(tmp_path / "file" / "heads.h5", fitted, Path("store.zarr"))
