from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch

from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads import find_head
from palm_cache.errors import DamagedStoreError, DataError, OutputError, StoreError, UnknownNameError
from palm_cache.params import FitParams
from palm_cache.store.heads import (
    Origin,
    choose_run,
    read_head,
    read_heads,
    read_runs,
    run_name,
    write_calibrations,
    write_heads,
)
from palm_cache.types import Calibration, Features, FittedHead, Run, Training


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


def test_one_head_is_read_alone_with_where_it_comes_from(fitted: list[FittedHead], tmp_path: Path) -> None:
    path = tmp_path / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"), identity={"precision": "bf16"}, views=3)
    assert set(read_runs(path)) == {head.run for head in fitted}
    head, origin = read_head(path, fitted[-1].run)
    assert head.run == fitted[-1].run
    assert head.state.keys() == fitted[-1].state.keys()
    assert all(torch.equal(head.state[name], value) for name, value in fitted[-1].state.items())
    assert origin == Origin(Path("store.zarr"), {"precision": "bf16"}, 3)


def test_a_file_that_does_not_say_which_encoder_is_still_read(
    fitted: list[FittedHead], tmp_path: Path
) -> None:
    path = tmp_path / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"))
    with h5py.File(path, "r+") as file:
        del file.attrs["identity"], file.attrs["views"]
    assert read_head(path, fitted[0].run)[1] == Origin(Path("store.zarr"), {}, 1)


def test_a_calibration_is_kept_beside_its_run_and_changes_nothing_else(
    fitted: list[FittedHead], tmp_path: Path
) -> None:
    path = tmp_path / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"), identity={"a": 1})
    before, _ = read_heads(path)
    calibration = Calibration(3.5, n_clips=16, n_splits=4, loss_before=2.0, loss=0.5)
    write_calibrations(path, {fitted[2].run: calibration})
    after, _ = read_heads(path)
    assert read_head(path, fitted[2].run)[1].identity == {"a": 1}
    for one, other in zip(before, after, strict=True):
        assert other.calibration == (calibration if other.run == fitted[2].run else None)
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    write_heads(path, after, Path("store.zarr"))  # as fit does with heads that it keeps
    assert read_head(path, fitted[2].run)[0].calibration == calibration


def test_a_temperature_must_be_a_temperature() -> None:
    with pytest.raises(DataError, match=r"temperature 0\.0 must be above 0 and finite"):
        Calibration(0.0, 1, 1, 1.0, 1.0)


def runs_of(*names: str) -> list[Run]:
    found = []
    for name in names:
        head, shots, fold, seed = name.split()
        found.append(Run("demo", "mini", head, int(shots), int(fold), int(seed)))
    return found


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, "palm-16shots-fold1-seed0"),
        ("palm", "palm-16shots-fold1-seed0"),
        ("palm-4shots", "palm-4shots-fold2-seed1"),
        ("palm-16shots-fold1-seed10", "palm-16shots-fold1-seed10"),
        ("palm-16shots-fold1-seed1", "palm-16shots-fold1-seed1"),
        ("coop", "coop-32shots-fold1-seed0"),
        ("zero-shot", "zero-shot-0shots-fold1-seed0"),
        ("palm-dagger", "palm-dagger-0shots-fold1-seed0"),
    ],
)
def test_the_run_that_is_meant(wanted: str | None, expected: str) -> None:
    runs = runs_of(
        *("zero-shot 0 1 0", "palm-dagger 0 1 0", "coop 32 1 0", "palm 4 2 1", "palm 16 2 0"),
        *("palm 16 1 10", "palm 16 1 1", "palm 16 1 0"),
    )
    assert run_name(choose_run(runs, wanted)) == expected
    assert run_name(choose_run(reversed(runs), wanted)) == expected


def test_without_palm_a_head_that_learns_comes_first() -> None:
    runs = runs_of("zero-shot 0 1 0", "linear-probe 4 1 0", "knn 8 1 0", "knn 4 1 0")
    assert run_name(choose_run(runs)) == "knn-8shots-fold1-seed0"
    assert run_name(choose_run(runs[:1])) == "zero-shot-0shots-fold1-seed0"


@pytest.mark.parametrize(
    ("wanted", "hint"), [("plam", "did you mean palm"), ("palm-8shots", "did you mean palm-4shots")]
)
def test_a_run_that_is_not_there_is_named_with_its_near_matches(wanted: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown run '{wanted}'; {hint}"):
        choose_run(runs_of("palm 4 1 0", "coop 4 1 0"), wanted)
