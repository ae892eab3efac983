"""Which head? All of them side by side, by shots, with what each costs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from palm_cache.report.content import Section, Table
from palm_cache.report.evidence import ONE_SEED, HeadRuns, Place
from palm_cache.report.figures import accuracy_by_shots
from palm_cache.report.means import below_zero_shot, count_shots, span, summarise
from palm_cache.report.statistics import LEVEL, accuracy_interval

_HOW = (
    "Accuracy in %, mean over folds and seeds, then over the datasets on which most can be compared; best "
    "heads first. Parameters are what an optimiser learns step by step; time is that of one fit, mean over "
    "runs; both at the largest number of shots. Runs of one shape are trained together and share their time."
)

_INTERVALS = (
    f"In brackets the {100 * LEVEL:.0f} % interval over test clips, draws and starts, of one head alone: two "
    "heads answer about the same clips after the same draws, and their difference is surer than their "
    "intervals look; see the paired comparisons below. The best of many heads owes a little of its lead to "
    "these clips. Intervals are of these datasets: how heads do on another one, they do not say."
)


def which_head(scores: pd.DataFrame, kinds: Mapping[Place, list[HeadRuns]]) -> Section:
    """Set all heads of an encoder side by side.

    Parameters
    ----------
    scores : DataFrame
    kinds : mapping
        From :func:`palm_cache.report.evidence.by_kind`; those that it lacks have no interval.
    """
    tables, drawn, notes = [], [], list[str]()
    for encoder, of_encoder in scores.groupby("encoder"):
        runs = side_by_side(of_encoder)
        summary = on_all_datasets(summarise(runs))
        of_common = {name: kinds.get((name, str(encoder)), []) for name in sorted(set(runs["dataset"]))}
        tables.append(_table(str(encoder), summary, runs, of_common))
        drawn.append(summary)
        notes += below_zero_shot(summary)
        for column, why in (
            ("dataset", "other heads or shots were scored there"),
            ("head", "not scored on all of these datasets at the same shots"),
        ):
            if apart := sorted(set(of_encoder[column]) - set(summary[column])):
                notes.append(f"Not in the means of {encoder}: {', '.join(apart)} ({why}).")
        if fewer := sorted(set(summary.loc[~on_all_folds(summary), "head"])):
            notes.append(f"On fewer folds than others, and so on other clips: {', '.join(fewer)}.")
    marked = any("*" in cell for table in tables for row in table.rows for cell in row[1:])
    notes += [_HOW, *([_INTERVALS] if kinds else []), *([ONE_SEED] if marked else [])]
    together = pd.concat(drawn)
    # A line needs two points.
    curve = (
        [accuracy_by_shots(together)] if together.loc[together["shots"] > 0, "shots"].nunique() > 1 else []
    )
    return Section("Which head?", (*notes, *tables, *curve))


def side_by_side(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of an encoder on those datasets on which most can be compared.

    Those with most datasets times heads that all of them have, at one number of shots or without; of equals
    those of the larger number. A dataset that would leave fewer than two heads to compare stays out, if two
    are left without it.
    """
    blocks = []
    for shots in sorted(set(runs["shots"])):
        here = runs[runs["shots"].isin([0, shots])].groupby("dataset")["head"].agg(frozenset)
        ranked = sorted(here.items(), key=lambda item: -len(item[1]))
        for count in range(1, len(ranked) + 1):
            datasets, heads = zip(*ranked[:count], strict=True)
            common = len(frozenset.intersection(*heads))
            blocks.append(((common > 1, count * common, shots), datasets))
    _, datasets = max(blocks, key=lambda block: block[0])
    return runs[runs["dataset"].isin(datasets)]


def on_all_folds(summary: pd.DataFrame) -> pd.Series[bool]:
    """Say which rows of a summary are of as many folds as any head has there: fewer folds are other clips."""
    return summary["folds"] == summary.groupby(["dataset", "encoder"])["folds"].transform("max")


def on_all_datasets(summary: pd.DataFrame) -> pd.DataFrame:
    """Return what was tried on every dataset: of the rest there is no mean to compare."""
    n_datasets = summary.groupby(["head", "shots"])["dataset"].transform("nunique")
    return summary[n_datasets == summary["dataset"].nunique()]


def _table(
    encoder: str, summary: pd.DataFrame, runs: pd.DataFrame, kinds: Mapping[str, list[HeadRuns]]
) -> Table:
    means = summary.groupby(["head", "shots"])["accuracy"].mean().unstack("shots")
    # The best at its most shots first.
    best_first = means.ffill(axis=1).iloc[:, -1].sort_values(ascending=False).index
    largest = runs[runs["shots"] == runs.groupby("head")["shots"].transform("max")]
    rows = []
    for head in map(str, best_first):
        of_head = largest[largest["head"] == head]
        accuracies = [
            "-" if pd.isna(mean) else f"{100 * mean:.1f}{_interval(kinds, head, int(shots))}"
            for shots, mean in means.loc[head].items()
        ]
        cost = (duration(float(of_head["fit_seconds"].mean())), span(of_head["n_params"]))
        rows.append((head, *accuracies, *cost))
    shots = [count_shots(number) if number else "no shots" for number in map(int, means.columns)]
    caption = f"{encoder}, on {', '.join(kinds)}"
    return Table(("head", *shots, "time of a fit", "parameters"), tuple(rows), caption)


def _interval(kinds: Mapping[str, list[HeadRuns]], head: str, shots: int) -> str:
    """Return the interval of a head's mean over datasets on a line of its own, "" without predictions."""
    of_datasets = of_all(kinds, head, shots)
    if not of_datasets:
        return ""
    interval = accuracy_interval([kind.outcomes for kind in of_datasets])
    bounds = f"{100 * interval.low:.1f}-{100 * interval.high:.1f}"
    return f"\n({bounds})" + "*" * any(kind.one_seed for kind in of_datasets)


def of_all(kinds: Mapping[str, list[HeadRuns]], head: str, shots: int) -> list[HeadRuns]:
    """Return a head's predictions at one number of shots on every dataset, none if one lacks them."""
    of_datasets = [
        kind
        for of_dataset in kinds.values()
        for kind in of_dataset
        if (kind.head, kind.shots) == (head, shots)
    ]
    return of_datasets if len(of_datasets) == len(kinds) else []


def duration(seconds: float) -> str:
    """Return a time with two digits that count, as people say it: ``35 ms``, ``1.2 s``."""
    if seconds < 0.001:
        return "< 1 ms"
    if seconds < 0.9995:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{10 * round(100 * seconds)} ms"
    return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"
