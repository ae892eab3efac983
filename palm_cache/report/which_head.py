"""Which head? All of them side by side, by shots, with what each costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pandas as pd

from palm_cache.errors import counted
from palm_cache.report.content import Section, Table
from palm_cache.report.evidence import ONE_SEED, HeadRuns, Place
from palm_cache.report.figures import accuracy_by_shots
from palm_cache.report.means import below_zero_shot, count_shots, span, summarise
from palm_cache.report.statistics import LEVEL, accuracy_interval

_FOLD = ["dataset", "fold"]

_KIND = ["dataset", "head", "shots"]

_Fold = tuple[str, int]

_Common = tuple[tuple[bool, float, int], list[_Fold]]
"""Folds that have some heads in common, and before them what they are worth."""

NEARLY_ALL = 2 / 3
"""Of what can be compared at some number of shots, more than that is enough at a larger one."""

_MOST_SETS = 200
"""So many sets of heads are followed up, the best: of heads that lack a fold here and there are too many."""

_HOW = (
    "Accuracy in %, mean over folds and seeds, then over datasets, of those folds and datasets on which most "
    "can be compared; best heads first. Parameters are what an optimiser learns step by step; time is that "
    "of one fit, mean over runs; both at the largest number of shots. Runs of one shape are trained together "
    "and share their time."
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
        runs, _ = side_by_side(of_encoder)
        summary = summarise(runs)
        tables.append(_table(str(encoder), summary, runs, kinds_of(runs, kinds, str(encoder))))
        drawn.append(summary)
        notes += below_zero_shot(runs)
        for names, why in left_out(of_encoder, runs):
            if names:
                notes.append(f"Not in the means of {encoder}: {', '.join(names)} ({why}).")
    marked = any("*" in cell for table in tables for row in table.rows for cell in row[1:])
    notes += [_HOW, *([_INTERVALS] if kinds else []), *([ONE_SEED] if marked else [])]
    together = pd.concat(drawn)
    # A line needs two points.
    curve = (
        [accuracy_by_shots(together)] if together.loc[together["shots"] > 0, "shots"].nunique() > 1 else []
    )
    return Section("Which head?", (*notes, *tables, *curve))


def side_by_side(runs: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the runs of an encoder that can be compared, and the number of shots to speak of.

    Their means are of the same datasets and folds. Of all sets of heads that some folds have in common, at
    one number of shots or without, that with most datasets times heads. A dataset counts by the share of its
    folds that have all these heads. Of equals that of more test clips. The number of shots is the largest at
    which nearly as much can be compared as at any: a slow head that ran at few does not decide. What has
    fewer than two heads to compare counts only where nothing has two. Of a head those seeds count that ran on
    the same folds.
    """
    runs = _on_the_same_folds(runs)
    every = {}
    for shots in sorted(set(runs["shots"]), reverse=True):
        heads = runs[runs["shots"].isin([0, shots])].groupby(_FOLD)["head"].agg(frozenset)
        every[int(shots)] = dict(zip(heads.index, heads, strict=True))
    several = {
        shots: {fold: heads for fold, heads in here.items() if len(heads) > 1}
        for shots, here in every.items()
    }
    by_shots = {shots: here for shots, here in several.items() if here} or every
    places = {place for here in by_shots.values() for place in here}
    n_folds = Counter(dataset for dataset, _ in places)
    n_clips = runs.groupby(_FOLD)["n_test"].max()
    sizes = {place: (1 / n_folds[place[0]], int(n_clips[place])) for place in places}
    common = {shots: _most_in_common(here, sizes) for shots, here in by_shots.items()}
    most = max(worth for worth, _ in common.values())[1]
    shots = max(shots for shots, (worth, _) in common.items() if worth[1] > NEARLY_ALL * most)
    folds = common[shots][1]
    kept = runs[runs.set_index(_FOLD).index.isin(folds)]
    number = kept.groupby(_FOLD).ngroup()
    covers = number.groupby([kept["head"], kept["shots"]]).transform("nunique") == len(folds)
    return kept[covers], shots


def _on_the_same_folds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return of every head those seeds that ran on the same folds of a dataset: those with most runs."""
    ran = runs.groupby([*_KIND, "seed"])["fold"].agg(frozenset)
    seeds_on: dict[object, dict[frozenset[int], list[object]]] = defaultdict(lambda: defaultdict(list))
    for key, folds in ran.items():
        seeds_on[cast("tuple[object, ...]", key)[:-1]][folds].append(key)
    largest = (
        max(seeds.items(), key=lambda item: (len(item[0]) * len(item[1]), len(item[0])))
        for seeds in seeds_on.values()
    )
    return runs[runs.set_index([*_KIND, "seed"]).index.isin([key for _, keys in largest for key in keys])]


def _most_in_common(
    heads_at: Mapping[_Fold, frozenset[str]], sizes: Mapping[_Fold, tuple[float, int]]
) -> _Common:
    """Return the folds of which datasets times heads in common are most; see :func:`side_by_side`.

    Of every fold ``sizes`` has its share of the dataset and its test clips.
    """

    def block(heads: frozenset[str]) -> _Common:
        folds = [place for place, there in heads_at.items() if heads <= there]
        shares, clips = zip(*(sizes[place] for place in folds), strict=True)
        # Rounded, so that seven sevenths are as much as five fifths.
        return (len(heads) > 1, round(len(heads) * sum(shares), 9), sum(clips)), folds

    blocks: dict[frozenset[str], _Common] = {}
    for there in heads_at.values():
        met = dict.fromkeys([there, *(there & heads for heads in blocks)])
        blocks |= {heads: block(heads) for heads in met if heads not in blocks}
        best_first = sorted(blocks.items(), key=lambda item: item[1][0], reverse=True)
        blocks = dict(best_first[:_MOST_SETS])
    return next(iter(blocks.values()))


def left_out(every: pd.DataFrame, runs: pd.DataFrame) -> list[tuple[list[str], str]]:
    """Return what of an encoder is not among the runs that are compared, by its names, and why."""
    heads, datasets = (sorted(set(every[column]) - set(runs[column])) for column in ("head", "dataset"))

    def fewer(what: str, of: str, keys: list[str]) -> list[str]:
        n_every, n_compared = (table.groupby(keys)[what].nunique() for table in (every, runs))
        most = (n_every - n_compared).dropna().groupby(of).max()  # what is absent is told already
        return [f"{counted(int(count), what)} of {name}" for name, count in most.items() if count]

    return [
        (heads, "not scored on all of these datasets and folds at the same shots"),
        (datasets, "other heads or shots were scored there"),
        (fewer("fold", "dataset", ["dataset"]), "not all heads were scored there"),
        (fewer("seed", "head", _KIND), "scored on other folds than most runs of that head"),
    ]


def kinds_of(
    runs: pd.DataFrame, kinds: Mapping[Place, list[HeadRuns]], encoder: str
) -> dict[str, list[HeadRuns]]:
    """Return the predictions of the runs that are compared, by dataset."""
    compared = set(runs[[*_KIND, "fold", "seed"]].itertuples(index=False, name=None))
    of_datasets: dict[str, list[HeadRuns]] = {}
    for name in sorted(set(runs["dataset"])):
        of_datasets[name] = []
        for kind in kinds.get((name, encoder), []):
            of_kind = (name, kind.head, kind.shots)
            if there := {key: run for key, run in kind.runs.items() if (*of_kind, *key) in compared}:
                of_datasets[name].append(replace(kind, runs=there))
    return of_datasets


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
