r"""How sure the accuracies are: intervals and paired tests, recall and confusion per class.

A head's accuracy is what it would reach on average over further test clips **and** over further draws and
starts. Both were sampled: every clip is answered by the runs of each of :math:`S` seeds. With
:math:`\bar A_s` the mean over folds of seed :math:`s`, and :math:`e_{si}` what clip :math:`i` adds to it
beyond what clips add on average, the variance of the mean over seeds is estimated without bias by

.. math::

    V = \underbrace{\tfrac1S \mathrm{var}_s(\bar A_s)}_{\text{seeds}}
      + \max\Big(0, \underbrace{\textstyle\sum_i \bar e_i^2}_{\text{clips}}
      - \underbrace{\tfrac1S \textstyle\sum_i \mathrm{var}_s(e_{si})}_{\text{both at once}}\Big)

because the first two terms each contain the third. Resampling seeds and clips side by side would count that
third term three times, and with three seeds give two thirds of the first: hence no bootstrap. Quantiles are
Student's, with Satterthwaite's degrees of freedom, of which three seeds leave few.

These are themselves an estimate: where few seeds happen to lie close together, there seem to be many. At the
level of an interval that does little harm. Far out in the tails, where p must be if many are adjusted, it
would be several times too small. So beyond that level a quantile grows as the mean of Student's for seeds
and for clips does, each weighed with its part of the variance (Cochran and Cox).

Clips are known by their rows in the store: one that several folds test is one clip, not several. Runs of one
seed in several folds are one sample of a draw: their training clips overlap, and their start is the same.

References
----------
Hillis, "A comparison of denominator degrees of freedom methods for multiple observer ROC analysis",
Statistics in Medicine 26, 2007 (readers are our seeds, cases our clips); Agresti and Coull, "Approximate is
better than 'exact' for interval estimation of binomial proportions", The American Statistician 52, 1998;
Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
Medicine 24, 2005; Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
Statistics 6, 1979; Cochran and Cox, "Experimental Designs", 2nd edition, Wiley 1957; Price and Bonett, "An
improved confidence interval for a linear function of binomial proportions", Computational Statistics and Data
Analysis 45, 2004.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes long to import

from palm_cache.store.scores import RunPrediction

LEVEL = 0.95

LEAST_P = 1e-30
"""No smaller p is told."""

ADDED_TO_ONE = (0.0, 0.0, 1.0, 1.0)
"""Clips that are added to those of a head, as Agresti and Coull do, and Price and Bonett over datasets: two
that every run misses and two that none does. An accuracy of 100 % on 50 clips is no proof of 100 %."""

ADDED_TO_TWO = (-(0.5**0.5), 0.5**0.5)
"""Clips that are added to those of two heads: half a clip to each cell of their table, as Agresti and Min do.
Two clips of half the weight have the same sum of squares."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval at :data:`LEVEL`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What one run said about the test clips of its fold."""

    clips: NDArray[np.int64]
    """(n_test,) rows of the store."""
    score: NDArray[np.float64]
    """(n_test,) 1 where it was right, 0 where not; of two runs the first's less the second's."""


Outcomes = Mapping[tuple[int, int | None], Answers]
"""By (fold, seed); the seed of heads that learn nothing is ``None``: they are the same with every seed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, each a mean over folds, with its variance."""

    mean: float
    n_clips: int
    n_seeds: int
    """0 where no run depends on one; with 1 the variance leaves the seeds out."""
    variance: float
    freedom: float
    """Degrees of freedom of the variance."""
    of_seeds: float = 0.0
    """What of the variance is between seeds."""
    seed_freedom: float = 1.0
    """Degrees of freedom of that part."""

    def interval(self, lowest: float) -> Interval:
        """Return the interval around the mean, as far as such means go: from ``lowest`` to 1."""
        reach = math.sqrt(self.variance) * float(stdtrit(self.freedom, (1 + LEVEL) / 2))
        return Interval(max(lowest, self.mean - reach), min(1.0, self.mean + reach))

    def p(self) -> float:
        """Return the two-sided p of a mean of 0, whose variance is above 0: see the module."""
        apart = abs(self.mean) / math.sqrt(self.variance)
        at_level = float(stdtrit(self.freedom, (1 + LEVEL) / 2))
        if apart <= at_level:
            return float(2 * stdtr(self.freedom, -apart))
        share, clip_freedom = self.of_seeds / self.variance, max(1, self.n_clips - 1)

        def quantile(log_p: float) -> float:
            tail = math.exp(log_p) / 2
            both = share * stdtrit(self.seed_freedom, tail) + (1 - share) * stdtrit(clip_freedom, tail)
            return -float(both)

        wanted = quantile(math.log(1 - LEVEL)) * apart / at_level
        least, most = math.log(LEAST_P), math.log(1 - LEVEL)
        if quantile(least) <= wanted:
            return LEAST_P
        return math.exp(brentq(lambda log_p: quantile(log_p) - wanted, least, most))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One head against another on the same clips, with the same seeds."""

    difference: float
    """Accuracy of the first less that of the second."""
    interval: Interval
    p: float
    """Two-sided, of this comparison alone."""
    n_seeds: int
    """Seeds that were compared; 0 where neither head depends on one, and with 1 the seeds are left out."""


def outcomes(predictions: Mapping[tuple[int, int], RunPrediction], *, seeded: bool = True) -> Outcomes:
    """Say what was right in the predictions of one head at one number of shots, given by (fold, seed).

    Parameters
    ----------
    seeded : bool
        Whether the head depends on a draw; heads without shots do not.
    """
    return {
        (fold, seed if seeded else None): Answers(
            prediction.rows.numpy(),
            (prediction.logits.argmax(dim=1) == prediction.labels).numpy().astype(np.float64),
        )
        for (fold, seed), prediction in sorted(predictions.items())
    }


def estimate(runs: Outcomes) -> Estimate:
    """Estimate the mean over seeds of the mean over folds, and its variance."""
    folds: dict[int | None, int] = {}
    for _, seed in runs:
        folds[seed] = folds.get(seed, 0) + 1
    places = {seed: place for place, seed in enumerate(folds)}
    clips = np.unique(np.concatenate([answers.clips for answers in runs.values()]))
    means, beyond = np.zeros(len(folds)), np.zeros((len(folds), len(clips)))
    for (_, seed), answers in runs.items():
        mean, n_test = answers.score.mean(), len(answers.score)
        means[places[seed]] += mean / folds[seed]
        # Their own mean takes one degree of freedom from the clips of a fold.
        weight = 1 / (folds[seed] * math.sqrt(n_test * max(1, n_test - 1)))
        columns = np.searchsorted(clips, answers.clips)
        np.add.at(beyond[places[seed]], columns, weight * (answers.score - mean))
    of_clips = float((beyond.mean(axis=0) ** 2).sum())
    variance, spread, of_seeds = of_clips, of_clips**2 / max(1, len(clips) - 1), 0.0
    if len(folds) > 1:
        of_seeds = float(means.var(ddof=1)) / len(folds)
        of_both = float(beyond.var(axis=0, ddof=1).sum()) / len(folds)
        variance = of_seeds + max(0.0, of_clips - of_both)
        spread += of_seeds**2 / (len(folds) - 1)
    return Estimate(
        mean=float(means.mean()),
        n_clips=len(clips),
        n_seeds=len(folds) - (None in folds),
        variance=variance,
        freedom=max(1.0, variance**2 / spread) if spread else float(max(1, len(clips) - 1)),
        of_seeds=of_seeds,
        seed_freedom=float(max(1, len(folds) - 1)),
    )


def mean_over_datasets(estimates: Sequence[Estimate]) -> Estimate:
    """Average estimates of datasets, which are independent of one another."""
    count = len(estimates)
    variance, freedom = _added([(each.variance, each.freedom) for each in estimates])
    of_seeds, seed_freedom = _added([(each.of_seeds, each.seed_freedom) for each in estimates])
    return Estimate(
        mean=sum(estimate.mean for estimate in estimates) / count,
        n_clips=sum(estimate.n_clips for estimate in estimates),
        n_seeds=min(estimate.n_seeds for estimate in estimates),
        variance=variance / count**2,
        freedom=freedom,
        of_seeds=of_seeds / count**2,
        seed_freedom=seed_freedom,
    )


def _added(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the sum of independent variances and its degrees of freedom, given those of each."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / freedom for variance, freedom in parts)
    return total, total**2 / spread if spread else min(freedom for _, freedom in parts)


def accuracy_interval(datasets: Sequence[Outcomes]) -> Interval:
    """Return the interval of a head's accuracy on one dataset, or of its mean over several."""
    return _judged(ADDED_TO_ONE, [estimate(runs) for runs in datasets]).interval(lowest=0.0)


def difference(first: Outcomes, second: Outcomes) -> Outcomes:
    """Return what one head got right and another did not, by the folds and seeds that both have.

    It is empty where they have none in common: runs of different seeds learned from different clips, and are
    never set against each other.
    """
    answers: dict[tuple[int, int | None], Answers] = {}
    for fold, seed in dict.fromkeys([*first, *second]):
        one = first.get((fold, seed), first.get((fold, None)))
        other = second.get((fold, seed), second.get((fold, None)))
        if one and other and np.array_equal(one.clips, other.clips):
            answers[fold, seed] = Answers(one.clips, one.score - other.score)
    return answers


def compare(datasets: Sequence[Outcomes]) -> Comparison:
    """Judge the :func:`difference` of two heads on one dataset, or its mean over several."""
    estimates = [estimate(runs) for runs in datasets]
    judged = _judged(ADDED_TO_TWO, estimates)
    mean = mean_over_datasets(estimates)
    return Comparison(mean.mean, judged.interval(lowest=-1.0), judged.p(), mean.n_seeds)


def holm(p: Sequence[float], family: int | None = None) -> list[float]:
    """Adjust the p of some comparisons: that any is below a level by chance is as rare as with one alone.

    Parameters
    ----------
    p : sequence of float
    family : int, optional
        How many comparisons were made or could have been, if more than those given.
    """
    count = max(len(p), family or 0)
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable").tolist()):
        largest = max(largest, min(1.0, (count - rank) * p[place]))
        adjusted[place] = largest
    return adjusted


def confusion(predictions: Sequence[RunPrediction]) -> NDArray[np.int64]:
    """Count what every class was taken for, summed over runs, (n_classes, n_classes): rows are the truth."""
    n_classes = len(predictions[0].class_names)
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    for prediction in predictions:
        np.add.at(counts, (prediction.labels.numpy(), prediction.logits.argmax(dim=1).numpy()), 1)
    return counts


def recalls(confused: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return every class's recall, (n_classes,); NaN for a class without test clips."""
    totals = confused.sum(axis=1)
    recall = np.full(len(totals), np.nan)
    np.divide(np.diag(confused), totals, out=recall, where=totals > 0)
    return recall


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> tuple[float, float]:
    """Return Spearman's rank correlation of some numbers, neither all alike, and its two-sided p."""
    ranks = pd.DataFrame({"one": one, "other": other}).rank()
    rank = float(np.clip(np.corrcoef(ranks["one"], ranks["other"])[0, 1], -1, 1))
    freedom = len(one) - 2
    if not freedom or abs(rank) == 1:
        return rank, float(not freedom)
    return rank, float(2 * stdtr(freedom, -abs(rank) * math.sqrt(freedom / (1 - rank**2))))


def _judged(added: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """Average estimates as they would be with further clips of the given scores, spread over all of them.

    Were they added to each, the mean over many small datasets would be drawn away from what was measured.
    """
    return mean_over_datasets([_with(added, 1 / len(estimates), measured) for measured in estimates])


def _with(added: Sequence[float], share: float, measured: Estimate) -> Estimate:
    """Return an estimate as it would be with a share of further clips, the same for every seed."""
    scores = np.array(added)
    together = measured.n_clips + share * len(scores)
    squares = measured.n_clips**2 * measured.variance + share * float(((scores - measured.mean) ** 2).sum())
    return replace(
        measured,
        mean=(measured.n_clips * measured.mean + share * float(scores.sum())) / together,
        variance=squares / together**2,
        of_seeds=(measured.n_clips / together) ** 2 * measured.of_seeds,
    )
