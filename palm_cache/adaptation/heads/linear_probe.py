"""Logistic regression on embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from palm_cache.adaptation.heads.base import UNSEEN, Head, Shots, Words, unit
from palm_cache.adaptation.heads.hyperparameters import (
    FOLDS,
    Grid,
    choose,
    cross_validation_folds,
    held_out_loss,
)

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = Grid((1.0, 10.0, 100.0, 1000.0), default=10.0)
"""Inverse strengths of the penalty. Embeddings have unit length and lie close together, so that 1,
scikit-learn's default, is a strong penalty, and nothing is gained below it; 1000 all but
separates the shots."""

MAX_ITERATIONS = 1000
"""Of L-BFGS: ten times scikit-learn's default, for weak penalties on separable shots."""

TOLERANCE = 1e-7
"""Where the last fit stops, so that it is the minimum and not the way there; for choosing, scikit-learn's
default of 1e-4 is near enough."""

NO_SPREAD = 1e-6
"""All shots may be one and the same."""


class LinearProbe(Head):
    r"""Multinomial logistic regression on unit embeddings, by scikit-learn.

    .. math:: \mathrm{logits}(x) = W x + b, \qquad \min_{W, b}\;
              \tfrac12 \lVert W \rVert^2 - C \sum_{i \in S} d_i \log \mathrm{softmax}_{y_i}(W x_i + b)

    with weights :math:`d_i` that let every class count the same, 1 where classes have equally many clips.
    :math:`C` is chosen by stratified cross-validation. The penalty does not mind a rotation, and few shots
    span few directions: all fits are made in the span of the run's shots, which is exact and smaller.

    References
    ----------
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, for
    linear probes of frozen encoders.
    """

    name = "linear-probe"
    learns = "logistic regression: classes x (dim + 1)"
    reads_text = False
    chooses = ("C", "held_out")
    source = "Radford et al., ICML 2021, arXiv:2103.00020"

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return ``n_classes * (dim + 1)``."""
        return n_classes * (dim + 1)

    @staticmethod
    def load() -> None:
        """Import scikit-learn, which takes a second."""
        import sklearn.linear_model  # noqa: F401

    def n_steps(self, n_examples: int) -> int:
        """Return the fits of a whole cross-validation."""
        return FOLDS * len(STRENGTHS.values)

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Choose C and fit, run after run: scikit-learn knows no batches."""
        # Matrices as small as these gain nothing from threads, and lose most of their time to them.
        with threadpool_limits(limits=1, user_api="blas"):
            directions, features = torch.linalg.qr(shots.audio.double().transpose(-1, -2))
            features = features.transpose(-1, -2)  # (runs, n_examples, rank)
            chosen = shots.chosen or self._choose(shots, features)
            fitted = [
                _regress(_model(TOLERANCE), strength, features[run], shots.labels[run], shots.n_classes)
                for run, strength in enumerate(chosen["C"].tolist())
            ]
            weights, biases = (torch.stack(parts) for parts in zip(*fitted, strict=True))
            weight = weights @ directions.transpose(-1, -2)
            return {"weight": weight.float(), "bias": biases.float(), **chosen}

    def _choose(self, shots: Shots, features: Tensor) -> Mapping[str, Tensor]:
        n_classes = shots.n_classes
        folds = cross_validation_folds(shots.labels, n_classes, shots.together)
        scores = []
        for run in range(len(folds)):
            scores.append(_held_out_scores(features[run], shots.labels[run], folds[run], n_classes))
            shots.tick(self.n_steps(features.shape[1]))
        held_out = folds >= 0
        losses = held_out_loss(torch.stack(scores), shots.labels, held_out)
        return choose(losses, {"C": STRENGTHS}, held_out, shots.views)

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return log-odds, up to a number that all classes share: their softmax is the regression's own."""
        return unit(audio) @ state["weight"].transpose(-1, -2) + state["bias"][..., None, :]


def _held_out_scores(features: Tensor, labels: Tensor, folds: Tensor, n_classes: int) -> Tensor:
    """Return the logits of every example that is held out, (strengths, n_examples, n_classes); else zeros."""
    scores = features.new_zeros(len(STRENGTHS.values), len(labels), n_classes)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        model = _model()
        for place, strength in enumerate(STRENGTHS.candidates.tolist()):
            # Goes on from the weaker strength's solution.
            weight, bias = _regress(model, strength, features[~out], labels[~out], n_classes)
            scores[place, out] = features[out] @ weight.T + bias
    return scores


def _model(tolerance: float = 1e-4) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression  # two seconds to import, and `heads` only lists us

    return LogisticRegression(
        tol=tolerance, max_iter=MAX_ITERATIONS, warm_start=True, class_weight="balanced"
    )


def _regress(
    model: LogisticRegression, strength: float, features: Tensor, labels: Tensor, n_classes: int
) -> tuple[Tensor, Tensor]:
    """Return weights (n_classes, rank) and biases (n_classes,); a class without examples is never guessed."""
    # The solution is the same about the mean, and with lengths in units of the spread if the penalty is, too.
    # Embeddings of many encoders lie in a narrow cone, in which L-BFGS takes four times as many steps.
    mean = features.mean(dim=0)
    around = features - mean
    spread = float(around.square().sum(dim=1).mean().sqrt().clamp(min=NO_SPREAD))
    # Of two classes scikit-learn penalises the difference of their weights, whose square is twice the sum of
    # both squares.
    doubled = 2 if len(torch.unique(labels)) == 2 else 1
    model.set_params(C=doubled * strength * spread**2)
    with warnings.catch_warnings():
        # Scikit-learn takes few shots of many classes for a regression; labels are classes here.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        model.fit((around / spread).numpy(), labels.numpy())
    coefficients, intercept = torch.from_numpy(model.coef_) / spread, torch.from_numpy(model.intercept_)
    if len(model.classes_) == 2:  # scikit-learn keeps the difference of the two
        coefficients, intercept = (
            torch.cat([-coefficients, coefficients]) / 2,
            torch.cat([-intercept, intercept]) / 2,
        )
    weight, bias = features.new_zeros(n_classes, features.shape[1]), features.new_full((n_classes,), UNSEEN)
    weight[model.classes_], bias[model.classes_] = coefficients, intercept - coefficients @ mean
    return weight, bias
