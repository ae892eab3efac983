"""What a round of labelling is made of: a head fitted on the labels, how good it is, which rows come next.

Pure functions on arrays: the page and the study in ``pipelines/labelling`` use the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from palm_cache.estimators import HeadClassifier, ZeroShotClassifier
from palm_cache.retrieval.ranking import diverse, uncertainty

HEAD = "gda"
"""In closed form, in a fraction of a second, and never far below zero-shot, which it begins with."""

FOLDS = 5

ROUND = 10
"""Rows that are proposed at once."""

POOL = 10
"""Out of so many times the rows of a round, the ones most in doubt, those are picked that differ most."""

BLOCK_ROWS = 8192
"""Rows that are scored at once; bounds memory."""

LEVEL = 0.95

Proposal = Literal["both", "uncertain", "diverse", "likely", "random"]
"""By what rows are proposed: see :func:`propose`."""

PROPOSALS: tuple[Proposal, ...] = get_args(Proposal)


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled rows."""

    audio: NDArray[np.float32]
    """(n, dim) of any length."""
    labels: NDArray[np.int64]
    """(n,) class numbers."""
    groups: NDArray[np.int64]
    """(n,) equal for rows of one recording, which are no independent evidence: they are held out together."""
    n_classes: int
    text: NDArray[np.float32] | None = None
    """(n_classes, dim) the prompt of every class; ``None`` where the encoder reads no text."""

    def part(self, rows: NDArray[np.bool_]) -> Examples:
        """Return some of them."""
        return Examples(self.audio[rows], self.labels[rows], self.groups[rows], self.n_classes, self.text)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often a head is right about labelled rows that it was not fitted on."""

    rows: int
    mean: float
    low: float
    high: float
    """Ends of the interval at :data:`LEVEL`."""


class Classifier:
    """A head fitted on labelled rows, or zero-shot as long as there are labels of one class only.

    Parameters
    ----------
    examples : Examples
        Among which there is something to tell apart: see :func:`can_fit`.
    """

    def __init__(self, examples: Examples) -> None:
        self.n_classes = examples.n_classes
        audio, labels, groups = examples.audio, examples.labels, examples.groups
        present = np.unique(labels)
        every = np.arange(examples.n_classes)
        if examples.text is None:
            self._classes, self._head = present, HeadClassifier(HEAD).fit(audio, labels, groups=groups)
        elif len(present) > 1:
            head = HeadClassifier(HEAD, examples.text, classes=every)
            self._classes, self._head = every, head.fit(audio, labels, groups=groups)
        else:
            # It learns nothing from clips but which classes there are.
            zero_shot = ZeroShotClassifier(examples.text).fit(examples.text, every)
            self._classes, self._head = every, zero_shot

    def probabilities(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the share that every class has of rows (n, dim), (n, n_classes); not calibrated.

        A class without a label has none where the encoder reads no text.
        """
        shares = np.zeros((len(audio), self.n_classes), np.float32)
        for start in range(0, len(audio), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            shares[rows, self._classes] = self._head.predict_proba(audio[rows])
        return shares


def can_fit(examples: Examples) -> bool:
    """Tell whether there is something to tell apart."""
    named = examples.n_classes if examples.text is not None else 0
    return max(named, len(np.unique(examples.labels))) > 1


def held_out(examples: Examples, go_on: Callable[[], None] = lambda: None) -> NDArray[np.bool_] | None:
    """Say of every labelled row whether a head is right that was fitted without its group, in turns.

    Parameters
    ----------
    examples : Examples
    go_on : callable
        Called before every fit; ends all of it by raising.

    Returns
    -------
    array, shape (n,)
        ``None`` where there are fewer than two groups or nothing to tell apart.
    """
    folds = _folds(examples.labels, examples.groups)
    if folds.max(initial=0) < 1 or not can_fit(examples):
        return None
    correct = np.zeros(len(folds), bool)
    for fold in range(folds.max() + 1):
        go_on()
        out = folds == fold
        training = examples.part(~out)
        if can_fit(training):
            answers = Classifier(training).probabilities(examples.audio[out]).argmax(axis=1)
        else:
            answers = np.full(out.sum(), training.labels[0])
        correct[out] = answers == examples.labels[out]
    return correct


def accuracy(correct: NDArray[np.bool_], groups: NDArray[np.int64]) -> Accuracy:
    r"""Return an accuracy with its interval, for which rows of one group are no independent evidence.

    .. math:: V = \frac{G}{G - 1}\,\frac{\sum_g \big(\sum_{i \in g} (r_i - \bar r)\big)^2}{n^2}

    over :math:`G` groups, with Student's quantile; two groups that are right and two that are wrong are
    added, as Agresti and Coull add to single clips.

    References
    ----------
    Cochran, "Sampling Techniques", 3rd ed., section 11.2 (ratio estimate of a cluster sample); Agresti and
    Coull, The American Statistician 52, 1998.
    """
    _, place = np.unique(groups, return_inverse=True)
    sizes = np.bincount(place)
    typical = sizes.mean()
    sizes = np.concatenate([sizes, np.full(4, typical)])
    sums = np.concatenate([np.bincount(place, weights=correct), typical * np.array([1, 1, 0, 0])])
    n_groups, middle = len(sizes), sums.sum() / sizes.sum()
    variance = n_groups / (n_groups - 1) * ((sums - middle * sizes) ** 2).sum() / sizes.sum() ** 2
    reach = float(stdtrit(n_groups - 1, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Accuracy(
        len(correct), float(correct.mean()), float(max(0.0, middle - reach)), float(min(1.0, middle + reach))
    )


def propose(
    by: Proposal,
    embeddings: NDArray[np.float32],
    labelled: NDArray[np.int64],
    open_to: NDArray[np.bool_],
    probabilities: NDArray[np.float32] | None,
    count: int = ROUND,
    *,
    of_class: int = 0,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Choose the rows to be labelled next.

    Parameters
    ----------
    by : str
        ``uncertain``: least lead of the likeliest class over the second; ``diverse``: farthest from all that
        is labelled; ``both``: the most diverse among the most uncertain; ``likely``: likeliest to be of one
        class; ``random``: the next of :func:`random_order`.
    embeddings : array, shape (n, dim) or (n, views, dim)
    labelled : array
        Rows that are labelled.
    open_to : array, shape (n,)
        Rows that may be proposed.
    probabilities : array, shape (n, n_classes), optional
        Of a :class:`Classifier`; without them rows are proposed by ``diverse``, unless at random.
    count : int
        How many.
    of_class : int
        For ``likely``.

    Returns
    -------
    array, shape (at most count,)
        Row numbers, the best first.
    """
    open_to = open_to.copy()
    open_to[labelled] = False
    if by == "random":
        order = random_order(len(open_to), seed)
        return order[open_to[order]][:count]
    if by == "diverse" or probabilities is None:
        return diverse(embeddings, labelled, count, among=open_to).rows
    candidates = np.flatnonzero(open_to)
    shares = probabilities[candidates]
    score = shares[:, of_class] if by == "likely" else uncertainty(shares)
    ranked = candidates[np.argsort(-score, kind="stable")]
    if by != "both":
        return ranked[:count]
    pool = np.zeros(len(open_to), bool)
    pool[ranked[: POOL * count]] = True
    return diverse(embeddings, labelled, count, among=pool).rows


def random_order(n_rows: int, seed: int = 0) -> NDArray[np.int64]:
    """Return all rows in the order in which they are proposed at random."""
    return np.random.RandomState(seed).permutation(n_rows)


def random_sample(
    is_labelled: NDArray[np.bool_], usable: NDArray[np.bool_], seed: int = 0
) -> NDArray[np.int64]:
    """Return the labelled rows that are a random sample of all: as far as the random order is labelled.

    Rows that were proposed for a reason are harder, or more of one class, than rows are: only of a random
    sample the accuracy is that of all rows.

    Parameters
    ----------
    is_labelled, usable : array, shape (n,)
    """
    order = random_order(len(usable), seed)
    order = order[usable[order]]
    gaps = np.flatnonzero(~is_labelled[order])
    return order[: gaps[0]] if len(gaps) else order


def _folds(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Deal groups into at most :data:`FOLDS` parts, those of a class one after the other."""
    names, first, place = np.unique(groups, return_index=True, return_inverse=True)
    order = np.lexsort((names, labels[first]))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % min(FOLDS, max(len(names), 1))
    return fold[place]
