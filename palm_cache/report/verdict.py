"""The report in one sentence: which head is ahead, and of which others that is sure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from palm_cache.report.evidence import HeadRuns, Place
from palm_cache.report.means import count_shots, summarise
from palm_cache.report.statistics import LEVEL, accuracy_interval, compare, difference, holm
from palm_cache.report.which_head import kinds_of, left_out, of_all, side_by_side

_MAX_NAMED = 3
"""Heads, or datasets, that a sentence can name."""

_ONE = "a single seed"

_SAME = 1e-9
"""Means of accuracies that differ by less are the same: what is between them is rounding."""


def verdict(scores: pd.DataFrame, kinds: Mapping[Place, list[HeadRuns]]) -> str:
    """Say which head is ahead where most can be compared, and how sure that is, or which are level.

    The mean is that over the datasets and folds, at the number of shots, that ``side_by_side`` takes; what
    that leaves out is named.
    The head that is ahead was chosen by looking at all of them, so that each comparison with it is adjusted
    as one of those between any two (Holm). Of several encoders the one speaks that has most datasets, then
    the best head. A head that ran at other numbers of shots alone is not compared; it is named where it has
    more, as is one that has more at more shots.

    Parameters
    ----------
    scores : DataFrame
    kinds : mapping
        From :func:`palm_cache.report.evidence.by_kind`; without them nothing can be sure.
    """
    candidates = []
    for encoder, of_encoder in scores.groupby("encoder"):
        runs, at_shots = side_by_side(of_encoder)
        means, others = _means(summarise(runs), at_shots)
        candidates.append(
            (runs["dataset"].nunique(), means["mean"].iloc[0], str(encoder), runs, means, others)
        )
    *_, encoder, runs, means, others = max(candidates, key=lambda entry: entry[:2])
    of_datasets = kinds_of(runs, kinds, encoder)
    datasets = list(of_datasets)
    head, shots = str(means.index[0][0]), int(means.index[0][1])
    best = means.iloc[0]
    mean = f"{100 * best['mean']:.1f} %{_bounds(of_datasets, head, shots, best['single'])}"
    at = f" at {count_shots(shots)}" if shots else ""
    where = f"on {_listed(datasets)} with {encoder}{at}"
    beyond = _beyond(others[others["mean"] > best["mean"]]) + _left_out(scores, runs)
    if len(means) == 1:
        return f"{head} reaches {mean} {where}{beyond}."
    level = means[np.isclose(means["mean"], best["mean"], rtol=0, atol=_SAME)]
    if len(level) > 1:
        return (
            f"{_tie(level, len(means))} {where} with {100 * best['mean']:.1f} % each{_single(level)}{beyond}."
        )
    sureness = _sureness(of_datasets, means, " there" if len(others) else "")
    return f"{head} is ahead {where} with {mean}, {sureness}{beyond}."


def _tie(level: pd.DataFrame, n_heads: int) -> str:
    """Name the heads that have the highest mean, which several have."""
    heads = [str(head) for head in level.index.unique("head")]
    if len(heads) == n_heads and n_heads > _MAX_NAMED:
        return f"all {n_heads} heads are level"
    return f"{_listed(heads)} are level{'' if len(heads) == n_heads else ' and ahead'}"


def _single(level: pd.DataFrame) -> str:
    """Say in brackets of which of the heads with the highest mean there is one draw and start alone."""
    heads = [str(head) for head in level[level["single"] != ""].index.unique("head")]
    return f" (a single seed of {_listed(heads)})" if heads else ""


def _means(summary: pd.DataFrame, at_shots: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the means over datasets that are compared, best first, and others: of other heads or more shots.

    What is compared has that number of shots or none.
    """
    alone = summary.assign(single=(summary["seeds"] == 1) & (summary["shots"] > 0))
    means = (
        alone.groupby(["head", "shots"])
        .agg(mean=("accuracy", "mean"), single=("single", "mean"))
        .sort_values("mean", ascending=False, kind="stable")
    )
    shares = means["single"]
    means["single"] = np.select([shares == 1, shares > 0], [_ONE, f"{_ONE} on some datasets"], "")
    heads, shots = (means.index.get_level_values(name) for name in ("head", "shots"))
    is_compared = shots.isin([0, at_shots])
    return means[is_compared], means[(shots > at_shots) | ~heads.isin(heads[is_compared])]


def _bounds(kinds: Mapping[str, list[HeadRuns]], head: str, shots: int, single: str) -> str:
    """Return in brackets the interval of a head's mean, and whether it knows of one draw and start alone."""
    of_datasets = of_all(kinds, head, shots)
    if not of_datasets:
        return f" ({single})" if single else ""
    interval = accuracy_interval([kind.outcomes for kind in of_datasets])
    bounds = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    over = " over test clips alone:" if single == _ONE else ";"
    return f" ({bounds}{over} {single})" if single else f" ({bounds})"


def _beyond(others: pd.DataFrame) -> str:
    """Say which heads have more, but at other numbers of shots."""
    best = others.groupby(level="head", sort=False).head(1)
    named = [
        f"{head} with {100 * mean:.1f} % at {count_shots(shots)}{_bounds({}, head, shots, single)}"
        for (head, shots), mean, single in zip(best.index, best["mean"], best["single"], strict=True)
    ]
    return f"; above it, but at other shots and so not compared: {_listed(named)}" if named else ""


def _left_out(scores: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Name what is not among the runs that are compared: heads, datasets and folds; other encoders."""
    of_encoder = scores[scores["encoder"].isin(runs["encoder"])]
    names = [name for names, _ in left_out(of_encoder, runs) for name in names]
    names += sorted(set(scores["encoder"]) - set(runs["encoder"]))
    return f"; this leaves out {_listed(names)}" if names else ""


def _sureness(kinds: Mapping[str, list[HeadRuns]], means: pd.DataFrame, there: str) -> str:
    """Say from which of the other heads the first differs for sure."""
    (best, shots), *rivals = means.index
    ps: dict[str, float] = {}
    for head, its_shots in rivals:
        both = list(zip(of_all(kinds, best, shots), of_all(kinds, head, its_shots), strict=False))
        estimates = [difference(first.outcomes, rival.outcomes) for first, rival in both]
        if estimates and all(estimates):
            compared = compare(estimates)
            if compared.n_seeds != 1:  # on the runs that both have, the other may be ahead
                ps[head] = compared.p if compared.difference > 0 else 1.0
    if not ps:
        return "but how sure that is, only predictions of several seeds can tell"
    family = len(means) * (len(means) - 1) // 2
    behind = {head for head, p in zip(ps, holm(list(ps.values()), family), strict=True) if p < 1 - LEVEL}
    unsure = [head for head, _ in rivals if head not in behind]
    if not unsure:
        return f"surely better than every other head{there}"
    return f"but not surely better than {_listed(unsure) if behind else f'any other head{there}'}"


def _listed(names: list[str]) -> str:
    """Return some names as a sentence has them."""
    if len(names) <= _MAX_NAMED:
        return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names[: _MAX_NAMED - 1])} and {len(names) - _MAX_NAMED + 1} others"
