"""The discriminant against its formula in all dimensions."""

from __future__ import annotations

import pytest
import torch
from samples import make_shots
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from palm_cache.adaptation.heads.gda import ALPHAS, Gda, discriminant
from palm_cache.adaptation.heads.hyperparameters import TEMPERATURES, cross_validation_folds
from palm_cache.types import BARE_TEMPLATE
from palm_cache.types.runs import Training


def naive(audio: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    means = torch.stack([audio[labels == label].mean(dim=0) for label in range(4)])
    apart = audio - means[labels]
    covariance = apart.T @ apart / (len(audio) - 1)
    inverse = torch.linalg.pinv((len(audio) - 1) * covariance + covariance.trace() * torch.eye(len(means.T)))
    weight = covariance.trace() * means @ inverse
    return weight, -(weight * means).sum(dim=1) / 2


@pytest.mark.parametrize("clips_per_class", [5, 8])
def test_the_discriminant_is_its_formula(clips_per_class: int) -> None:
    """Of 24 dimensions, for fewer clips and for more."""
    shots = make_shots(runs=2, clips_per_class=clips_per_class, noise=2.0)
    audio, kept = shots.audio.double(), torch.ones(2, 4 * clips_per_class, dtype=torch.bool)
    kept[:, 4:8] = False  # one clip of each class
    found = discriminant(audio, shots.labels, kept, 4)
    for run in range(2):
        expected = naive(audio[run][kept[run]], shots.labels[run][kept[run]])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[run], other)


def test_many_clips_cost_no_more_than_their_number() -> None:
    costs = []
    for clips_per_class in (100, 200):
        shots = make_shots(runs=1, clips_per_class=clips_per_class)
        with FlopCounterMode(display=False) as counter:
            Gda(BARE_TEMPLATE, Training()).fit(shots)
        costs.append(counter.get_total_flops())
    assert costs[1] < 2.5 * costs[0]


def test_one_clip_a_class_is_the_nearest_class_mean() -> None:
    shots = make_shots(runs=1, clips_per_class=1)
    weight, _ = discriminant(shots.audio.double(), shots.labels, torch.ones(1, 4, dtype=torch.bool), 4)
    torch.testing.assert_close(weight[0].float(), shots.audio[0])
    assert Gda(BARE_TEMPLATE, Training()).fit(shots)["alpha"].tolist() == [ALPHAS.default]


def test_alpha_is_the_best_of_cross_validation() -> None:
    shots = make_shots(runs=2, noise=2.5)
    state = Gda(BARE_TEMPLATE, Training()).fit(shots)
    folds = cross_validation_folds(shots.labels, 4, shots.together)
    for run in range(2):
        audio, labels = shots.audio[run].double(), shots.labels[run]
        scores = torch.zeros(32, 4, dtype=torch.float64)
        for fold in range(5):
            out = folds[run] == fold
            weight, bias = naive(audio[~out], labels[~out])
            scores[out] = audio[out] @ weight.T + bias
        losses = [
            min(
                float(
                    cross_entropy(
                        factor * (100 * audio @ shots.text[run].double().T + alpha * scores), labels
                    )
                )
                for factor in TEMPERATURES
            )
            for alpha in ALPHAS.candidates
        ]
        assert float(state["alpha"][run]) == ALPHAS.values[losses.index(min(losses))]
        assert float(state["scale"][run]) in TEMPERATURES
