from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_features, write_sample
from spectrum import LetterTower
from torch import Tensor
from torch.nn.functional import cross_entropy

import palm_cache
from palm_cache.adaptation import calibration
from palm_cache.adaptation.calibration import (
    Calibrated,
    calibrate,
    calibrate_file,
    fit_temperature,
    held_out_logits,
    hold_out,
    notes_of,
    runs_to_calibrate,
)
from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs, fit_store
from palm_cache.adaptation.heads import HEADS, find_head
from palm_cache.adaptation.heads.base import Shots, unit
from palm_cache.adaptation.heads.palm import Palm
from palm_cache.adaptation.tasks import few_shot
from palm_cache.errors import DataError, ParameterError
from palm_cache.extraction.datasets.demo import synthesise
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.params import FitParams
from palm_cache.store.features import FeatureStore
from palm_cache.store.heads import read_head, read_runs
from palm_cache.store.run_names import run_name
from palm_cache.types import Features, Fold
from palm_cache.types.runs import FittedHead, Training

QUICK = Training(epochs=5)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """Real embeddings of a small demo: three training clips a class in each of two folds."""
    root = tmp_path_factory.mktemp("demo")
    synthesise(root / "raw", clips_per_class=6, folds=2)
    extract(read_dataset("demo", root / "raw"), "mini", root / "mini.zarr")
    return FeatureStore(root / "mini.zarr").read()


def fit_one(features: Features, shots: int = 8, head: str = "palm", seed: int = 1) -> FittedHead:
    params = FitParams(heads=(head,), shots=(shots,), seeds=(seed,), folds=(2,), training=QUICK)
    return fit_runs(features, params, tower=LetterTower(24))[0][0]


def expected_calibration_error(probabilities: Tensor, labels: Tensor, n_bins: int = 10) -> float:
    """Mean distance between confidence and accuracy, bin by bin (Guo et al., 2017, equation 3)."""
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == labels).double()
    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)
    error = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            share = float(inside.double().mean())
            error += share * abs(float(confidence[inside].mean() - correct[inside].mean()))
    return error


def noisy_logits(n_clips: int, *, scale: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of a head that is right more often than not, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (n_clips,), generator=generator)
    logits = torch.randn(n_clips, 5, generator=generator)
    logits[torch.arange(n_clips), labels] += 1.5
    return scale * logits, labels


def test_the_temperature_is_where_a_grid_finds_the_least_loss() -> None:
    logits, labels = noisy_logits(200, scale=20)
    grid = np.exp(np.linspace(0, 6, 6001))
    best_wrong = logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    losses = []
    for value in grid:
        of_clips = cross_entropy(logits.double() / value, labels, reduction="sum")
        losses.append(float(of_clips + cross_entropy(logits.double() / value, best_wrong)))
    assert fit_temperature(logits, labels) == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)


@pytest.mark.parametrize("seed", range(5))
def test_logits_that_differ_as_those_of_other_machines_do_have_the_same_temperature(seed: int) -> None:
    logits, labels = noisy_logits(200, scale=20, seed=seed)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
    assert fit_temperature(logits * (1 + 1e-7 * noise), labels) == fit_temperature(logits, labels)


@settings(max_examples=20)
@given(scale=st.floats(2, 50))
def test_the_temperature_follows_the_scale_of_the_logits(scale: float) -> None:
    logits, labels = noisy_logits(100, scale=1)
    expected = scale / 50 * fit_temperature(50 * logits, labels)
    assert fit_temperature(scale * logits, labels) == pytest.approx(expected, rel=1e-3)


def test_held_out_clips_without_a_mistake_allow_the_confidence_of_the_rule_of_succession() -> None:
    labels = torch.arange(12) % 3
    logits = 30 * torch.eye(3)[labels] + torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    probabilities = (logits.double() / fit_temperature(logits, labels)).softmax(dim=1)
    assert float(probabilities.amax(dim=1).mean()) == pytest.approx(13 / 14, abs=0.01)


def test_logits_that_know_nothing_become_nearly_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = 100 * torch.randn(4000, 3, generator=generator), torch.arange(4000) % 3
    probabilities = (logits.double() / fit_temperature(logits, labels)).softmax(dim=1)
    assert float(probabilities.max()) < 0.4


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=6), n_splits=st.integers(2, 5))
def test_every_shot_is_held_out_once_and_no_class_is_ever_without_one(
    counts: list[int], n_splits: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    shots = 1000 + torch.arange(len(labels))
    splits = hold_out(shots, labels, n_splits)
    if max(counts) == 1:
        assert splits == ()
        return
    assert len(splits) == min(n_splits, *(count for count in counts if count > 1))
    class_of = dict(zip(shots.tolist(), labels.tolist(), strict=True))
    held_out = sorted(row for split in splits for row in split.test.tolist())
    assert held_out == [row for row in shots.tolist() if counts[class_of[row]] > 1]
    for split in splits:
        assert sorted([*split.train.tolist(), *split.test.tolist()]) == shots.tolist()
        assert {class_of[row] for row in split.train.tolist()} == set(range(len(counts)))


def test_shots_of_one_recording_are_held_out_together() -> None:
    labels, groups = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([5, 5, 6, 7, 8, 7])
    splits = hold_out(torch.arange(6), labels, groups=groups)
    assert [split.test.tolist() for split in splits] == [[0, 1, 3, 5], [2, 4]]


def test_it_equals_a_plain_loop_over_the_parts(features: Features) -> None:
    head = fit_one(features)
    shots = few_shot(features, fold=2, shots=8, seed=1).train
    logits, labels = [], []
    for part in range(4):
        held_out = torch.arange(len(shots)) % 8 % 4 == part  # eight shots of each class, one after the other
        train = shots[~held_out]
        fitted = Palm("{c}", QUICK).fit(
            Shots(
                unit(features.audio[train, 0])[None],
                features.labels[train][None],
                unit(features.text[:, 0])[None],
                (1,),
            )
        )
        logits.append(Palm.logits(fitted, features.audio[shots[held_out], 0][None])[0])
        loudness = [
            Palm.logits(state, features.audio[rows, 0]).std(dim=-1, correction=0).median()
            for state, rows in ((head.state, shots), ({k: v[0] for k, v in fitted.items()}, train))
        ]
        logits[-1] *= loudness[0] / loudness[1]
        labels.append(features.labels[shots[held_out]])
    found = calibrate(features, head)
    expected = fit_temperature(torch.cat(logits), torch.cat(labels))
    assert found.temperature == pytest.approx(expected, rel=1e-3)
    assert (found.n_clips, found.n_splits) == (32, 4)
    assert found.loss < found.loss_before


def test_a_temperature_is_that_of_the_scale_of_the_run_and_not_of_its_refits(features: Features) -> None:
    head = fit_one(features, head="linear-probe")  # whose refits learn their scale anew
    found = []
    for scale in (20, 60):
        louder = {name: scale * head.state[name] for name in ("weight", "bias")}
        found.append(calibrate(features, replace(head, state={**head.state, **louder})).temperature)
    assert found[0] > 2
    assert found[1] == pytest.approx(3 * found[0], rel=1e-3)


def test_test_clips_take_no_part(features: Features) -> None:
    head = fit_one(features)
    shots = few_shot(features, fold=2, shots=8, seed=1).train
    others = torch.ones(len(features.labels), dtype=torch.bool)
    others[shots] = False
    audio, labels = features.audio.clone(), features.labels.clone()
    audio[others] = 1e6 * torch.randn(audio[others].shape, generator=torch.Generator().manual_seed(0))
    labels[others] = 0
    spoilt = replace(features, audio=audio, labels=labels)
    # The draw depends on all labels of the fold: hold the shots still.
    spoilt = replace(spoilt, folds=tuple(Fold(shots, fold.test) for fold in features.folds))
    kept = replace(features, folds=spoilt.folds)
    assert calibrate(spoilt, head) == calibrate(kept, head)


def test_no_clip_that_a_refit_learned_from_nor_one_of_its_group_is_scored_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = make_features(n_classes=5, noise=1.2, n_folds=2)
    train = features.folds[0].train
    rare = (features.labels[train] == 4).nonzero()[1:, 0]  # of the last class a single clip is left
    kept = torch.ones(len(train), dtype=torch.bool).index_fill(0, rare, False)
    recordings = torch.arange(len(features.labels)) // 10  # of two clips of every class
    features = replace(features, folds=(Fold(train[kept], features.folds[0].test),), groups=recordings)
    params = FitParams(heads=("tip-adapter",), shots=(8,), seeds=(0,))
    head = fit_runs(features, params)[0][0]
    scored = []

    def spy(refitted, of, split, *others):  # type: ignore[no-untyped-def]
        learned = [
            int((unit(features.audio[:, 0]) - key).norm(dim=1).argmin()) for key in refitted.state["keys"]
        ]
        rows = split.test.tolist()
        assert not set(learned) & set(rows)
        assert not set(recordings[learned].tolist()) & set(recordings[rows].tolist())
        assert sorted([*learned, *rows]) == sorted(few_shot(features, fold=1, shots=8, seed=0).train)
        scored.extend(rows)
        return held_out_logits(refitted, of, split, *others)

    monkeypatch.setattr(calibration, "held_out_logits", spy)
    assert calibrate(features, head).n_clips == len(scored) == len(set(scored))
    assert 4 not in features.labels[scored].tolist()


def test_what_a_run_chose_is_held_while_its_temperature_is_found(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    for head in ("knn", "linear-probe", "kernel-ridge", "tip-adapter", "tip-adapter-f", "proker"):
        fitted = fit_one(features, shots=4, head=head)
        kind, expected = find_head(head), {name: fitted.state[name] for name in find_head(head).chooses}
        fit = kind.fit

        def spy(self, shots, fit=fit, expected=expected):  # type: ignore[no-untyped-def]
            states = fit(self, shots)
            for name, value in expected.items():
                assert torch.equal(states[name], value.expand_as(states[name])), name
            given.append(self.name)
            return states

        monkeypatch.setattr(kind, "fit", spy)
        calibrate(features, fitted)
        monkeypatch.undo()
    assert len(set(given)) == 6


def test_a_temperature_that_held_out_clips_hardly_prefer_is_not_kept() -> None:
    logits, labels = noisy_logits(200, scale=1)
    best = fit_temperature(20 * logits, labels) / 20
    assert fit_temperature(logits / best, labels) == 1.0
    assert fit_temperature(1.03 * logits / best, labels) == 1.0
    assert fit_temperature(2 * logits / best, labels) == pytest.approx(2, rel=1e-3)


def test_more_confidence_needs_more_proof_than_less() -> None:
    few, many = noisy_logits(12, scale=0.4), noisy_logits(400, scale=0.4)
    assert fit_temperature(*few) == 1.0
    assert 0.25 <= fit_temperature(*many) < 0.6
    assert fit_temperature(*many, coldest=0.0) == 1.0
    assert fit_temperature(*noisy_logits(12, scale=5)) > 2


def test_no_head_is_made_more_than_four_times_as_sure() -> None:
    labels = torch.arange(300) % 3
    assert fit_temperature(0.01 * torch.eye(3)[labels], labels) == pytest.approx(0.25, rel=1e-4)


def test_joined_encoders_are_calibrated(tmp_path: Path) -> None:
    stores = [
        write_sample(tmp_path / f"{name}.zarr", replace(make_features(seed=seed), encoder=name))
        for seed, name in enumerate(("mini", "other"))
    ]
    params = FitParams(heads=("muka", "proker"), shots=(4,), seeds=(0,), folds=(1,))
    path = fit_store(stores[0], tmp_path, params, partners=stores[1:]).heads_file
    done = calibrate_file(path, runs_to_calibrate(path))
    assert [one.run.head for one in done] == ["muka", "proker"]
    assert all(one.calibration and one.calibration.n_clips == 16 for one in done)
    assert runs_to_calibrate(path) == []


@pytest.mark.parametrize("shots", [2, 4])
def test_no_head_becomes_worse_by_its_temperature(demo: Features, shots: int) -> None:
    heads = tuple(name for name, head in HEADS.items() if head.trained and not head.needs_text_tower)
    heads = tuple(name for name in heads if HEADS[name].n_encoders == 1)
    params = FitParams(heads=heads, shots=(shots,), seeds=(0, 1, 2), folds=(1, 2))
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for head in fit_runs(demo, params)[0]:
        told = evaluate_head(demo, head)[1]
        temperature = calibrate(demo, head).temperature
        for losses, value in ((before, 1.0), (after, temperature)):
            loss = float(cross_entropy(told.logits.double() / value, told.labels))
            losses.setdefault(head.run.head, []).append(loss)
    for name in heads:
        assert np.mean(after[name]) <= 1.02 * np.mean(before[name]), name


def losses_and_errors(features: Features, params: FitParams) -> tuple[Tensor, Tensor]:
    """Mean cross entropy and calibration error on test clips, uncalibrated and calibrated."""
    found = []
    for head in fit_runs(features, params)[0]:
        told = evaluate_head(features, head)[1]
        for temperature in (1.0, calibrate(features, head).temperature):
            logits = told.logits.double() / temperature
            error = expected_calibration_error(logits.softmax(dim=1), told.labels)
            found.append([float(cross_entropy(logits, told.labels)), error])
    losses, errors = torch.tensor(found).view(-1, 2, 2).mean(dim=0).T
    return losses, errors


def test_probabilities_of_test_clips_of_the_demo_become_better(demo: Features) -> None:
    params = FitParams(heads=("palm",), shots=(3,), seeds=(0, 1), training=Training(epochs=25))
    losses, _ = losses_and_errors(demo, params)  # thirty clips are too few for the error of bins
    assert losses[1] < 0.8 * losses[0]


def test_confidence_comes_nearer_to_accuracy() -> None:
    crowd = make_features(clips_per_class=200, n_folds=2, noise=1.2)
    params = FitParams(heads=("palm",), shots=(16,), seeds=(0, 1), training=QUICK)
    losses, errors = losses_and_errors(crowd, params)
    assert losses[1] < losses[0]
    assert errors[1] < 0.5 * errors[0]


def test_heads_that_learn_words_are_calibrated_through_their_tower(features: Features) -> None:
    head = fit_one(features, head="cocoop")
    assert calibrate(features, head, LetterTower(24)).n_clips == 32
    with pytest.raises(ParameterError, match="'cocoop' learns words"):
        calibrate(features, head)


@pytest.mark.parametrize(
    ("head", "clips", "shots", "remedy"),
    [("zero-shot", 30, 8, ""), ("palm", 30, 1, "; fit with more shots"), ("palm", 2, 4, "")],
)
def test_without_a_shot_to_spare_it_says_what_is_missing(
    head: str, clips: int, shots: int, remedy: str
) -> None:
    features = make_features(clips_per_class=clips, n_folds=2)
    with pytest.raises(
        DataError, match=rf"no shots to hold out: a class needs two, not of one recording{remedy}$"
    ):
        calibrate(features, fit_one(features, shots, head))


def test_what_keeps_heads_from_being_calibrated_is_one_note(tmp_path: Path) -> None:
    """Each fold had a note of its own, ten for the demo, and none said which runs it spoke of."""
    store = write_sample(tmp_path / "features.zarr", make_features(clips_per_class=2, n_folds=2))
    params = FitParams(heads=("palm", "gda"), shots=(16,), folds=(1, 2), seeds=0, training=QUICK)
    fitted = palm_cache.fit(store, params, out=tmp_path)
    (said,) = [note for note in fitted.notes if "calibrated" in note]
    assert said.startswith("not calibrated: clusters: no shots to hold out")
    assert said.endswith(" (gda-16shots-fold1-seed0, palm@epochs=5-16shots-fold1-seed0)")
    every = [Calibrated(run, None, "why") for run in read_runs(fitted.heads)]
    assert notes_of(every) == [
        "not calibrated: why (gda-16shots-fold1-seed0, gda-16shots-fold2-seed0, "
        "palm@epochs=5-16shots-fold1-seed0 and 1 more)"
    ]


def test_a_file_keeps_its_calibrations_when_other_heads_are_fitted(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "features.zarr", make_features())
    params = FitParams(heads=("zero-shot", "palm"), shots=(2, 4), seeds=(0, 1), training=QUICK)
    path = fit_store(store, tmp_path, params).heads_file
    chosen = runs_to_calibrate(path)
    assert [run_name(run) for run in chosen] == ["palm@epochs=5-4shots-fold1-seed0"]
    state_before = read_head(path, chosen[0])[0].state
    done = calibrate_file(path, chosen)
    assert runs_to_calibrate(path) == []
    fit_store(store, tmp_path, replace(params, shots=(3,)))
    head, origin = read_head(path, chosen[0])
    assert head.calibration == done[0].calibration
    assert origin.store == store
    assert all(torch.equal(head.state[name], state_before[name]) for name in state_before)
    fit_store(store, tmp_path, params)  # the same once more
    assert runs_to_calibrate(path) == []


def test_heads_of_an_earlier_state_of_the_store_are_named(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "features.zarr", make_features())
    params = FitParams(heads=("palm",), shots=(2,), folds=(1,), seeds=(0,), training=QUICK)
    path = fit_store(store, tmp_path, params).heads_file
    other = write_sample(tmp_path / "other.zarr", make_features(n_classes=3))
    done = calibrate_file(path, runs_to_calibrate(path), store=other)
    assert done[0].calibration is None
    assert "fitted on an earlier state of the clusters store" in done[0].problem


def test_nothing_to_do_is_done(tmp_path: Path) -> None:
    assert calibrate_file(tmp_path / "heads.h5", []) == []
