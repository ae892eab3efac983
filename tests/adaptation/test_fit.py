from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from samples import make_features, write_sample

from palm_cache.adaptation import calibration, fit, prompt_study
from palm_cache.adaptation.calibration import calibrate
from palm_cache.adaptation.evaluate import evaluate_files
from palm_cache.adaptation.fit import fit_runs, fit_store
from palm_cache.adaptation.grid import plan_runs
from palm_cache.adaptation.heads import HEADS, find_head
from palm_cache.adaptation.heads.prototype import Prototype
from palm_cache.adaptation.tasks import few_shot
from palm_cache.errors import (
    DamagedStoreError,
    DataError,
    OutputError,
    ParameterError,
    StaleStoreError,
    UnknownNameError,
)
from palm_cache.estimators import HeadClassifier
from palm_cache.params import FitParams
from palm_cache.store import atomic
from palm_cache.store.features import FeatureStore
from palm_cache.store.head_writing import write_heads
from palm_cache.store.heads import read_heads, read_runs
from palm_cache.store.scores import read_scores
from palm_cache.types import Features, Fold
from palm_cache.types.runs import Run, Training

QUICK = Training(epochs=2)

IN_A_NEW_PROCESS = """
import sys
from samples import make_features
from spectrum import LetterTower
from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads import find_head
from palm_cache.params import FitParams
from palm_cache.types.runs import Training

def watched(self, shots):
    before = set(sys.modules)
    state = learn(self, shots)
    print("imported:", *(set(sys.modules) - before))
    return state

head = find_head(sys.argv[1])
learn, head.fit = head.fit, watched
fit_runs(make_features(), FitParams(sys.argv[1], 2, 0, 1, training=Training(epochs=1)), tower=LetterTower(24))
"""


def test_the_grid_is_heads_by_shots_by_folds_by_seeds(features: Features) -> None:
    runs = plan_runs(features, FitParams(heads=("zero-shot", "palm"), shots=(1, 2), seeds=(0, 5)))
    zero_shot = [run for run in runs if run.head == "zero-shot"]
    assert zero_shot == [Run("clusters", "mini", "zero-shot", 0, fold, 0) for fold in (1, 2, 3)]
    assert len([run for run in runs if run.head == "palm"]) == 2 * 3 * 2
    assert len(set(runs)) == len(runs)


def test_a_run_that_is_asked_for_twice_is_made_once(features: Features) -> None:
    params = FitParams(heads=("palm", "palm"), shots=(2, 2), seeds=(1, 1), folds=(3, 3))
    assert plan_runs(features, params) == [Run("clusters", "mini", "palm", 2, 3, 1)]


def test_a_fold_that_is_not_there_is_named(features: Features) -> None:
    with pytest.raises(DataError, match="no fold 9; it has 3"):
        plan_runs(features, FitParams(folds=(1, 9)))


def test_all_views_are_trained_on(features: Features) -> None:
    """Two equal views are every clip twice; the draw and the count of clips stay as they are."""
    params = FitParams(heads=("palm",), shots=(4,), seeds=(0,), training=QUICK)
    head = fit_runs(make_features(n_views=3), params)[0][0]
    assert head.n_train == 16
    assert torch.isfinite(head.state["class_embeddings"]).all()


def test_classes_with_fewer_clips_than_shots_are_said() -> None:
    features = make_features(clips_per_class=10)
    heads, notes = fit_runs(features, FitParams(heads=("palm",), shots=(8,), seeds=(0,), training=QUICK))
    assert {head.n_train for head in heads} == {24, 28}
    assert any(
        "fewer than 8 clips of 4 classes in folds 1, 2, 3: 'class 0', 'class 1'" in note for note in notes
    )


def test_more_shots_than_any_class_has_are_said_to_be_all() -> None:
    features = make_features(clips_per_class=10)
    rows = features.folds[0].train
    uneven = replace(features, folds=(Fold(rows[1:], features.folds[0].test),))  # five clips of one class
    params = FitParams(heads=("prototype",), shots=(6, 20, "all"), seeds=(0,), folds=(1,))
    heads, notes = fit_runs(uneven, params)
    assert [head.n_train for head in heads] == [23, 23, 23]
    some, every = (note for note in notes if "fewer than" in note)
    assert some.startswith("clusters: fewer than 6 clips of 1 class in fold 1")
    assert some.endswith("; taken whole")
    assert every.endswith("taken whole: these runs learn from all clips, as with all shots")


def test_many_classes_with_few_clips_are_one_line() -> None:
    features = make_features(n_classes=40, clips_per_class=10)
    _, notes = fit_runs(features, FitParams(heads=("prototype",), shots=(8,), seeds=(0,)))
    (said,) = [note for note in notes if "fewer than 8 clips" in note]
    assert "and 35 more; taken whole" in said


def test_a_class_without_a_clip_is_not_said_to_be_taken_whole(features: Features) -> None:
    rows = features.folds[0].train
    lacking = replace(features, folds=(Fold(rows[features.labels[rows] != 1], features.folds[0].test),))
    assert few_shot(lacking, fold=1, shots=2, seed=0).absent_classes == ("class 1",)
    _, notes = fit_runs(lacking, FitParams(heads=("palm",), shots=(2,), seeds=(0,), training=QUICK))
    assert notes == [
        "clusters: no clip to learn from of 1 class in fold 1: 'class 1'; only a prompt can speak for it"
    ]


def test_failed_clips_are_said_and_left_out() -> None:
    features = make_features(failed=[0, 1, 2])
    heads, notes = fit_runs(features, FitParams(heads=("palm",), shots=(30,), folds=(2,), training=QUICK))
    assert "clusters: 3 clips have no embedding and are left out" in notes
    assert heads[0].n_train == len(features.folds[1].train) - 3


def test_a_template_that_the_store_does_not_hold_is_named(features: Features) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown template 'I can hear \{c\}'; did you mean"):
        fit_runs(features, FitParams(heads=("zero-shot",), template="I can hear {c}"))


def test_fitting_twice_gives_the_same_heads(features: Features) -> None:
    params = FitParams(heads=("palm",), shots=(4,), seeds=(0,), training=QUICK)
    once, twice = fit_runs(features, params)[0], fit_runs(features, params)[0]
    assert all(torch.equal(a.state["context"], b.state["context"]) for a, b in zip(once, twice, strict=True))


def test_progress_counts_the_steps_of_every_head(features: Features) -> None:
    said: list[tuple[str, int, int]] = []
    fit_runs(
        features,
        FitParams(heads=("palm", "linear-probe"), shots=(2,), seeds=(0,), training=QUICK),
        progress=lambda what, done, total: said.append((what, done, total)),
    )
    # Three runs of two epochs with one batch of eight clips each.
    assert said[:2] == [("training palm", 3, 6), ("training palm", 6, 6)]
    assert said[-1] == ("training linear-probe", said[-1][2], said[-1][2])


@pytest.mark.parametrize("name", ["palm", "linear-probe", "kernel-ridge"])
def test_labels_of_one_class_only_are_refused_with_fold_and_class(features: Features, name: str) -> None:
    rows = torch.arange(120)
    only = replace(features, folds=(features.folds[0], Fold(rows[features.labels == 2], rows)))
    with pytest.raises(DataError, match="clusters, fold 2: all training clips are of class 'class 2'"):
        fit_runs(only, FitParams(heads=(name,), training=QUICK))
    fit_runs(only, FitParams(heads=("zero-shot",)))  # learns nothing from clips


def test_a_store_without_text_serves_the_heads_that_read_none(tmp_path: Path, features: Features) -> None:
    mute = replace(features, text=features.text[:, :0], templates=())
    store = write_sample(tmp_path / "mute.zarr", mute)
    blind = [name for name, head in HEADS.items() if not head.reads_text]
    assert blind == ["prototype", "knn", "linear-probe", "kernel-ridge"]
    done = fit_store(store, tmp_path, FitParams(heads=tuple(blind), shots=(4,), seeds=(0,), folds=(1,)))
    assert len(done.fitted) == 4
    for reading in ("zero-shot", "palm-tuned", "proker", "coop"):
        with pytest.raises(DataError, match=f"mini store holds no text embeddings, and {reading}") as caught:
            fit_store(store, tmp_path, FitParams(heads=("palm", reading)))
        assert "read none: prototype, knn, linear-probe, kernel-ridge; palm, palm-" in str(caught.value)


@pytest.mark.parametrize("name", ["palm", "palm-prototype"])
def test_without_text_palm_starts_from_the_class_means_of_every_draw_as_its_estimator_does(
    features: Features, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    fit = find_head(name).fit

    def spy(self, shots):  # type: ignore[no-untyped-def]
        batches.append(len(shots.seeds))
        return fit(self, shots)

    monkeypatch.setattr(find_head(name), "fit", spy)
    mute = replace(features, text=features.text[:, :0], templates=())
    params = FitParams(heads=(name,), shots=(4,), seeds=(0, 1), folds=(1, 2), training=QUICK)
    fitted, notes = fit_runs(mute, params)
    assert batches == [4]  # in one tensor program
    assert notes == [
        "clusters: the mini store holds no text embeddings: class means of the shots stand in for the "
        f"prompts of {name}"
    ]
    for head in fitted:
        draw = few_shot(mute, fold=head.run.fold, shots=4, seed=head.run.seed)
        alone = HeadClassifier(name, epochs=QUICK.epochs, random_state=head.run.seed)
        alone.fit(mute.audio[draw.train, 0].numpy(), mute.labels[draw.train].numpy())
        np.testing.assert_allclose(
            head.state["class_embeddings"], alone.state_["class_embeddings"], atol=1e-6
        )
        assert head.template == "class means"
    calibrate(mute, fitted[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_with_the_row(
    tmp_path: Path, features: Features, value: float
) -> None:
    store = write_sample(tmp_path / "broken.zarr", features)
    audio = zarr.open_array(store / "audio", mode="r+")
    audio[17, 0, 3] = value
    audio[40, 0, 0] = value
    with pytest.raises(
        DataError,
        match=rf"clusters, row 17 \(and 1 more rows\): .* not finite .* palm-cache store verify {store}",
    ):
        fit_store(store, tmp_path, FitParams(heads=("prototype",)))
    text = features.text.clone()
    text[2, 0, 0] = value
    with pytest.raises(DataError, match="clusters, class 'class 2': a text embedding is not finite"):
        replace(features, text=text)


def test_what_is_not_finite_but_failed_anyway_does_no_harm(features: Features) -> None:
    audio = features.audio.clone()
    audio[3] = float("nan")
    usable = torch.ones(120, dtype=torch.bool)
    usable[3] = False
    fit_runs(replace(features, audio=audio, usable=usable), FitParams(heads=("prototype",)))


def test_what_runs_choose_for_themselves_is_in_the_scores(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "store.zarr", make_features())
    fit_store(store, tmp_path / "runs", FitParams(heads=("kernel-ridge", "knn"), shots=(1, 8), seeds=(0, 1)))
    evaluate_files(tmp_path / "runs")
    scores = read_scores(tmp_path / "runs" / "scores.csv")
    recorded = [json.loads(text) for text in scores["hyperparameters"]]
    by_head: dict[str, list[dict[str, float]]] = {}
    for head, shots, chosen in zip(scores["head"], scores["shots"], recorded, strict=True):
        assert chosen["held_out"] == (0 if shots == 1 else 32)
        by_head.setdefault(f"{head}-{shots}", []).append(chosen)
    assert set(by_head["kernel-ridge-8"][0]) == {
        "gamma",
        "ridge",
        "scale",
        "balance",
        "held_out",
        "test_views",
    }
    assert len({chosen["gamma"] for chosen in by_head["kernel-ridge-8"]}) > 1
    assert {(chosen["k"], type(chosen["k"])) for chosen in by_head["knn-1"]} == {(1, int)}


def test_joined_stores_are_fitted_and_evaluated_together(tmp_path: Path, features: Features) -> None:
    other = replace(features, encoder="clap:x/y", fingerprint="e" * 64, audio=features.audio.flip(2))
    one, two = (
        write_sample(tmp_path / f"{name}.zarr", store) for name, store in (("one", features), ("two", other))
    )
    params = FitParams(heads=("muka", "prototype", "palm"), shots=(4,), seeds=(0,), training=QUICK)
    done = fit_store(one, tmp_path / "runs", params, partners=[two])
    assert done.heads_file == tmp_path / "runs" / "clusters" / "mini+clap-y" / "heads.h5"
    heads, stores = read_heads(done.heads_file)
    assert stores == (one, two)
    assert {head.run.encoder for head in heads} == {"mini+clap:x/y"}
    scores = evaluate_files(tmp_path / "runs")
    assert set(scores["encoder"]) == {"mini+clap-y"}
    assert len(scores) == 9
    assert scores["accuracy"].min() > 0.5
    # Another state of the partner is another state of the features.
    write_sample(tmp_path / "three.zarr", replace(other, text=other.text + 1))
    (tmp_path / "two.zarr").rename(tmp_path / "old.zarr")
    (tmp_path / "three.zarr").rename(tmp_path / "two.zarr")
    with pytest.raises(StaleStoreError, match="fitted on an earlier state"):
        evaluate_files(tmp_path / "runs")


def test_nothing_is_fitted_on_a_store_that_is_replaced_as_it_is_read(
    tmp_path: Path, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, read = write_sample(tmp_path / "store.zarr", features), FeatureStore.read

    def read_and_replace(self: FeatureStore) -> Features:
        found = read(self)
        store.rename(tmp_path / "old.zarr")
        write_sample(store, replace(features, audio=features.audio.flip(0)))
        return found

    monkeypatch.setattr(FeatureStore, "read", read_and_replace)
    with pytest.raises(DamagedStoreError, match="an extraction has replaced it while it was read; try again"):
        fit_store(store, tmp_path / "runs", FitParams(heads=("prototype",)))
    assert not list(tmp_path.glob("runs/*/*/heads.h5"))


def test_one_encoder_is_too_few_for_muka_and_two_are_too_many_for_coop(
    tmp_path: Path, features: Features
) -> None:
    store = write_sample(tmp_path / "store.zarr", features)
    with pytest.raises(ParameterError, match=r"'muka' needs .* of 2 encoders: name all of them"):
        fit_store(store, tmp_path, FitParams(heads=("palm", "muka")))
    partner = write_sample(tmp_path / "other.zarr", replace(features, encoder="other"))
    with pytest.raises(ParameterError, match="'coop' learns words of one encoder"):
        fit_store(store, tmp_path, FitParams(heads=("coop",)), partners=[partner])


def test_a_run_that_diverged_is_refused_by_name(features: Features) -> None:
    params = FitParams(heads=("zero-shot", "palm"), shots=(4,), seeds=(3,), training=Training(lr=1e30))
    with pytest.raises(
        ParameterError,
        match=r"clusters, palm@lr=1e\+30-4shots-fold1-seed3: .* diverged at lr 1e\+30; lower lr",
    ):
        fit_runs(features, params)


def test_of_a_batch_those_that_did_not_diverge_are_kept(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, kept = Prototype.fit, list[Run]()

    def one_diverges(self, shots):  # type: ignore[no-untyped-def]
        state = learn(self, shots)
        state["class_embeddings"][1] = torch.nan
        return state

    monkeypatch.setattr(Prototype, "fit", one_diverges)
    params = FitParams(heads=("prototype",), shots=(4,), folds=(1,))
    with pytest.raises(ParameterError, match=r"prototype-4shots-fold1-seed1: .* is not finite"):
        fit_runs(features, params, keep=lambda heads: kept.extend(head.run for head in heads) or [])
    assert [run.seed for run in kept] == [0, 2]


def test_what_keeping_notes_is_no_note_of_an_exception_that_is_handled_meanwhile() -> None:
    params = FitParams(heads=("prototype",), shots=(2,), seeds=(0,), folds=(1,))
    earlier, notes = ValueError(), list[str]()
    try:
        raise earlier
    except ValueError:
        notes = fit_runs(make_features(), params, keep=lambda heads: ["kept"])[1]
    assert notes == ["kept"]
    assert not hasattr(earlier, "__notes__")


def test_heads_that_are_the_same_again_keep_their_temperature(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "mini.zarr", make_features())
    params = FitParams(heads=("palm",), shots=(4,), seeds=(0, 1), folds=(1,), training=QUICK)
    path = fit_store(store, tmp_path, params).heads_file
    calibration.calibrate_file(path, read_runs(path))
    before = {head.run: head.calibration for head in read_heads(path)[0]}
    fit_store(store, tmp_path, params)
    assert {head.run: head.calibration for head in read_heads(path)[0]} == before
    others = [
        replace(one, state={**one.state, "context": -one.state["context"]}) for one in read_heads(path)[0]
    ]
    write_heads(path, others, store)
    fit_store(store, tmp_path, params)
    assert all(head.calibration is None for head in read_heads(path)[0])


def test_a_heads_file_that_cannot_be_read_is_told_of_before_anything_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_sample(tmp_path / "mini.zarr", make_features())
    params = FitParams(heads=("prototype",), shots=(4,), seeds=(0,), folds=(1,))
    fit_store(store, tmp_path, params).heads_file.write_text("no heads")
    monkeypatch.setattr(fit, "fit_runs", lambda *given, **more: pytest.fail("fitted before it was known"))
    with pytest.raises(DamagedStoreError, match=r"heads\.h5: not a readable heads file .*; remove it"):
        fit_store(store, tmp_path, params)


def test_where_nothing_can_be_written_nothing_is_computed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_sample(tmp_path / "mini.zarr", make_features())
    params = FitParams(heads=("palm",), shots=(4,), seeds=(0,), folds=(1,))
    path = fit_store(store, tmp_path, params).heads_file

    def refuse(**given: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(atomic, "TemporaryFile", refuse)
    for module, work in ((calibration, "calibrate"), (fit, "fit_runs"), (prompt_study, "score_prompts")):
        monkeypatch.setattr(module, work, lambda *given, **more: pytest.fail("computed before it was known"))
    with pytest.raises(OutputError, match=r"cannot write: read-only$"):
        calibration.calibrate_file(path, calibration.runs_to_calibrate(path))
    with pytest.raises(OutputError, match="cannot write: read-only; choose another folder"):
        fit_store(store, tmp_path, params)
    with pytest.raises(OutputError, match="cannot write: read-only; choose another folder"):
        prompt_study.study_prompts([store], tmp_path)


@pytest.mark.parametrize("head", ["linear-probe", "tip-adapter-f", "malp", "subt", "coop"])
def test_the_time_of_a_fit_holds_no_loading_of_libraries(head: str) -> None:
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = (sys.executable, "-c", IN_A_NEW_PROCESS, head)
    ended = subprocess.run(code, capture_output=True, text=True, check=True, env=path)
    assert ended.stdout.split() == ["imported:"]
