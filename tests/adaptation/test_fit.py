from __future__ import annotations

import pytest
import torch
from samples import make_features

from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.grid import plan_runs
from palm_cache.errors import DataError, UnknownNameError
from palm_cache.params import FitParams
from palm_cache.types import Features, Run, Training

QUICK = Training(epochs=2)


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
    assert any("'class 0' has fewer than 8 clips in fold(s) 1, 2, 3; taken whole" in note for note in notes)


def test_failed_clips_are_said_and_left_out() -> None:
    features = make_features(failed=[0, 1, 2])
    heads, notes = fit_runs(features, FitParams(heads=("palm",), shots=(30,), folds=(2,), training=QUICK))
    assert "clusters: 3 clip(s) have no embedding and are left out" in notes
    assert heads[0].n_train == len(features.folds[1].train) - 3


def test_a_template_that_the_store_does_not_hold_is_named(features: Features) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown template 'I can hear \{c\}'; did you mean"):
        fit_runs(features, FitParams(heads=("zero-shot",), template="I can hear {c}"))


def test_fitting_twice_gives_the_same_heads(features: Features) -> None:
    params = FitParams(heads=("palm",), shots=(4,), seeds=(0,), training=QUICK)
    once, twice = fit_runs(features, params)[0], fit_runs(features, params)[0]
    assert all(torch.equal(a.state["context"], b.state["context"]) for a, b in zip(once, twice, strict=True))


def test_progress_counts_training_steps(features: Features) -> None:
    said: list[tuple[str, int, int]] = []
    fit_runs(
        features,
        FitParams(shots=(2,), seeds=(0,), training=QUICK),
        progress=lambda what, done, total: said.append((what, done, total)),
    )
    # Three runs of two epochs with one batch of eight clips each.
    assert said == [("training", 3, 6), ("training", 6, 6)]
