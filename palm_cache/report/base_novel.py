"""Base to novel: how heads that learned from one half of the classes do on either half."""

from __future__ import annotations

import pandas as pd

from palm_cache.report.content import Section, Table
from palm_cache.report.means import KIND, percent
from palm_cache.store.scores import tell_apart
from palm_cache.types import BASE_NOVEL, is_base_only, spell_shots

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
        The columns of ``scores.csv``; runs of other splits are left out.

    Returns
    -------
    DataFrame
        One row per dataset, encoder, head and shots, the greatest harmonic mean of a dataset first:
        ``base``, ``novel``, ``harmonic_mean`` (0 to 1), ``folds``, ``seeds``.
    """
    runs, _ = tell_apart(scores[scores["variant"].map(is_base_only)])
    columns = {"base_accuracy": "base", "novel_accuracy": "novel"}
    per_seed = runs.groupby([*KIND, "seed"])[list(columns)].mean().rename(columns=columns)
    table = per_seed.groupby(level=KIND).mean()
    halves = table["base"] + table["novel"]  # of nothing right on both the mean is nothing, too
    table["harmonic_mean"] = 2 * table["base"] * table["novel"] / halves.mask(halves == 0, 1)
    kinds = runs.groupby(KIND)
    table["folds"], table["seeds"] = kinds["fold"].nunique(), kinds["seed"].nunique()
    order = ["dataset", "encoder", "harmonic_mean"]
    return table.reset_index().sort_values(order, ascending=[True, True, False], ignore_index=True)


def base_novel_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return what :func:`base_to_novel` gave as rows of text under :data:`HEADINGS`."""
    return [
        (
            *(str(row[name]) for name in ("dataset", "encoder", "head")),
            spell_shots(row["shots"]) if row["shots"] else "-",
            *(percent(row[name]) for name in ("base", "novel", "harmonic_mean")),
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
