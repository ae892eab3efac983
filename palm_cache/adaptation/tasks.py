"""The few-shot draw: which clips a head may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

import numpy as np
import torch
from numpy.typing import NDArray

from palm_cache.errors import DataError, counted
from palm_cache.types import Features
from palm_cache.types.runs import ALL_SHOTS, Run, Task


def draw(features: Features, run: Run) -> Task:
    """Draw the clips that a run learns from and is scored on: see :func:`few_shot`."""
    n_classes = n_base_classes(features) if run.base_only else None
    return few_shot(features, fold=run.fold, shots=run.shots, seed=run.seed, n_classes=n_classes)


def n_base_classes(features: Features) -> int:
    """Return how many of the sorted classes are base classes: see :func:`half_of`.

    Raises
    ------
    DataError
        If either half has a single class: there is nothing to tell apart.
    """
    n_classes = len(features.class_names)
    if n_classes < 4:
        raise DataError(
            f"{features.dataset}: {counted(n_classes, 'class', 'classes')} cannot be split into base and "
            "novel ones; it takes four"
        )
    return half_of(n_classes)


def half_of(n_classes: int) -> int:
    """Return half of the classes, rounded up: so many, the first ones, are base classes."""
    return -(-n_classes // 2)


def folds_of(features: Features, folds: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the folds that are asked for, counted from 1; all where none is.

    Raises
    ------
    DataError
        If one does not exist, or fewer than two classes are labelled.
    """
    if not features.folds or len(features.class_names) < 2:
        only = features.class_names[0] if len(features.class_names) == 1 else ""
        has = f"has labels of one class only, {only!r}" if only else "has no labels of two classes"
        remedy = (
            "add clips of another class, if only of all other sounds, and extract again"
            if only
            else f"label it with: palm-cache label {quote(features.store)}"
        )
        raise DataError(f"{features.dataset}: {has}, so nothing can be learned from it or scored; {remedy}")
    absent = [fold for fold in folds if not 1 <= fold <= len(features.folds)]
    if absent:
        raise DataError(
            f"{features.dataset}: no fold {absent[0]}; it has {len(features.folds)}, counted from 1"
        )
    return tuple(folds or range(1, len(features.folds) + 1))


def few_shot(features: Features, *, fold: int, shots: int, seed: int, n_classes: int | None = None) -> Task:
    """Draw ``shots`` training clips per class from one fold.

    The same clips as the authors' code draws from the same table: classes in sorted order, one
    permutation of a class's rows each, all from one ``numpy.random.RandomState(seed)``. A class with
    fewer usable clips than shots is taken whole and draws nothing; one with none is named apart. Of all
    shots every class is permuted whole. Clips without an embedding take no part, neither here nor in the
    test set.

    Parameters
    ----------
    features : Features
    fold : int
        Counted from 1.
    shots : int
        Clips per class; 0 draws none, :data:`ALL_SHOTS` all of them.
    seed : int
        0 to 2**32 - 1.
    n_classes : int, optional
        Draw from so many classes alone, the first ones.

    Raises
    ------
    DataError
        If the fold does not exist, has no usable test clip, or training clips of fewer than two classes.

    References
    ----------
    Hanif et al., EMNLP 2024; official utils/dataset.py, FewShotDataset.
    """
    folds_of(features, (fold,))
    rows = features.folds[fold - 1]
    test = rows.test[features.usable[rows.test]]
    if not len(test) and len(rows.test):
        raise _unfit(features, fold, "no test clip has an embedding")
    if shots == 0:
        return Task(torch.empty(0, dtype=torch.int64), test)
    train = rows.train[features.usable[rows.train]]
    labels = features.labels[train].numpy()
    random = np.random.RandomState(seed)
    drawn: list[NDArray[np.int64]] = []
    short: list[str] = []
    absent: list[str] = []
    for label, name in enumerate(features.class_names[:n_classes]):
        candidates = np.flatnonzero(labels == label)
        if not len(candidates):
            absent.append(name)
        elif len(candidates) < shots < ALL_SHOTS:
            short.append(name)
        else:
            candidates = candidates[random.permutation(len(candidates))[:shots]]
        drawn.append(candidates)
    chosen = train[torch.from_numpy(np.concatenate(drawn))]
    if not len(chosen):
        raise _unfit(features, fold, "no training clip has an embedding")
    if len(absent) == len(drawn) - 1:
        only = features.class_names[int(features.labels[chosen[0]])]
        why = f"all training clips are of class {only!r}, and a head needs two"
        raise _unfit(features, fold, why, "add clips of another and extract again")
    return Task(chosen, test, tuple(short), tuple(absent))


def _unfit(features: Features, fold: int, why: str, remedy: str = "") -> DataError:
    """Return the error of a fold that nothing can be learned from or scored on; ``remedy`` if it is alone."""
    remedy = remedy or f"see which failed, and why, with: palm-cache store info {quote(features.store)}"
    others = "choose others with `folds`" if len(features.folds) > 1 else remedy
    return DataError(f"{features.dataset}, fold {fold}: {why}; {others}")
