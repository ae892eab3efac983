"""Learning from one half of the classes: what is drawn, what is scored, what is said of heads that cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import make_features

from palm_cache.adaptation.calibration import calibrate
from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.heads.base import unit
from palm_cache.adaptation.tasks import draw, few_shot
from palm_cache.errors import DataError, ParameterError
from palm_cache.params import FitParams
from palm_cache.types import Features
from palm_cache.types.runs import FittedHead

SPLIT = FitParams(
    heads=("palm", "zero-shot", "proker"), shots=(4,), seeds=(0,), folds=(1,), split="base-novel"
)


@pytest.fixture(scope="module")
def seven() -> Features:
    return make_features(n_classes=7, noise=0.4)


@pytest.fixture(scope="module")
def fitted(seven: Features) -> dict[str, FittedHead]:
    return {head.run.head: head for head in fit_runs(seven, SPLIT)[0]}


def test_the_first_half_of_the_classes_is_drawn_as_if_there_were_no_other(
    seven: Features, fitted: dict[str, FittedHead]
) -> None:
    run = fitted["palm"].run
    assert run.variant == "split=base-novel"
    everything = few_shot(seven, fold=1, shots=4, seed=0)
    drawn = draw(seven, run)
    assert sorted(set(seven.labels[drawn.train].tolist())) == [0, 1, 2, 3]
    assert torch.equal(drawn.train, everything.train[:16])
    assert torch.equal(drawn.test, everything.test)
    assert drawn.absent_classes == drawn.short_classes == ()


def test_a_class_that_palm_has_no_clip_of_is_its_prompt(
    seven: Features, fitted: dict[str, FittedHead]
) -> None:
    embeddings, text = fitted["palm"].state["class_embeddings"], unit(seven.text[:, 0])
    torch.testing.assert_close(embeddings[4:], text[4:])
    assert (embeddings[:4] - text[:4]).abs().max() > 0.05


def test_either_half_is_scored_among_its_own_classes(seven: Features, fitted: dict[str, FittedHead]) -> None:
    for head in fitted.values():
        row, prediction = evaluate_head(seven, head)
        answers = {"base": [], "novel": []}
        for logits, label in zip(prediction.logits, prediction.labels.tolist(), strict=True):
            half, classes = ("base", range(4)) if label < 4 else ("novel", range(4, 7))
            answers[half].append(max(classes, key=lambda one: float(logits[one])) == label)
        for half, right in answers.items():
            assert row.get(f"{half}_accuracy") == (
                pytest.approx(sum(right) / len(right)) if head.run.base_only else None
            )
    assert fitted["zero-shot"].run.base_only
    row, _ = evaluate_head(seven, fit_runs(seven, FitParams(heads=("zero-shot",)))[0][0])
    assert "base_accuracy" not in row


@pytest.mark.parametrize("name", ["proker", "proker-hybrid", "muka", "muka-cosine", "auto"])
def test_shots_that_want_no_prior_leave_it_to_the_classes_that_have_nothing_else(name: str) -> None:
    parts = (12, 12) if find_head(name).n_encoders == 2 else ()
    features = make_features(n_classes=6, noise=0.5, parts=parts)
    base = features.text.clone()
    base[:3] = base[:3].roll(1, dims=0)  # prompts of base classes mislead
    params = replace(SPLIT, heads=(name,), shots=(8,))
    head = fit_runs(replace(features, text=base), params)[0][0]
    test = features.audio[features.labels >= 3, 0]
    answers = find_head(name).logits(head.state, test)[:, 3:]
    assert len(answers.argmax(dim=1).unique()) == 3
    if not parts:
        cosines = unit(test) @ unit(features.text[3:, features.templates.index(head.template)]).T
        assert torch.equal(answers.argmax(dim=1), cosines.argmax(dim=1))


def test_a_half_that_is_not_among_the_test_clips_has_no_accuracy(seven: Features) -> None:
    fold = seven.folds[0]
    base_alone = replace(fold, test=fold.test[seven.labels[fold.test] < 4])
    features = replace(seven, folds=(base_alone,))
    row, _ = evaluate_head(features, fit_runs(features, SPLIT)[0][0])
    assert row["novel_accuracy"] != row["novel_accuracy"]


def test_base_heads_are_calibrated_on_their_own_shots(seven: Features, fitted: dict[str, FittedHead]) -> None:
    assert calibrate(seven, fitted["palm"]).n_clips == 16


def test_a_head_that_reads_no_prompt_cannot_and_is_told_so(seven: Features) -> None:
    with pytest.raises(ParameterError, match=r"head 'knn' reads no prompt.*leave it out of split base-novel"):
        fit_runs(seven, replace(SPLIT, heads=("palm", "knn")))


def test_three_classes_have_no_halves() -> None:
    with pytest.raises(DataError, match="3 classes cannot be split into base and novel ones; it takes four"):
        fit_runs(make_features(n_classes=3), SPLIT)
