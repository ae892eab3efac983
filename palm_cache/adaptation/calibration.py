r"""Calibrated probabilities: a temperature per run, fitted on shots that were held out.

.. math:: p = \mathrm{softmax}(\mathrm{logits} / T)

The shots that a run learned from say nothing about its confidence: it fits them. So they are split, class
by class; a head is fitted as the run's was on all parts but one and scores that one, until every shot has
been scored by a head that never saw it. What the run chose for itself, a kernel's width or a scale of its
logits, is held. Test clips take no part.

A temperature belongs to the scale that it was fitted on, and heads that learn their scale learn another one
from fewer shots: the logits of every such head are brought to the run's scale before they are compared.

A temperature is kept only where the held-out shots prefer it to none, and one that makes a head surer of
itself only where they do so beyond doubt.

C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from palm_cache.adaptation.evaluate import check_fresh
from palm_cache.adaptation.fit import Fit, LoadTower, fit_runs, read_stores
from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.heads.hyperparameters import deal, first_of_group
from palm_cache.adaptation.scorer import Scorer, outdated
from palm_cache.adaptation.tasks import draw
from palm_cache.adaptation.threads import LARGE, threads_for
from palm_cache.errors import DataError, PalmCacheError, some
from palm_cache.params import FitParams, TestViews
from palm_cache.store.atomic import check_writable
from palm_cache.store.head_writing import write_calibrations
from palm_cache.store.heads import opened_heads, read_heads
from palm_cache.store.run_names import choose_run, run_name
from palm_cache.types import Features, Fold, Place, Progress, TextTower, no_progress
from palm_cache.types.runs import Calibration, FittedHead, Run, Training

N_SPLITS = 4
"""Parts that shots are held out in; fewer where a class has fewer shots."""

SOFTER_PROOF, SURER_PROOF = 0.7, 3.0
"""Standard errors by which held-out shots must gain from a temperature above 1, and from one below it. Heads
that were fitted on fewer shots know a little less than the run, which alone would ask for some softening. To
become surer of itself a head needs proof: the shots come from the same recordings as those that it learned
from, and what it is used on is rarely as easy."""

MIN_SPLITS_TO_BE_SURER = 3
"""Heads that were fitted on half of the shots are too unlike the run to make it surer."""

QUIETEST = 1e-9
"""Least loudness that logits are divided by: where all classes are one to a head, no factor changes it."""

COLDEST, HOTTEST = math.log(0.25), 12.0
"""Bounds of a temperature's natural logarithm: no head is made more than four times as sure."""

PRECISION = 1e-4
"""Of that logarithm: finer than shots can tell, and coarser than what machines and threads make of logits, so
that nearly always all of them find the same temperature."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a calibration did."""

    run: Run
    calibration: Calibration | None
    problem: str = ""
    """Why there is none: no shot to hold out, or a head that cannot be fitted on fewer."""


def calibrate_file(
    path: Path,
    runs: Sequence[Run],
    *,
    store: Place | None = None,
    fit: Fit | None = None,
    load_tower: LoadTower | None = None,
    progress: Progress = no_progress,
) -> list[Calibrated]:
    """Fit the temperature of some runs of a heads file and keep it there.

    ``store`` is by default the one that the heads were fitted on, or those that were joined; ``fit`` is the
    fit that wrote the runs, if that was just now. Raises as :func:`palm_cache.calibrate`.
    """
    if not runs:
        return []
    check_writable(path.parent, "")
    heads, recorded = read_heads(path, runs)
    stores = (store,) if store else recorded
    features, header = read_stores(stores, fit)
    tower = None
    calibrated = []
    for number, head in enumerate(heads):
        progress("calibrating", number, len(runs))
        run = head.run
        if tower is None and load_tower and find_head(run.head).needs_text_tower:
            tower = load_tower(header)
        try:
            check_fresh([head], features, stores, path)
            calibrated.append(Calibrated(run, calibrate(features, head, tower)))
        except PalmCacheError as error:
            calibrated.append(Calibrated(run, None, str(error)))
        progress("calibrating", number + 1, len(runs))
    write_calibrations(path, {item.run: item.calibration for item in calibrated if item.calibration})
    return calibrated


def notes_of(calibrated: Iterable[Calibrated]) -> list[str]:
    """Return for each reason why runs have no temperature one note, which names some of them."""
    runs: dict[str, list[str]] = {}
    for item in calibrated:
        if item.problem:
            runs.setdefault(item.problem, []).append(run_name(item.run))
    return [f"not calibrated: {problem} ({some(names)})" for problem, names in runs.items()]


def runs_to_calibrate(path: Path) -> list[Run]:
    """Return the run of every head that would be taken first, where it has no calibration and it is cheap.

    Heads that learn words are left to those who ask: each of their fits goes through a text tower.
    """
    with opened_heads(path) as opened:
        every, calibrations = opened.runs(), opened.calibrations()
    runs = [run for run in every if run.shots > 1 and not find_head(run.head).needs_text_tower]
    first = [choose_run(runs, head) for head in sorted({run.head for run in runs})]
    return [run for run in first if run not in calibrations]


def calibrate(features: Features, head: FittedHead, tower: TextTower | None = None) -> Calibration:
    """Fit the temperature of one run on its own shots, held out, of the features that it was fitted on.

    Raises
    ------
    DataError
        If no shot can be held out.
    """
    run, kind = head.run, find_head(head.run.head)
    shots = draw(features, run).train
    groups = None if features.groups is None else features.groups[shots]
    splits = hold_out(shots, features.labels[shots], groups=groups)
    if not splits:
        # Without the run: what is true of one is true of all with such shots, which is one note.
        remedy = "; fit with more `shots`" if run.shots == 1 else ""
        raise DataError(
            f"{features.dataset}: no shots to hold out: a class needs two, not of one recording{remedy}"
        )
    of_shots = replace(features, folds=splits)
    absent = [name for name in kind.chooses if name not in head.state]
    if absent:
        raise outdated(run, absent[0])
    chosen = {name: head.state[name] for name in kind.chooses}
    fitted, _ = fit_runs(of_shots, _as_fitted(head, len(shots)), tower=tower, chosen=chosen)
    with threads_for(LARGE if tower else features.audio[shots].numel()):
        own = loudness(head, features, shots, tower)
        parts = [
            held_out_logits(refitted, features, split, tower, own)
            for refitted, split in zip(fitted, splits, strict=True)
        ]
    logits, labels = torch.cat(parts), torch.cat([features.labels[split.test] for split in splits])
    coldest = COLDEST if len(splits) >= MIN_SPLITS_TO_BE_SURER else 0.0
    temperature = fit_temperature(logits, labels, coldest)
    return Calibration(
        temperature=temperature,
        n_clips=len(labels),
        n_splits=len(splits),
        loss_before=float(held_out_losses(logits, labels, 1.0).mean()),
        loss=float(held_out_losses(logits, labels, temperature).mean()),
    )


def held_out_logits(
    head: FittedHead, features: Features, split: Fold, tower: TextTower | None, as_loud_as: float
) -> Tensor:
    """Score clips with a head that was fitted on others, brought to the :func:`loudness` of another head."""
    logits = Scorer(head, features.audio.shape[2], tower).clip_logits(features.audio[split.test])
    return logits * (as_loud_as / max(loudness(head, features, split.train, tower), QUIETEST))


def loudness(head: FittedHead, features: Features, learned: Tensor, tower: TextTower | None) -> float:
    """Return how far apart a head's logits put the classes, on the rows that it learned from.

    The standard deviation over the classes that it learned, the median over clips: a clip that it knows by
    heart, its own key in a cache, says little about others.
    """
    logits = Scorer(head, features.audio.shape[2], tower).clip_logits(features.audio[learned])
    classes = torch.unique(features.labels[learned])
    return float(logits[:, classes].double().std(dim=1, correction=0).median())


def _as_fitted(head: FittedHead, shots: int) -> FitParams:
    """Return the parameters that fit a head as it was fitted, on all shots of a fold."""
    protocol = {field.name for field in fields(Training)}
    return FitParams(
        heads=(head.run.head,),
        shots=(shots,),
        seeds=(head.run.seed,),
        template=head.template,
        test_views=cast("TestViews", head.test_views),
        split="base-novel" if head.run.base_only else "all",
        training=Training(
            **{name: cast("Any", value) for name, value in head.hyperparameters.items() if name in protocol}
        ),
    )


def hold_out(
    shots: Tensor, labels: Tensor, n_splits: int = N_SPLITS, groups: Tensor | None = None
) -> tuple[Fold, ...]:
    """Split shots (n_train,) so that every class is held out in equal parts, and groups (n_train,) whole.

    There are never more splits than groups of the smallest class that has two; by default every shot is a
    group of its own.

    Returns
    -------
    tuple of Fold
        ``train`` and ``test`` rows of every part, all of ``shots``; empty where nothing can be held out. A
        shot without another group of its class is in no ``test``.
    """
    if not len(shots):
        return ()
    n_classes = int(labels.max()) + 1
    own = (torch.arange(len(shots)) if groups is None else groups)[None]
    of_classes = torch.unique(torch.stack([labels, first_of_group(own)[0]]), dim=1)[0]
    counts = torch.bincount(of_classes)
    divisible = counts[counts > 1]
    if not len(divisible):
        return ()
    n_splits = min(n_splits, int(divisible.min()))
    part = deal(labels[None], n_classes, own, n_splits)[0]
    return tuple(
        Fold(shots[part != number], shots[part == number])
        for number in range(n_splits)
        if (part == number).any()
    )


def fit_temperature(logits: Tensor, labels: Tensor, coldest: float = COLDEST) -> float:
    r"""Return the temperature that held-out clips prefer to 1, or 1.

    .. math:: \arg\min_T \; \sum_i \ell_i(T) + \ell_{n + 1}(T), \qquad
              \ell_i(T) = -\log \mathrm{softmax}(\mathrm{logits}_i / T)_{y_i}

    Clip :math:`n + 1` is one that is missed, as a clip like the others would be: its loss is the mean of what
    theirs would be, were the best of the wrong classes the right one. So :math:`n` clips without a mistake
    allow about the confidence of Laplace's rule of succession, and not certainty. The loss is convex in
    :math:`1/T`.

    Parameters
    ----------
    logits : Tensor, shape (n_clips, n_classes)
        Of clips that the head was not fitted on.
    labels : Tensor, shape (n_clips,)
    coldest : float
        Least natural logarithm of the temperature.
    """
    logits = logits.double()
    right, best_wrong = _right_and_best_wrong(logits, labels)

    def slope(temperature: float) -> float:
        """Of the loss in 1/T: what each clip's logit is on average less what it is of the right class."""
        expected = ((logits / temperature).softmax(dim=1) * logits).sum(dim=1)
        return float((expected - right).sum() + (expected - best_wrong).mean())

    lowest, highest = coldest, HOTTEST
    while highest - lowest > PRECISION:
        middle = (lowest + highest) / 2
        if slope(math.exp(middle)) > 0:
            lowest = middle
        else:
            highest = middle
    temperature = math.exp((lowest + highest) / 2)
    gain = held_out_losses(logits, labels, 1.0) - held_out_losses(logits, labels, temperature)
    doubt = float(gain.std(correction=0)) / math.sqrt(len(gain))
    proof = SURER_PROOF if temperature < 1 else SOFTER_PROOF
    return temperature if float(gain.mean()) > proof * doubt else 1.0


def held_out_losses(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the losses (n_clips + 1,) of clips and of one that is missed: see :func:`fit_temperature`."""
    scaled = logits.double() / temperature
    right, best_wrong = _right_and_best_wrong(scaled, labels)
    of_all = scaled.logsumexp(dim=1)
    return torch.cat([of_all - right, (of_all - best_wrong).mean()[None]])


def _right_and_best_wrong(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return every clip's logit of its class and the largest of the others, (n_clips,) each."""
    own = labels[:, None]
    return logits.gather(1, own)[:, 0], logits.scatter(1, own, -torch.inf).amax(dim=1)
