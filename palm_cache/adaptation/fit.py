"""Fit heads on the features of a store: draw, batch the runs of one shape, train, keep."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from palm_cache.adaptation.grid import plan_runs
from palm_cache.adaptation.heads import HEADS, find_head
from palm_cache.adaptation.heads.base import (
    Head,
    Shots,
    Tick,
    Words,
    need_finite,
    need_words,
    unit,
)
from palm_cache.adaptation.heads.prototype import class_means
from palm_cache.adaptation.scorer import is_outdated
from palm_cache.adaptation.tasks import draw
from palm_cache.adaptation.threads import LARGE, threads_for
from palm_cache.errors import DataError, ParameterError, UnknownNameError, counted
from palm_cache.params import FitParams, TestViews
from palm_cache.store.atomic import check_writable
from palm_cache.store.features import FeatureStore
from palm_cache.store.head_writing import add_heads
from palm_cache.store.header import StoreHeader
from palm_cache.store.heads import opened_heads
from palm_cache.store.join import read_opened
from palm_cache.store.layout import command_line, heads_path
from palm_cache.store.run_names import run_name
from palm_cache.types import ALL_TEMPLATES, DESCRIPTIONS, Features, Place, Progress, TextTower, no_progress
from palm_cache.types.runs import BASE_NOVEL, FittedHead, Run, Task

FROM_SHOTS = "class means"
"""Stands for a template where the class means of a run's shots stood in for prompts."""

LoadTower = Callable[[StoreHeader], TextTower]
"""Loads the text tower of the encoder that made a store; called only where a head needs it."""

CLASSES_NAMED = 5
"""Classes that a note names."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit did."""

    heads_file: Path
    features: Features
    header: StoreHeader
    """Of the store, of joined ones the first."""
    tower: TextTower | None
    """That of its encoder, where a head of this fit learned words."""
    fitted: tuple[FittedHead, ...]
    """The runs of this fit."""
    notes: tuple[str, ...]


def fit_store(
    store: Place,
    out: Path,
    params: FitParams,
    *,
    partners: Sequence[Place] = (),
    load_tower: LoadTower | None = None,
    progress: Progress = no_progress,
) -> Fit:
    """Fit the heads that are asked for on a feature store and keep them in ``heads.h5``.

    Heads of earlier fits stay in the file as long as they were fitted on the same features. Where the fit is
    interrupted, or a run of it fails, those that are fitted are kept. ``partners`` are stores of the same
    clips from further encoders; their features are joined.

    Raises
    ------
    StoreError
        If a store is missing, unfinished or damaged, stores cannot be joined, or a heads file lies there
        that cannot be read.
    ParameterError
        If a head needs two encoders and has one, or the other way round.
    UnknownNameError
        If the store does not hold the template.
    DataError
        If a fold has training clips of one class only, or a head reads prompts and the store holds no text.
    OutputError
        If the heads cannot be written.
    """
    opened = [FeatureStore(place) for place in (store, *partners)]
    header = opened[0].header
    features = read_opened(opened)
    path = heads_path(out, features.dataset, features.encoder)
    wordy = [head for head in params.heads if find_head(head).needs_text_tower]
    if wordy and partners:
        raise ParameterError(f"head {wordy[0]!r} learns words of one encoder: fit it on one encoder's store")
    for name in wordy:  # before anything is loaded
        _need_text(features, find_head(name))
    check_writable(path.parent)
    if path.exists():  # what cannot be read takes no more heads either
        with opened_heads(path):
            pass
    twins = opened[0].twins()  # now: while heads are fitted, another extraction may replace the store
    tower = load_tower(header) if wordy and load_tower else None
    joined = {"joined": [each.header.recipe for each in opened]}

    def keep(heads: list[FittedHead]) -> list[str]:
        return add_heads(
            path,
            heads,
            store,
            *partners,
            identity=joined if partners else header.recipe,
            views=header.views,
            outdated=partial(is_outdated, dim=features.audio.shape[2]),
        )

    fitted, notes = fit_runs(features, params, tower=tower, keep=keep, progress=progress)
    limited = [f"{store} {header.limited}"] if header.limited else []
    return Fit(path, features, header, tower, tuple(fitted), (*limited, *notes, *twins))


def read_stores(stores: Sequence[Place], fit: Fit | None = None) -> tuple[Features, StoreHeader]:
    """Return what the stores of some heads hold, and the header of the first.

    Of the fit that has just written the heads nothing is read again: its stores may be gone.
    """
    if fit:
        return fit.features, fit.header
    opened = [FeatureStore(place) for place in stores]
    return read_opened(opened), opened[0].header


def tower_to_score(
    heads: Iterable[FittedHead], header: StoreHeader, load_tower: LoadTower | None
) -> TextTower | None:
    """Load the text tower of the encoder that made a store, if one of the heads needs it to score clips."""
    needed = any(find_head(head.run.head).scores_through_tower for head in heads)
    return load_tower(header) if needed and load_tower else None


def fit_runs(
    features: Features,
    params: FitParams,
    *,
    tower: TextTower | None = None,
    chosen: Mapping[str, Tensor] | None = None,
    keep: Callable[[list[FittedHead]], list[str]] = lambda heads: [],
    progress: Progress = no_progress,
) -> tuple[list[FittedHead], list[str]]:
    """Fit every run that is asked for; runs of one shape are trained in one tensor program.

    Parameters
    ----------
    chosen : mapping of Tensor, optional
        What a run chose for itself, for every run of this fit: nothing is chosen again.
    keep : callable
        Is given what is fitted in the end, also where that is not all: one diverges, or Ctrl-C ends it. It
        returns notes, which the exception then has.

    Returns
    -------
    heads : list of FittedHead
        In the order of :func:`plan_runs`.
    notes : list of str
        What the user should know: clips left out, classes with fewer clips than shots.
    """
    runs = plan_runs(features, params)
    heads = {name: find_head(name)(params.template, params.training) for name in params.heads}
    if params.split == BASE_NOVEL:
        _need_prompts(features, heads.values())
    tasks = {run: draw(features, run) for run in runs}
    words = Words(tower, features.class_names) if tower else None
    for head in heads.values():  # before anything is trained for nothing
        if max(1, len(features.parts)) < head.n_encoders:
            raise ParameterError(
                f"head {head.name!r} needs the features of {head.n_encoders} encoders: name all of them"
            )
        _need_text(features, type(head))
        if head.needs_text_tower:
            need_words(words, type(head))
        head.load()
    batches: dict[tuple[str, int, int], list[Run]] = {}
    for run in runs:
        batches.setdefault((run.head, run.shots, len(tasks[run].train)), []).append(run)
    n_views = features.audio.shape[1]
    steps, total = Counter[str](), Counter[str]()
    for run in runs:
        total[run.head] += heads[run.head].n_steps(n_views * len(tasks[run].train))
    fitted: dict[Run, FittedHead] = {}

    def kept() -> tuple[list[FittedHead], list[str]]:
        in_order = [fitted[run] for run in runs if run in fitted]
        return in_order, keep(in_order) if in_order else []

    try:
        for batch in batches.values():
            name = batch[0].head
            head = heads[name]

            # Head by head: a step of one may take a thousand times as long as a step of another.
            def tick(number: int, name: str = name) -> None:
                steps[name] += number
                progress(f"training {name}", steps[name], total[name])

            rows = torch.stack([tasks[run].train for run in batch])
            # Learning words goes through a text tower, whose tensors are large whatever the shots are.
            numbers = LARGE if head.needs_text_tower else rows.numel() * features.audio[0].numel()
            with threads_for(numbers):
                shots = _gather(features, head, batch, rows, words, chosen or {}, tick)
                for result in _fit_batch(features, head, batch, shots, params.test_views):
                    fitted[result.run] = result
    except BaseException as error:
        for note in kept()[1]:
            error.add_note(note)
        raise
    heads_fitted, of_keeping = kept()
    notes = _notes(features, tasks)
    from_shots = [name for name, head in heads.items() if _starts_from_shots(features, head)]
    if from_shots:
        notes.append(
            f"{features.dataset}: the {features.encoder} store holds no text embeddings: class means of the "
            f"shots stand in for the prompts of {' and '.join(from_shots)}"
        )
    return heads_fitted, [*notes, *of_keeping]


def text_of(features: Features, template: str) -> Tensor:
    """Return the unit text embeddings (n_classes, dim) of one prompt template, of all, or of descriptions.

    Raises
    ------
    DataError
        If the store holds no text embeddings.
    UnknownNameError
        If it holds others.
    """
    if not features.templates:
        raise DataError(f"{features.dataset}: the {features.encoder} store holds no text embeddings")
    if template == ALL_TEMPLATES:
        return unit(unit(features.text).mean(dim=1))
    if template == DESCRIPTIONS and template not in features.templates:
        raise UnknownNameError(
            f"{features.dataset}: the {features.encoder} store holds no descriptions; add them with: "
            + command_line("extract", dataset=features.dataset, encoder=features.encoder, descriptions="FILE")
        )
    if template not in features.templates:
        known = [*(repr(known) for known in features.templates), ALL_TEMPLATES]
        raise UnknownNameError.among("template", template, known)
    return unit(features.text[:, features.templates.index(template)])


def _fit_batch(
    features: Features, head: Head, runs: Sequence[Run], shots: Shots, test_views: TestViews
) -> Iterator[FittedHead]:
    """Fit runs whose draws have one size and yield them; one that diverged is told of after the others."""
    started = time.perf_counter()
    states = head.fit(shots)
    seconds = (time.perf_counter() - started) / len(runs)
    n_examples, (_, n_classes, dim) = shots.labels.shape[1], shots.text.shape
    diverged = None
    token_dim = shots.words.tower.token_dim if shots.words else 0  # no other head's count depends on it
    for number, run in enumerate(runs):
        state = {name: value[number].clone() for name, value in states.items()}
        try:
            need_finite(state, head, f"{run.dataset}, {run_name(run)}")
        except ParameterError as error:
            diverged = diverged or error
            continue
        yield FittedHead(
            run=run,
            state=state,
            class_names=features.class_names,
            template=FROM_SHOTS if _starts_from_shots(features, head) else head.template,
            hyperparameters={**head.hyperparameters, **{name: state[name].tolist() for name in head.chooses}},
            test_views=test_views,
            fingerprint=features.fingerprint,
            digest=features.digest,
            n_train=n_examples // shots.views,
            n_params=head.n_params(n_classes, dim, token_dim, n_examples),
            fit_seconds=seconds,
        )
    if diverged:
        raise diverged


def _gather(
    features: Features,
    head: Head,
    runs: Sequence[Run],
    rows: Tensor,
    words: Words | None,
    chosen: Mapping[str, Tensor],
    tick: Tick,
) -> Shots:
    """Return what a head learns from, of runs whose shots are ``rows`` (runs, n_train)."""
    n_views = features.audio.shape[1]
    # Every view of a clip is a training example of its own.
    audio = unit(features.audio[rows]).flatten(1, 2)
    labels = features.labels[rows].repeat_interleave(n_views, dim=1)
    if _starts_from_shots(features, head):
        text = class_means(audio, labels, len(features.class_names))
    else:
        # What it does not read it is not given.
        nothing = torch.zeros(len(features.class_names), features.audio.shape[2])
        text = (text_of(features, head.prompt) if head.reads_text else nothing).expand(len(runs), -1, -1)
    return Shots(
        audio=audio,
        labels=labels,
        text=text,
        seeds=tuple(run.seed for run in runs),
        words=words,
        views=n_views,
        parts=features.parts,
        groups=None if features.groups is None else features.groups[rows].repeat_interleave(n_views, dim=1),
        chosen={name: value.expand(len(runs), *value.shape) for name, value in chosen.items()},
        tick=tick,
    )


def _need_prompts(features: Features, heads: Iterable[Head]) -> None:
    if not features.templates:
        raise DataError(
            f"{features.dataset}: the {features.encoder} store holds no text embeddings, and nothing else is "
            f"known of classes without clips: `split` {BASE_NOVEL} needs an encoder that reads text"
        )
    blind = [head.name for head in heads if not head.reads_text]
    if blind:
        raise ParameterError(
            f"head {blind[0]!r} reads no prompt, so it knows nothing of classes without clips: "
            f"leave it out of `split` {BASE_NOVEL}"
        )


def _need_text(features: Features, head: type[Head]) -> None:
    if features.templates or not head.reads_text or head.can_start_from_shots:
        return
    blind = [name for name, kind in HEADS.items() if not kind.reads_text]
    starting = [name for name, kind in HEADS.items() if kind.can_start_from_shots]
    raise DataError(
        f"{features.dataset}: the {features.encoder} store holds no text embeddings, and {head.name} reads "
        f"prompts; heads that read none: {', '.join(blind)}; {', '.join(starting)} start from class means"
    )


def _starts_from_shots(features: Features, head: Head) -> bool:
    return not features.templates and head.reads_text and head.can_start_from_shots


def _notes(features: Features, tasks: Mapping[Run, Task]) -> list[str]:
    notes = []
    failed = int((~features.usable).sum())
    if failed:
        without = counted(failed, "clip has no embedding and is", "clips have no embedding and are")
        notes.append(f"{features.dataset}: {without} left out")
    for shots in sorted({run.shots for run in tasks}):
        of_shots = {run: task for run, task in tasks.items() if run.shots == shots}
        if short := {(run.fold, name) for run, task in of_shots.items() for name in task.short_classes}:
            drawn = ((task, torch.unique(features.labels[task.train])) for task in of_shots.values())
            whole = all(len(task.short_classes) == len(classes) for task, classes in drawn)
            all_there_is = ": these runs learn from all clips, as with all shots" if whole else ""
            fewer = f"fewer than {counted(shots, 'clip')} of {_classes(short)}"
            notes.append(f"{features.dataset}: {fewer}; taken whole{all_there_is}")
    if absent := {(run.fold, name) for run, task in tasks.items() for name in task.absent_classes}:
        notes.append(
            f"{features.dataset}: no clip to learn from of {_classes(absent)}; only a prompt can speak for it"
        )
    return notes


def _classes(of_folds: Iterable[tuple[int, str]]) -> str:
    """Name folds and the first few of their classes: there may be hundreds."""
    numbers, names = (sorted(set(part)) for part in zip(*of_folds, strict=True))
    more = f" and {len(names) - CLASSES_NAMED:,} more" if len(names) > CLASSES_NAMED else ""
    listed = ", ".join(map(repr, names[:CLASSES_NAMED]))
    folds = f"{'fold' if len(numbers) == 1 else 'folds'} {', '.join(map(str, numbers))}"
    return f"{counted(len(names), 'class', 'classes')} in {folds}: {listed}{more}"
