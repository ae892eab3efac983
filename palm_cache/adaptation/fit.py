"""Fit heads on the features of a store: draw, batch the runs of one shape, train, keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from palm_cache.adaptation.grid import plan_runs
from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.heads.base import Head, Shots, Tick, Words, need_words, unit
from palm_cache.adaptation.tasks import few_shot
from palm_cache.errors import UnknownNameError
from palm_cache.params import FitParams, TestViews
from palm_cache.store.features import FeatureStore, StoreHeader
from palm_cache.store.heads import read_heads, write_heads
from palm_cache.store.layout import heads_path
from palm_cache.types import BARE_TEMPLATE, Features, FittedHead, Progress, Run, Task, TextTower, no_progress

LoadTower = Callable[[StoreHeader], TextTower]
"""Loads the text tower of the encoder that made a store; called only where a head needs it."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit did."""

    heads_file: Path
    features: Features
    fitted: tuple[FittedHead, ...]
    """The runs of this fit."""
    kept: int
    """Runs of earlier fits on the same features that stay in the file."""
    notes: tuple[str, ...]


def fit_store(
    store: Path,
    out: Path,
    params: FitParams,
    *,
    load_tower: LoadTower | None = None,
    progress: Progress = no_progress,
) -> Fit:
    """Fit the heads that are asked for on a feature store and keep them in ``heads.h5``.

    Heads of earlier fits stay in the file as long as they were fitted on the same features.

    Parameters
    ----------
    load_tower : callable, optional
        For heads that learn words.

    Raises
    ------
    StoreError
        If the store is missing, unfinished or damaged.
    UnknownNameError
        If the store does not hold the template.
    OutputError
        If the heads cannot be written.
    """
    opened = FeatureStore(store)
    features = opened.read()
    wordy = any(find_head(head).needs_text_tower for head in params.heads)
    tower = load_tower(opened.header) if wordy and load_tower else None
    fitted, notes = fit_runs(features, params, tower=tower, progress=progress)
    path = heads_path(out, features.dataset, features.encoder)
    earlier = read_heads(path)[0] if path.exists() else []
    renewed = {head.run for head in fitted}
    others = [head for head in earlier if head.run not in renewed]
    kept = [head for head in others if head.digest == features.digest]
    if len(kept) < len(others):
        dropped = len(others) - len(kept)
        notes.append(f"{path}: {dropped} head(s) of an earlier state of the store are dropped")
    write_heads(path, [*kept, *fitted], store)
    return Fit(path, features, tuple(fitted), len(kept), tuple(notes))


def fit_runs(
    features: Features,
    params: FitParams,
    *,
    tower: TextTower | None = None,
    progress: Progress = no_progress,
) -> tuple[list[FittedHead], list[str]]:
    """Fit every run that is asked for; runs of one shape are trained in one tensor program.

    Returns
    -------
    heads : list of FittedHead
        In the order of :func:`plan_runs`.
    notes : list of str
        What the user should know: clips left out, classes with fewer clips than shots.
    """
    runs = plan_runs(features, params)
    tasks = {run: few_shot(features, fold=run.fold, shots=run.shots, seed=run.seed) for run in runs}
    words = Words(tower, features.class_names) if tower else None
    batches: dict[tuple[str, int, int], list[Run]] = {}
    for run in runs:
        batches.setdefault((run.head, run.shots, len(tasks[run].train)), []).append(run)
    heads = {name: find_head(name)(params.template, params.training) for name in params.heads}
    for head in heads.values():
        if head.needs_text_tower:
            need_words(words, type(head))  # before anything is trained for nothing
    steps = {run: _steps(features, heads[run.head], len(tasks[run].train)) for run in runs}
    done, total = 0, sum(steps.values())
    fitted: dict[Run, FittedHead] = {}

    def tick(number: int) -> None:
        nonlocal done
        done += number
        progress("training", done, total)

    for batch in batches.values():
        head = heads[batch[0].head]
        of_batch = [tasks[run] for run in batch]
        for result in _fit_batch(features, head, batch, of_batch, params.test_views, words, tick):
            fitted[result.run] = result
    return [fitted[run] for run in runs], _notes(features, tasks)


def _steps(features: Features, head: Head, n_train: int) -> int:
    """Return how many steps of gradient descent a run takes."""
    if not head.trained:
        return 0
    n_examples = n_train * features.audio.shape[1]
    return head.training.epochs * -(-n_examples // head.training.batch_size)


def text_of(features: Features, template: str) -> Tensor:
    """Return the unit text embeddings (n_classes, dim) of one prompt template.

    Raises
    ------
    UnknownNameError
        If the store does not hold the template.
    """
    if template not in features.templates:
        raise UnknownNameError.among("template", template, [repr(known) for known in features.templates])
    return unit(features.text[:, features.templates.index(template)])


def _fit_batch(
    features: Features,
    head: Head,
    runs: Sequence[Run],
    tasks: Sequence[Task],
    test_views: TestViews,
    words: Words | None,
    tick: Tick,
) -> list[FittedHead]:
    """Fit runs whose draws have one size."""
    rows = torch.stack([task.train for task in tasks])
    n_views = features.audio.shape[1]
    shots = Shots(
        # Every view of a clip is a training example of its own.
        audio=unit(features.audio[rows]).flatten(1, 2),
        labels=features.labels[rows].repeat_interleave(n_views, dim=1),
        text=text_of(features, BARE_TEMPLATE if head.needs_text_tower else head.template),
        seeds=tuple(run.seed for run in runs),
        words=words,
    )
    started = time.perf_counter()
    states = head.fit(shots, tick)
    seconds = (time.perf_counter() - started) / len(runs)
    n_classes, dim = shots.text.shape
    token_dim = words.tower.token_dim if words else 0  # no other head's count depends on it
    return [
        FittedHead(
            run=run,
            state={name: value[number].clone() for name, value in states.items()},
            class_names=features.class_names,
            template=head.template,
            hyperparameters=head.hyperparameters,
            test_views=test_views,
            fingerprint=features.fingerprint,
            digest=features.digest,
            n_train=rows.shape[1],
            n_params=head.n_params(n_classes, dim, token_dim),
            fit_seconds=seconds,
        )
        for number, run in enumerate(runs)
    ]


def _notes(features: Features, tasks: Mapping[Run, Task]) -> list[str]:
    notes = []
    failed = int((~features.usable).sum())
    if failed:
        notes.append(f"{features.dataset}: {failed} clip(s) have no embedding and are left out")
    short: dict[tuple[int, str], set[int]] = {}
    for run, task in tasks.items():
        for name in task.short_classes:
            short.setdefault((run.shots, name), set()).add(run.fold)
    for (shots, name), folds in sorted(short.items()):
        where = ", ".join(map(str, sorted(folds)))
        notes.append(
            f"{features.dataset}: class {name!r} has fewer than {shots} clips in fold(s) {where}; taken whole"
        )
    return notes
