from __future__ import annotations

import multiprocessing
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import h5py
import pytest
import torch
from samples import make_features

from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads import find_head
from palm_cache.errors import DamagedStoreError, DataError, OutputError, StoreError
from palm_cache.params import FitParams
from palm_cache.store.head_writing import add_heads, write_calibrations, write_heads
from palm_cache.store.heads import Origin, opened_heads, read_head, read_heads, read_runs
from palm_cache.store.places import place
from palm_cache.store.run_names import choose_run, run_name
from palm_cache.types import Features
from palm_cache.types.runs import Calibration, FittedHead, Run, Training


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
        group = file["palm@epochs=2-4shots-fold1-seed0"]
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
    with pytest.raises(OutputError, match=r"cannot write: .*choose another folder with out"):
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
        file.attrs["format_version"] = 1
        del file.attrs["identity"], file.attrs["views"]
    head, origin = read_head(path, replace(fitted[0].run))
    assert origin == Origin(Path("store.zarr"), {}, 1)
    assert head.run == fitted[0].run


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


def test_a_calibration_is_written_without_writing_any_other_run_anew(
    fitted: list[FittedHead], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"))
    monkeypatch.setattr(h5py.Group, "create_dataset", lambda *_, **__: pytest.fail("written anew"))
    calibration = Calibration(3.5, n_clips=16, n_splits=4, loss_before=2.0, loss=0.5)
    write_calibrations(path, {fitted[2].run: calibration})
    with opened_heads(path) as opened:
        assert opened.calibrations() == {fitted[2].run: calibration}
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)  # a damaged file must not be sealed anew, as if it were whole
    with pytest.raises(DamagedStoreError, match="its bytes have changed"):
        write_calibrations(path, {fitted[3].run: calibration})
    assert path.read_bytes() == content


def test_a_temperature_must_be_a_temperature() -> None:
    with pytest.raises(DataError, match=r"temperature 0\.0 must be above 0 and finite"):
        Calibration(0.0, 1, 1, 1.0, 1.0)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[Run, FittedHead]]:
    """The bytes of a heads file and what is in it."""
    params = FitParams(heads=("zero-shot", "palm", "knn"), shots=(2,), seeds=(0,), folds=(1, 2))
    fitted = fit_runs(make_features(n_classes=3), params)[0]
    fitted[2] = replace(fitted[2], calibration=Calibration(3.5, 16, 4, 2.0, 0.5))
    path = tmp_path_factory.mktemp("sealed") / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"), identity={"dim": 24})
    return path.read_bytes(), {head.run: head for head in fitted}


def same(one: FittedHead, other: FittedHead) -> bool:
    plain = [name for name in FittedHead.__dataclass_fields__ if name != "state"]
    return one.state.keys() == other.state.keys() and (
        all(torch.equal(one.state[name], other.state[name]) for name in one.state)
        and all(getattr(one, name) == getattr(other, name) for name in plain)
    )


def test_a_flipped_bit_anywhere_is_found_and_never_gives_other_numbers(
    sealed: tuple[bytes, dict[Run, FittedHead]], tmp_path: Path
) -> None:
    whole, heads = sealed
    path = tmp_path / "heads.h5"
    path.write_bytes(whole)
    assert all(same(read_head(path, run)[0], head) for run, head in heads.items())
    random = Random(0)
    usable = []
    for _ in range(150):
        content = bytearray(whole)
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
        with pytest.raises(DamagedStoreError, match=r"heads\.h5"):
            read_heads(path)
        found = 0
        for run, head in heads.items():
            with suppress(DamagedStoreError):
                assert same(read_head(path, run)[0], head)
                found += 1
        usable.append(found)
    # One bit lies in one run, in none, or, seldom, in what holds the file together.
    assert sum(count >= len(heads) - 1 for count in usable) > 120


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut_is_damaged(
    sealed: tuple[bytes, dict[Run, FittedHead]], tmp_path: Path, share: float
) -> None:
    path = tmp_path / "heads.h5"
    path.write_bytes(sealed[0][: int(share * len(sealed[0]))])
    with pytest.raises(DamagedStoreError, match=r"heads\.h5"):
        read_heads(path)


def damage(path: Path, run: Run) -> None:
    """Change one number of a run, without HDF5 noticing."""
    numbers = read_head(path, run)[0].state["class_embeddings"].numpy().tobytes()
    content = path.read_bytes()
    path.write_bytes(content.replace(numbers, bytes([numbers[0] ^ 1]) + numbers[1:]))


def test_of_a_damaged_file_the_run_is_named_and_the_others_can_be_used(
    sealed: tuple[bytes, dict[Run, FittedHead]], tmp_path: Path
) -> None:
    path = tmp_path / "heads.h5"
    path.write_bytes(sealed[0])
    runs = read_runs(path)
    victim = choose_run(runs)
    damage(path, victim)
    assert set(read_runs(path)) == set(runs)
    assert choose_run(read_runs(path)) == victim  # another is not taken in its place, unsaid
    with pytest.raises(DamagedStoreError, match=r"is damaged .its checksum fails.; choose another"):
        read_head(path, victim)
    with pytest.raises(DamagedStoreError, match=rf"damaged: {run_name(victim)}; 5 runs can be used"):
        read_heads(path)
    others = [run for run in runs if run != victim]
    assert all(same(read_head(path, run)[0], sealed[1][run]) for run in others)


def test_fitting_into_a_damaged_file_keeps_what_is_sound_and_says_what_is_not(
    sealed: tuple[bytes, dict[Run, FittedHead]], tmp_path: Path
) -> None:
    path, heads = tmp_path / "heads.h5", sealed[1]
    path.write_bytes(sealed[0])
    victim, added = choose_run(read_runs(path)), replace(next(iter(heads)), seed=77)
    damage(path, victim)
    notes = add_heads(path, [replace(heads[victim], run=added)], Path("store.zarr"))
    assert notes == [f"{path}: damaged and dropped, fit again what you need: {run_name(victim)}"]
    assert {head.run for head in read_heads(path)[0]} == {*heads, added} - {victim}


def add_some(path: Path, head: FittedHead, first: int) -> None:
    for seed in range(first, first + 4):
        add_heads(path, [replace(head, run=replace(head.run, seed=seed))], Path("store.zarr"))


def test_heads_that_many_processes_add_at_once_are_all_kept(fitted: list[FittedHead], tmp_path: Path) -> None:
    path = tmp_path / "new" / "heads.h5"
    context = multiprocessing.get_context("spawn")
    adding = [context.Process(target=add_some, args=(path, fitted[0], first)) for first in (0, 4, 8)]
    for process in adding:
        process.start()
    for process in adding:
        process.join()
    assert sorted(run.seed for run in read_runs(path)) == list(range(12))


@pytest.mark.parametrize(
    "change",
    [
        {"run": Run("../../escaped", "mini", "palm", 4, 1, 0)},
        {"run": Run("demo", "..", "palm", 4, 1, 0)},
        {"state": {"class_embeddings": torch.full((4, 24), float("nan"))}},
        {"state": {"class_embeddings": torch.full((4, 24), float("inf"))}},
    ],
)
def test_a_head_that_cannot_be_is_refused_by_name(
    fitted: list[FittedHead], tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "heads.h5"
    head = replace(fitted[-1], **change)  # type: ignore[arg-type]
    write_heads(path, [fitted[0], head], Path("store.zarr"))
    with pytest.raises(DamagedStoreError, match=f"run {run_name(head.run)} is damaged"):
        read_head(path, head.run)
    assert same(read_head(path, fitted[0].run)[0], fitted[0])


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (
            "calibration",
            '{"temperature": 1, "n_clips": 1, "n_splits": 1, "loss_before": 1, "loss": 1, "x": 1}',
        ),
        ("calibration", '{"temperature": -1, "n_clips": 1, "n_splits": 1, "loss_before": 1, "loss": 1}'),
        ("calibration", "[" * 100_000),
        ("hyperparameters", "3"),
        ("template", 3),
        ("n_train", "three"),
        ("seed", "0"),
        ("seed", 1),
        ("head", "../palm"),
        ("class_names", 7),
    ],
)
def test_a_file_of_the_first_format_with_nonsense_in_it_is_damaged(
    fitted: list[FittedHead], tmp_path: Path, attribute: str, value: object
) -> None:
    path = tmp_path / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"))
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 1
        file[run_name(fitted[0].run)].attrs[attribute] = value
    with pytest.raises(DamagedStoreError, match=f"run {run_name(fitted[0].run)} is damaged"):
        read_head(path, fitted[0].run)


@pytest.mark.parametrize(
    ("attribute", "value"), [("views", 0), ("views", 10**9), ("views", "2"), ("identity", "[1]")]
)
def test_an_origin_that_cannot_be_is_damage(
    fitted: list[FittedHead], tmp_path: Path, attribute: str, value: object
) -> None:
    path = tmp_path / "heads.h5"
    write_heads(path, fitted, Path("store.zarr"))
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 1
        file.attrs[attribute] = value
    with pytest.raises(DamagedStoreError, match=r"heads\.h5: not a readable heads file"):
        read_head(path, fitted[0].run)


def test_heads_that_lie_elsewhere_are_refused(fitted: list[FittedHead], tmp_path: Path) -> None:
    path, secret, name = tmp_path / "heads.h5", tmp_path / "secret", run_name(fitted[0].run)
    secret.write_bytes(bytes(4 * 4 * 24))
    write_heads(tmp_path / "other.h5", fitted, Path("store.zarr"))

    def external(file: h5py.File) -> None:
        del file[name]["class_embeddings"]
        file[name].create_dataset("class_embeddings", (4, 24), "f4", external=[(secret, 0, 4 * 4 * 24)])

    def link(file: h5py.File) -> None:
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), name)

    def huge(file: h5py.File) -> None:
        del file[name]["class_embeddings"]
        file[name].create_dataset("class_embeddings", (2**30, 2**10), "f4", chunks=(1, 2**10))

    for change in (external, link, huge):
        write_heads(path, fitted, Path("store.zarr"))
        with h5py.File(path, "r+") as file:
            file.attrs["format_version"] = 1
            change(file)
        with pytest.raises(DamagedStoreError, match=r"is not stored in one piece|is a link"):
            read_head(path, fitted[0].run)


def test_no_credentials_are_written(fitted: list[FittedHead], tmp_path: Path) -> None:
    path = tmp_path / "heads.h5"
    store = place("memory://AKIA:hidden@bucket/demo/mini.zarr")
    write_heads(path, fitted, store, store, identity={"source": "https://me:hidden@hub/x?token=hidden"})
    assert b"hidden" not in path.read_bytes()
    assert str(read_heads(path)[1][0]) == "memory://bucket/demo/mini.zarr"
