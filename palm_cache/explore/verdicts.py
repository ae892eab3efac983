"""What is said about every clip, by a fitted head or by its neighbours, and where that is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from palm_cache.errors import ParameterError, StaleStoreError, StoreError, UnknownNameError
from palm_cache.store.layout import RUNS, command_line, heads_path, slug
from palm_cache.store.remedies import fit_command
from palm_cache.store.run_names import choose_run, run_named, without_variant
from palm_cache.store.scores import RunPrediction, read_predictions
from palm_cache.types import Features, Place, Progress, no_progress

PREDICTIONS = RUNS / "predictions.h5"

NEIGHBOURS = 10

COSINES_AT_ONCE = 1 << 24
"""Of clips to one another: 64 MiB of them."""

LISTED_PER_CLASS = 25


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One class per clip, said by somebody."""

    run: str | None
    """Name of the run, or ``None`` where neighbours voted."""
    said: NDArray[np.int64]
    """(n_clips,) class; -1 where nothing is said."""
    share: NDArray[np.float64]
    """(n_clips,) probability of that class, or the share of neighbours that voted for it."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """What went wrong with the clips of one class."""

    label: int
    judged: int
    """Clips about which something is said."""
    wrong: int
    taken_for: tuple[tuple[int, int], ...]
    """(class, clips) that they were taken for, most frequent first."""
    clips: tuple[int, ...]
    """Numbers of wrong clips, the surest mistakes first, at most :data:`LISTED_PER_CLASS`."""


def neighbour_votes(features: Features, progress: Progress = no_progress) -> Verdicts:
    """Let the ten nearest other clips vote on every clip; of equal votes the class that sorts first wins."""
    usable = np.flatnonzero(features.usable.numpy())
    labels = features.labels.numpy()
    directions = normalize(features.audio[usable, 0], dim=1)
    count, step = min(NEIGHBOURS, len(usable) - 1), max(1, COSINES_AT_ONCE // len(usable))
    votes = np.zeros((len(usable), len(features.class_names)))
    for first in range(0, len(usable), step):
        cosines = directions[first : first + step] @ directions.T
        cosines.diagonal(first).fill_(-torch.inf)  # its own
        voters = labels[usable[cosines.topk(count).indices.numpy()]]
        np.add.at(votes, (np.arange(first, first + len(voters))[:, None], voters), 1 / count)
        progress("comparing", first + len(voters), len(usable))
    classes, share = _nothing_said(len(labels))
    classes[usable], share[usable] = votes.argmax(axis=1), votes.max(axis=1)
    return Verdicts(None, classes, share)


def read_run(file: Path, run: str | None, features: Features, store: Place) -> Verdicts:
    """Read what a run said from ``predictions.h5``.

    Parameters
    ----------
    run : str, optional
        As in the file, or without its fold, ``palm-16shots-seed0`` (and without its variant where there is
        one alone): then all folds together speak about
        every clip that one of them tested (the first, where several did). It can be left out where all
        runs differ in the fold alone.
    store : Place
        Where the features lie.

    Raises
    ------
    StoreError
        If there are no predictions for the store.
    UnknownNameError
        If the run is not among them.
    ParameterError
        If none is named and there are several.
    StaleStoreError
        If they were made on another state of the store.
    DamagedStoreError
        If the file cannot be read.
    """
    encoder = slug(features.encoder)
    heads = heads_path(file.parent, features.dataset, features.encoder)
    predictions = {
        prediction.run: prediction
        for prediction in (read_predictions(file) if file.exists() else ())
        if (prediction.dataset, prediction.encoder) == (features.dataset, encoder)
    }
    if not predictions:
        options = {"store": store, "out": file.parent}
        remedy = command_line("evaluate", **options)
        if not heads.exists():
            remedy = command_line("fit", **_options_of(run), **options)
        raise StoreError(f"{file}: no predictions for {features.dataset}/{encoder}; make them with: {remedy}")
    name, members = _members(list(predictions), run, file)
    classes, share = _nothing_said(len(features.labels))
    for member in reversed(members):
        if not _fits(predictions[member], features):
            runs = [run_named(name, features.dataset, features.encoder) for name in members]
            raise StaleStoreError(
                f"{file}: {member} was made on another state of the {features.dataset} store (its clips, "
                f"labels or classes have changed); fit again with: {fit_command(runs, [store], heads)}"
            )
        rows, surest = predictions[member].rows.numpy(), predictions[member].logits.softmax(dim=1).max(dim=1)
        classes[rows], share[rows] = surest.indices.numpy(), surest.values.numpy()
    return Verdicts(name, classes, share)


def confusions(verdicts: Verdicts, labels: NDArray[np.int64], n_classes: int) -> list[Confusion]:
    """Return what went wrong in every class, the class with most mistakes first."""
    classes, of_classes = verdicts.said, []
    for label in range(n_classes):
        judged = np.flatnonzero((labels == label) & (classes >= 0))
        mistaken = judged[classes[judged] != label]
        surest = mistaken[np.argsort(-verdicts.share[mistaken], kind="stable")]
        taken_for = Counter(classes[mistaken].tolist())
        ranked = sorted(taken_for.items(), key=lambda item: (-item[1], item[0]))
        of_classes.append(
            Confusion(
                label, len(judged), len(mistaken), tuple(ranked), tuple(surest[:LISTED_PER_CLASS].tolist())
            )
        )
    return sorted(of_classes, key=lambda confusion: (-confusion.wrong, confusion.label))


def across_folds(runs: Iterable[str]) -> dict[str, list[str]]:
    """Gather runs that differ in the fold alone, under their name without it, ``palm-16shots-seed0``."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(re.sub(r"-fold\d+", "", run), []).append(run)
    return dict(sorted(groups.items()))


def _nothing_said(n_clips: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.full(n_clips, -1, dtype=np.int64), np.zeros(n_clips)


def _members(names: list[str], run: str | None, file: Path) -> tuple[str, list[str]]:
    """Return the name of what is asked for and the runs that belong to it."""
    groups = across_folds(names)
    if run is None:
        if len(groups) > 1:
            raise ParameterError(f"{file}: say which run with `run`: {', '.join(groups)}")
        run = next(iter(groups))
    if run in groups:
        return run, sorted(groups[run])
    if run in names:
        return run, [run]
    plain = [name for name in groups if without_variant(name) == run]
    if len(plain) == 1:
        return plain[0], sorted(groups[plain[0]])
    # As predict understands it: a head, or the beginning of a run's name.
    runs = {run_named(name, "", ""): name for name in names}
    try:
        chosen = runs[choose_run(runs, run)]
    except UnknownNameError:
        if "shot" not in run:
            raise
        known_runs = dict.fromkeys([*map(without_variant, groups), *groups, *names])
        raise UnknownNameError.among("run", run, known_runs) from None
    if "-fold" in run:
        return chosen, [chosen]
    return next((name, sorted(members)) for name, members in groups.items() if chosen in members)


def _options_of(run: str | None) -> dict[str, str | None]:
    """Return the options of ``fit`` that are in the name of a run, or in what is given of one."""
    match = re.match(r"(.+?)(?:@.*)?-(\d+|all)shots(?:-fold\d+)?(?:-seed(\d+))?", run or "", re.ASCII)
    return dict(zip(("head", "shots", "seeds"), match.groups(), strict=True)) if match else {}


def _fits(prediction: RunPrediction, features: Features) -> bool:
    """Tell whether a run's test clips are rows of a store as it is now."""
    rows, of_store = prediction.rows.numpy(), features.labels.numpy()
    return (
        prediction.class_names == features.class_names
        and rows.max(initial=-1) < len(of_store)
        and np.array_equal(of_store[rows], prediction.labels.numpy())
        and bool(features.usable.numpy()[rows].all())
    )
