"""Means and deviations of scores, as the paper takes them."""

from __future__ import annotations

import math

import pandas as pd

from palm_cache.types.runs import ALL_SHOTS, is_base_only, spell_shots

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
        where there is one seed). Where some runs learned from base classes alone also ``base_accuracy``,
        ``novel_accuracy`` and their ``harmonic_mean``, missing for other runs.
    """
    measures, halves = ["accuracy", "macro_f1"], ["base_accuracy", "novel_accuracy"]
    split = bool(scores[halves].notna().any(axis=None))
    per_seed = scores.groupby([*KIND, "seed"])[[*measures, *(halves if split else ())]].mean()
    over_seeds = per_seed.groupby(level=KIND)
    kinds = scores.groupby(KIND)
    table = over_seeds.mean()
    if split:
        base, novel = (table[half] for half in halves)  # of nothing right on both the mean is nothing, too
        table["harmonic_mean"] = 2 * base * novel / (base + novel).mask(base + novel == 0, 1)
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
            spell_shots(row["shots"]) if row["shots"] else "-",
            percent(row["accuracy"], row["accuracy_sd"]),
            percent(row["macro_f1"], row["macro_f1_sd"]),
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


NAMES_AND_ACCURACY = 5
"""Of :data:`HEADINGS`, those without which a row says nothing."""


def below_zero_shot(scores: pd.DataFrame) -> list[str]:
    """Say where PALM knows less than the class names alone, by more than its deviation over seeds, and why.

    On the folds that both have: others are other clips. What learned from base classes alone has no shots of
    the others, however many it has.

    Parameters
    ----------
    scores : DataFrame
        As :func:`summarise` takes them.
    """
    notes = []
    scores = scores[~scores["variant"].map(is_base_only).astype(bool)]
    tenth_of_a_percent = 0.001  # what is shown: less is no difference
    for (dataset, encoder), runs in scores.groupby(["dataset", "encoder"]):
        by_fold = runs[runs["head"] == "zero-shot"].groupby("fold")["accuracy"].mean()
        palm = runs[runs["head"].str.partition("@")[0].eq("palm") & runs["fold"].isin(by_fold.index)]
        below = summarise(palm)
        alone = summarise(palm.assign(accuracy=palm["fold"].map(by_fold))).set_index(["head", "shots"])
        below = below.join(alone["accuracy"].rename("alone"), on=["head", "shots"])
        below = below[
            below["accuracy"] + below["accuracy_sd"].fillna(0) < below["alone"] - tenth_of_a_percent
        ]
        for head, rows in below.groupby("head"):
            places = [
                f"{100 * accuracy:.1f} % against {100 * other:.1f} % at {count_shots(shots)}"
                for shots, accuracy, other in zip(rows["shots"], rows["accuracy"], rows["alone"], strict=True)
            ]
            more = "" if (rows["shots"] == ALL_SHOTS).any() else "give it more shots, or "
            notes.append(
                f"{dataset}, {encoder}: {head} is below zero-shot: {', '.join(places)}. "
                f"PALM's context starts as noise, and few clips do not outweigh it: {more}take a head that "
                "starts from the prompts, such as proker."
            )
    return notes


def on_some_folds(scores: pd.DataFrame) -> list[str]:
    """Say which heads ran, if with one seed, on some of all folds alone: their means are of other clips."""
    notes = []
    for (dataset, encoder), runs in scores.groupby(["dataset", "encoder"]):
        n_folds = runs.groupby(["head", "shots", "seed"])["fold"].transform("nunique")
        if some := sorted(set(runs.loc[n_folds < runs["fold"].nunique(), "head"])):
            notes.append(
                f"{dataset}, {encoder}: on some of these folds, and so clips, alone: {', '.join(some)}."
            )
    return notes


def percent(mean: float, deviation: float = math.nan) -> str:
    """Return a share as a percentage with two digits, and its deviation where there is one; "-" for NaN."""
    if math.isnan(mean):
        return "-"
    spread = "" if pd.isna(deviation) else f" ± {100 * deviation:.2f}"
    return f"{100 * mean:.2f}{spread}"


def count_shots(shots: int) -> str:
    """Return a number of shots as people say it: ``1 shot``, ``16 shots``, ``all shots``."""
    return f"{spell_shots(shots)} shot{'s' * (shots != 1)}"


def span(numbers: pd.Series[int]) -> str:
    """Return the least and the most of some numbers, or "-" if there are none."""
    if numbers.empty:
        return "-"
    low, high = numbers.min(), numbers.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
