"""Means and deviations of scores, as the paper takes them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

KIND = ["dataset", "encoder", "head", "shots"]
"""What makes two runs comparable repetitions of one another."""


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Average scores over folds first, then over seeds.

    Returns
    -------
    DataFrame
        One row per dataset, encoder, head and shots, in order of dataset, encoder, shots and accuracy:
        ``folds``, ``seeds``, ``n_params``; ``accuracy`` and ``macro_f1`` (means over seeds, 0 to 1);
        ``accuracy_sd`` and ``macro_f1_sd`` (standard deviation over seeds, one degree of freedom; missing
        where there is one seed).
    """
    measures = ["accuracy", "macro_f1"]
    per_seed = scores.groupby([*KIND, "seed"])[measures].mean()
    over_seeds = per_seed.groupby(level=KIND)
    kinds = scores.groupby(KIND)
    table = over_seeds.mean()
    for measure in measures:
        table[f"{measure}_sd"] = over_seeds[measure].std()
    table["folds"] = kinds["fold"].nunique()
    table["seeds"] = kinds["seed"].nunique()
    table["n_params"] = kinds["n_params"].first()
    return table.reset_index().sort_values(["dataset", "encoder", "shots", "accuracy"], ignore_index=True)


def format_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return a summary as rows of text under :data:`HEADINGS`; nothing is rounded before here."""
    return [
        [
            str(row["dataset"]),
            str(row["encoder"]),
            str(row["head"]),
            str(row["shots"]) if row["shots"] else "-",
            _percent(row["accuracy"], row["accuracy_sd"]),
            _percent(row["macro_f1"], row["macro_f1_sd"]),
            str(row["folds"]),
            str(row["seeds"]),
            f"{row['n_params']:,}",
        ]
        for row in table.to_dict("records")
    ]


HEADINGS = (
    "dataset",
    "encoder",
    "head",
    "shots",
    "accuracy %",
    "macro F1 %",
    "folds",
    "seeds",
    "parameters",
)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown; what is special to Markdown or HTML in a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _percent(mean: float, deviation: float) -> str:
    spread = "" if pd.isna(deviation) else f" ± {100 * deviation:.2f}"
    return f"{100 * mean:.2f}{spread}"


def _escape(cell: str) -> str:
    return cell.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
