"""Score fitted heads on the test clips of their folds, once, after training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pandas as pd
from torch import Tensor

from palm_cache.adaptation.fit import Fit, LoadTower, read_stores, tower_to_score
from palm_cache.adaptation.metrics import measure
from palm_cache.adaptation.scorer import Scorer
from palm_cache.adaptation.tasks import draw, n_base_classes
from palm_cache.adaptation.threads import LARGE, threads_for
from palm_cache.errors import PalmCacheError, StaleStoreError, StoreError, counted
from palm_cache.store.atomic import alone_in, check_target
from palm_cache.store.heads import read_heads
from palm_cache.store.layout import command_line, heads_path, slug
from palm_cache.store.outputs import METRICS
from palm_cache.store.remedies import fit_command
from palm_cache.store.run_names import run_name
from palm_cache.store.scores import (
    COLUMNS,
    KEYS,
    RunPrediction,
    read_scores,
    tell_apart,
    write_metrics,
    write_predictions,
    write_scores,
)
from palm_cache.types import Features, Place, Progress, TextTower, no_progress
from palm_cache.types.runs import FittedHead, spell_shots


def evaluate_files(
    out: Path,
    heads_files: Sequence[Path] | None = None,
    *,
    heads: Path | None = None,
    store: Place | None = None,
    fit: Fit | None = None,
    load_tower: LoadTower | None = None,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Score every head of some files; write ``scores.csv``, ``predictions.h5`` and ``metrics.json``.

    Rows of other datasets and encoders in ``out`` stay, as long as their heads are there. Returns and raises
    as :func:`palm_cache.evaluate`: what can be scored is written before it raises.

    Parameters
    ----------
    heads_files : sequence of Path, optional
        Every ``heads.h5`` below ``heads`` by default.
    heads : Path, optional
        The folder below which heads lie; ``out`` by default.
    store : Place, optional
        The feature store, by default the one that the heads were fitted on.
    fit : Fit, optional
        The fit that wrote the files, of which nothing is read or loaded again.
    """
    heads = heads or out
    files = sorted(heads.glob("*/*/heads.h5")) if heads_files is None else list(dict.fromkeys(heads_files))
    if not files:
        raise no_heads(heads)
    check_target(out / "metrics.json", "out", METRICS)
    rows: list[dict[str, object]] = []
    predictions: list[RunPrediction] = []
    renewed: set[tuple[str, str]] = set()
    failures: list[PalmCacheError] = []
    with alone_in(out):  # others read the same heads, and add to the same files
        for number, file in enumerate(files):
            progress("evaluating", number, len(files))
            try:
                places, scored = _evaluate_file(file, store, fit, load_tower)
            except PalmCacheError as error:
                failures.append(error)
            else:
                renewed |= places
                rows += [row for row, _ in scored]
                predictions += [prediction for _, prediction in scored]
            progress("evaluating", number + 1, len(files))
        if failures and not renewed:
            raise _of_all(failures, files)
        scores = pd.concat([_other_scores(out, heads, renewed), pd.DataFrame(rows, columns=list(COLUMNS))])
        scores = scores.sort_values(list(KEYS), ignore_index=True)
        write_scores(out / "scores.csv", scores)
        write_predictions(out / "predictions.h5", predictions)
        write_metrics(out / "metrics.json", mean_scores(scores))
    if failures:
        raise _of_all(failures, files)
    return scores


def _evaluate_file(
    file: Path, store: Place | None, fit: Fit | None, load_tower: LoadTower | None
) -> tuple[set[tuple[str, str]], list[tuple[dict[str, object], RunPrediction]]]:
    """Score the heads of one file: return its datasets and encoders, and each head's row and predictions."""
    fitted, recorded = read_heads(file)
    stores = (store,) if store else recorded
    features, header = read_stores(stores, fit)
    check_fresh(fitted, features, stores, file)
    tested = [head for head in fitted if len(features.folds[head.run.fold - 1].test)]
    tower = (fit and fit.tower) or tower_to_score(tested, header, load_tower)
    places = {(head.run.dataset, slug(head.run.encoder)) for head in fitted}
    return places, [evaluate_head(features, head, tower) for head in tested]


def _of_all(failures: Sequence[PalmCacheError], files: Sequence[Path]) -> PalmCacheError:
    """Return one error of all heads files that could not be scored."""
    first = failures[0]
    if len(files) == 1:
        return first
    told = "; ".join(error.message for error in failures)
    return type(first)(f"{counted(len(failures), 'heads file')} of {len(files)} not scored: {told}")


def evaluate_head(
    features: Features, head: FittedHead, tower: TextTower | None = None
) -> tuple[dict[str, object], RunPrediction]:
    """Score one head: its row of ``scores.csv`` and its predictions. Raises as :class:`.Scorer`.

    Clips are scored by their view 0, the centre crop, or by the mean of all views' logits.
    """
    run = head.run
    test = draw(features, run).test
    numbers = len(test) * features.audio[0].numel()
    with threads_for(LARGE if tower else numbers):
        audio, labels = features.audio[test], features.labels[test]
        logits = Scorer(head, audio.shape[2], tower).clip_logits(audio)
    prediction = RunPrediction(
        run.dataset, slug(run.encoder), run_name(run), test, labels, logits, head.class_names
    )
    row = score_row(head, logits, labels)
    if run.base_only:
        row |= base_and_novel(logits, labels, n_base_classes(features))
    return row, prediction


def base_and_novel(logits: Tensor, labels: Tensor, n_base: int) -> dict[str, float]:
    """Return the accuracy on clips of the first ``n_base`` classes, among those, and likewise of the others.

    NaN where there is no such clip.
    """
    base = labels < n_base
    right = {
        "base_accuracy": logits[base, :n_base].argmax(dim=1) == labels[base],
        "novel_accuracy": logits[~base, n_base:].argmax(dim=1) + n_base == labels[~base],
    }
    return {name: float(answers.double().mean()) for name, answers in right.items()}


def score_row(head: FittedHead, logits: Tensor, labels: Tensor) -> dict[str, object]:
    """Return a head's row of ``scores.csv``."""
    run = head.run
    return {
        "dataset": run.dataset,
        "encoder": slug(run.encoder),
        "head": run.head,
        "shots": run.shots,
        "fold": run.fold,
        "seed": run.seed,
        "variant": run.variant,
        "n_train": head.n_train,
        "n_test": len(labels),
        "n_params": head.n_params,
        **measure(logits, labels),
        "fit_seconds": head.fit_seconds,
        "template": head.template,
        "hyperparameters": json.dumps(
            {**head.hyperparameters, "test_views": head.test_views}, sort_keys=True
        ),
        "fingerprint": head.fingerprint,
    }


def mean_scores(scores: pd.DataFrame) -> dict[str, object]:
    """Return accuracy and macro F1, mean over folds and seeds, nested by dataset, encoder and run kind."""
    means: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    keys = ["dataset", "encoder", "head", "shots"]
    per_seed = tell_apart(scores).groupby([*keys, "seed"])[["accuracy", "macro_f1"]].mean()
    for key, mean in per_seed.groupby(level=keys).mean().iterrows():
        dataset, encoder, head, shots = cast("tuple[str, str, str, int]", key)
        kind = f"{head}-{spell_shots(shots)}shots" if shots else head
        means.setdefault(dataset, {}).setdefault(encoder, {})[kind] = {
            "accuracy": float(mean["accuracy"]),
            "macro_f1": float(mean["macro_f1"]),
        }
    return dict(means)


def no_heads(folder: Path, **options: object) -> StoreError:
    """Return the error that no heads lie below a folder; ``options`` of ``fit`` say which are looked for."""
    remedy = command_line("fit", **options, out=folder)
    return StoreError(f"{folder}: no heads below this folder; fit some with: {remedy}")


def check_fresh(heads: Sequence[FittedHead], features: Features, stores: Sequence[Place], file: Path) -> None:
    """Make sure that the heads of a file were fitted on just these features, or raise StaleStoreError."""
    head = next((head for head in heads if head.digest != features.digest), None)
    if head is None:
        return
    why = (
        "another encoder or another version of it made the store"
        if head.fingerprint != features.fingerprint
        else "its clips, labels, folds or classes have changed"
    )
    raise StaleStoreError(
        f"{file}: fitted on an earlier state of the {features.dataset} store ({why}); "
        f"fit again with: {fit_command([head.run for head in heads], stores, file)}"
    )


def _other_scores(out: Path, heads: Path, renewed: set[tuple[str, str]]) -> pd.DataFrame | None:
    """Return the rows of an earlier ``scores.csv`` that this evaluation does not renew."""
    path = out / "scores.csv"
    if not path.exists():
        return None
    scores = read_scores(path)
    keep = [
        (dataset, encoder) not in renewed and heads_path(heads, dataset, encoder).exists()
        for dataset, encoder in zip(scores["dataset"], scores["encoder"], strict=True)
    ]
    return scores[keep] if any(keep) else None
