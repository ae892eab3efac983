from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import make_features
from scipy.special import softmax
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.errors import (
    DamagedStoreError,
    ParameterError,
    StaleStoreError,
    StoreError,
    UnknownNameError,
)
from palm_cache.explore import verdicts as explore_verdicts
from palm_cache.explore.verdicts import LISTED_PER_CLASS, confusions, neighbour_votes, read_run
from palm_cache.params import FitParams
from palm_cache.store.scores import RunPrediction, write_predictions
from palm_cache.types import Features
from palm_cache.types.runs import Training

FEATURES = make_features(noise=1.5, failed=(5,))
STORE = Path("data/features/clusters/mini.zarr")


@pytest.fixture(scope="module")
def predictions() -> list[RunPrediction]:
    params = FitParams(heads=("palm",), shots=(2, 4), seeds=(0, 1), training=Training(epochs=2))
    heads, _ = fit_runs(FEATURES, params)
    return [evaluate_head(FEATURES, head)[1] for head in heads]


@pytest.fixture
def file(tmp_path: Path, predictions: list[RunPrediction]) -> Path:
    write_predictions(tmp_path / "predictions.h5", predictions)
    return tmp_path / "predictions.h5"


def test_a_run_speaks_about_the_test_clips_of_its_fold(file: Path, predictions: list[RunPrediction]) -> None:
    wanted = next(one for one in predictions if one.run == "palm@epochs=2-4shots-fold2-seed1")
    verdicts = read_run(file, wanted.run, FEATURES, STORE)
    assert verdicts.run == wanted.run
    np.testing.assert_array_equal(np.flatnonzero(verdicts.said >= 0), sorted(wanted.rows.tolist()))
    np.testing.assert_array_equal(verdicts.said[wanted.rows], wanted.logits.argmax(dim=1))
    expected = softmax(wanted.logits.numpy(), axis=1).max(axis=1)
    np.testing.assert_allclose(verdicts.share[wanted.rows], expected, rtol=1e-5)


def test_without_its_fold_a_run_speaks_about_every_usable_clip(
    file: Path, predictions: list[RunPrediction]
) -> None:
    verdicts = read_run(file, "palm-4shots-seed1", FEATURES, STORE)
    np.testing.assert_array_equal(verdicts.said >= 0, FEATURES.usable)
    for one in predictions:
        if one.run.startswith("palm@epochs=2-4shots") and one.run.endswith("seed1"):
            np.testing.assert_array_equal(verdicts.said[one.rows], one.logits.argmax(dim=1))


def test_where_folds_overlap_the_first_speaks(tmp_path: Path, predictions: list[RunPrediction]) -> None:
    first = predictions[0]
    second = replace(first, run=first.run.replace("fold1", "fold2"), logits=first.logits.flip(1))
    write_predictions(tmp_path / "p.h5", [second, first])
    verdicts = read_run(tmp_path / "p.h5", None, FEATURES, STORE)
    np.testing.assert_array_equal(verdicts.said[first.rows], first.logits.argmax(dim=1))


def test_the_ten_nearest_other_clips_vote() -> None:
    verdicts = neighbour_votes(FEATURES)
    usable = FEATURES.usable.numpy()
    clips, labels = FEATURES.audio[usable, 0].numpy(), FEATURES.labels[usable].numpy()
    reference = cross_val_predict(
        KNeighborsClassifier(10, metric="cosine"), clips, labels, cv=LeaveOneOut(), method="predict_proba"
    )
    np.testing.assert_array_equal(verdicts.said[usable], reference.argmax(axis=1))
    np.testing.assert_allclose(verdicts.share[usable], reference.max(axis=1))
    assert verdicts.said[5] == -1
    assert verdicts.run is None


def test_votes_are_counted_in_steps_that_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = neighbour_votes(FEATURES)
    usable, told = int(FEATURES.usable.sum()), list[tuple[str, int, int]]()
    monkeypatch.setattr(explore_verdicts, "COSINES_AT_ONCE", 7 * usable + 1)
    in_steps = neighbour_votes(FEATURES, lambda *step: told.append(step))
    np.testing.assert_array_equal(in_steps.said, at_once.said)
    np.testing.assert_array_equal(in_steps.share, at_once.share)
    assert told == [("comparing", min(done, usable), usable) for done in range(7, usable + 7, 7)]


def test_confusions_count_what_scikit_learn_counts(file: Path) -> None:
    verdicts = read_run(file, "palm-2shots-seed0", FEATURES, STORE)
    tested = verdicts.said >= 0
    labels = FEATURES.labels.numpy()
    matrix = confusion_matrix(labels[tested], verdicts.said[tested])
    found = confusions(verdicts, labels, 4)
    assert sorted(one.label for one in found) == [0, 1, 2, 3]
    assert [one.wrong for one in found] == sorted((one.wrong for one in found), reverse=True)
    for one in found:
        row = matrix[one.label]
        assert one.judged == row.sum()
        assert one.wrong == row.sum() - row[one.label] > 0
        assert dict(one.taken_for) == {
            other: count for other, count in enumerate(row) if count and other != one.label
        }
        shares = verdicts.share[list(one.clips)]
        assert (np.diff(shares) <= 0).all()
        assert len(one.clips) == min(one.wrong, LISTED_PER_CLASS)
        assert (labels[list(one.clips)] == one.label).all()
        assert (verdicts.said[list(one.clips)] != one.label).all()


def test_a_run_must_be_named_where_there_are_several(file: Path) -> None:
    with pytest.raises(
        ParameterError,
        match="with run: palm@epochs=2-2shots-seed0, palm@epochs=2-2shots-seed1",
    ):
        read_run(file, None, FEATURES, STORE)
    with pytest.raises(UnknownNameError, match="did you mean palm-2shots-seed1"):
        read_run(file, "plam-2shots-seed1", FEATURES, STORE)
    with pytest.raises(UnknownNameError, match=r"unknown run 'plm'; did you mean palm\?"):
        read_run(file, "plm", FEATURES, STORE)


def test_predictions_that_are_not_there_say_how_to_make_them(tmp_path: Path, file: Path) -> None:
    with pytest.raises(StoreError, match="no predictions for clusters/mini; make them with: palm-cache fit"):
        read_run(tmp_path / "none.h5", None, FEATURES, STORE)
    with pytest.raises(StoreError, match="no predictions for birds/clap-x; make them with: palm-cache fit"):
        read_run(file, None, replace(FEATURES, dataset="birds", encoder="clap:laion/x"), STORE)
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(DamagedStoreError, match="not readable"):
        read_run(file, None, FEATURES, STORE)


def changed(what: str) -> Features:
    if what == "labels":
        return replace(FEATURES, labels=FEATURES.labels.flip(0))
    if what == "classes":
        return replace(FEATURES, class_names=("a", "b", "c", "d"))
    if what == "clips":
        smaller = make_features(clips_per_class=10, noise=1.5)
        return replace(smaller, folds=smaller.folds)
    return replace(FEATURES, usable=~FEATURES.usable)


@pytest.mark.parametrize("what", ["labels", "classes", "clips", "failures"])
def test_predictions_of_another_state_of_the_store_are_refused(file: Path, what: str) -> None:
    with pytest.raises(StaleStoreError, match="made on another state of the clusters store"):
        read_run(file, "palm-2shots-seed0", changed(what), STORE)
