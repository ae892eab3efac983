"""Base to novel: how heads that learned from one half of the classes do on either half."""

from __future__ import annotations

import pandas as pd

from palm_cache.report.content import Section, Table
from palm_cache.report.means import percent, summarise
from palm_cache.store.scores import tell_apart
from palm_cache.types.runs import BASE_NOVEL, is_base_only, spell_shots

HEADINGS = ("dataset", "encoder", "head", "shots", "base %", "novel %", "harmonic mean %", "folds", "seeds")

_HOW = (
    f"Heads that were fitted with --split {BASE_NOVEL}: on clips of the first half of the sorted classes. "
    "Base: the test clips of those classes, each put into one of them. Novel: the clips of the other "
    "classes, each put into one of those, of which a head knows the names alone. Mean over folds, then "
    "seeds; the harmonic mean is that of the means. Zero-shot is what both halves start from."
)


def base_to_novel(scores: pd.DataFrame) -> pd.DataFrame:
    """Average accuracy on base and novel classes over folds, then seeds.

    Parameters
    ----------
    scores : DataFrame
        The columns of ``scores.csv``, told apart or not; runs of other splits are left out.

    Returns
    -------
    DataFrame
        The rows of :func:`~palm_cache.report.means.summarise`, the greatest harmonic mean of a dataset first.
    """
    runs = scores[scores["variant"].map(is_base_only)]
    if runs.empty:
        return runs
    # Of all scores the split may be what tells runs apart; here all have it.
    runs = tell_apart(runs.assign(head=runs["head"].str.partition("@")[0]))
    order = ["dataset", "encoder", "harmonic_mean"]
    return summarise(runs).sort_values(order, ascending=[True, True, False], ignore_index=True)


def base_novel_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return what :func:`base_to_novel` gave as rows of text under :data:`HEADINGS`."""
    return [
        (
            *(str(row[name]) for name in ("dataset", "encoder", "head")),
            spell_shots(row["shots"]) if row["shots"] else "-",
            *(percent(row[name]) for name in ("base_accuracy", "novel_accuracy", "harmonic_mean")),
            *(str(row[name]) for name in ("folds", "seeds")),
        )
        for row in table.to_dict("records")
    ]


def base_novel_section(scores: pd.DataFrame) -> Section | None:
    """Return the section of the report, ``None`` where no run learned from base classes alone."""
    table = base_to_novel(scores)
    if table.empty:
        return None
    return Section("Base to novel", (_HOW, Table(HEADINGS, tuple(base_novel_rows(table)))))
