"""How sure the accuracies are: intervals and paired tests over test clips, recall and confusion per class.

A test clip is the unit that is resampled. A clip's score is the share of seeds that classified it rightly, so
that the seeds of one fold, which see the same clips, are never taken for independent evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from palm_cache.store.scores import Prediction

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A bootstrap interval at :data:`LEVEL`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One head against another on the same clips."""

    difference: float
    """Accuracy of the first less that of the second."""
    interval: Interval
    bootstrap_p: float
    """Two-sided, of the paired bootstrap."""
    mcnemar_p: float
    """Two-sided, of the exact McNemar test: the largest over seeds, each with the clips of all folds."""


_Seeds = Mapping[int, NDArray[np.bool_]]

Outcomes = Mapping[int, _Seeds]
"""Fold -> seed -> (n_test,) whether each test clip was classified rightly."""


def outcomes(predictions: Mapping[tuple[int, int], Prediction]) -> dict[int, dict[int, NDArray[np.bool_]]]:
    """Arrange the predictions of one head at one number of shots, given by (fold, seed)."""
    arranged: dict[int, dict[int, NDArray[np.bool_]]] = {}
    for (fold, seed), prediction in sorted(predictions.items()):
        right = (prediction.logits.argmax(dim=1) == prediction.labels).numpy()
        arranged.setdefault(fold, {})[seed] = right
    return arranged


def accuracy_interval(right: Outcomes) -> Interval:
    """Return the bootstrap interval of the accuracy, mean over folds of the mean over seeds.

    Clips are resampled within their fold, the same clips for all seeds.
    """
    return mean_accuracy_interval([right])


def mean_accuracy_interval(datasets: Sequence[Outcomes]) -> Interval:
    """Return the interval of a mean accuracy over datasets, each resampled by itself."""
    random = np.random.default_rng(0)
    means = [_resampled([_mean_over_seeds(seeds) for seeds in right.values()], random) for right in datasets]
    return _interval(np.asarray(np.mean(means, axis=0)))


def compare(first: Outcomes, second: Outcomes) -> Comparison:
    """Compare two heads clip by clip on the folds and seeds that both have.

    A head with one run per fold, as those that learn nothing, stands against each seed of the other.

    Raises
    ------
    ValueError
        If they have no fold or no seed in common.
    """
    pairs = [_same_seeds(first[fold], second[fold]) for fold in sorted(first.keys() & second.keys())]
    if not pairs or not all(one and other for one, other in pairs):
        raise ValueError("no fold or no seed in common")
    differences = [_mean_over_seeds(one) - _mean_over_seeds(other) for one, other in pairs]
    means = _resampled(differences, np.random.default_rng(0))
    # As many as say otherwise, on both sides; never quite 0, which no finite number of resamples shows.
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Comparison(
        difference=float(np.mean([difference.mean() for difference in differences])),
        interval=_interval(means),
        bootstrap_p=min(1.0, 2 * (tail + 1) / (RESAMPLES + 1)),
        mcnemar_p=_mcnemar(pairs),
    )


def confusion(predictions: Sequence[Prediction]) -> NDArray[np.int64]:
    """Count what every class was taken for, summed over runs, (n_classes, n_classes): rows are the truth."""
    labels = range(len(predictions[0].class_names))
    counts = [
        confusion_matrix(
            prediction.labels.numpy(), prediction.logits.argmax(dim=1).numpy(), labels=list(labels)
        )
        for prediction in predictions
    ]
    return np.asarray(np.sum(counts, axis=0), dtype=np.int64)


def recalls(confused: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return every class's recall, (n_classes,); NaN for a class without test clips."""
    totals = confused.sum(axis=1)
    recall = np.full(len(totals), np.nan)
    np.divide(np.diag(confused), totals, out=recall, where=totals > 0)
    return recall


def _mean_over_seeds(seeds: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.float64]:
    return np.asarray(np.mean(list(seeds.values()), axis=0))


def _resampled(folds: Sequence[NDArray[np.float64]], random: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean over folds of the mean of resampled clips, (RESAMPLES,).

    A clip's value is one of few. Drawing n clips with replacement is drawing how often each value comes from
    a multinomial distribution: exact, and as quick for a hundred thousand clips as for ten.
    """
    means = np.zeros(RESAMPLES)
    for clips in folds:
        values, counts = np.unique(clips, return_counts=True)
        drawn = random.multinomial(len(clips), counts / len(clips), size=RESAMPLES)
        means += drawn @ values / len(clips)
    return means / len(folds)


def _interval(means: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _same_seeds(one: _Seeds, other: _Seeds) -> tuple[_Seeds, _Seeds]:
    """Return what two heads did in one fold with the seeds that both have."""
    if len(one) == 1 or len(other) == 1:
        return one, other
    seeds = sorted(one.keys() & other.keys())
    return {seed: one[seed] for seed in seeds}, {seed: other[seed] for seed in seeds}


def _mcnemar(pairs: Sequence[tuple[_Seeds, _Seeds]]) -> float:
    """Return the largest p over seeds of the exact McNemar test, folds strung together."""
    largest = 0.0
    for place in range(max(len(one) for pair in pairs for one in pair)):
        gained = lost = 0
        for pair in pairs:
            right, other = (list(seeds.values())[place % len(seeds)] for seeds in pair)
            gained += int((right & ~other).sum())
            lost += int((~right & other).sum())
        p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        largest = max(largest, p)
    return largest
