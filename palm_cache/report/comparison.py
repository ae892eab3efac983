"""Our scores beside the paper's: tables 1 to 3 and the ablation of Hanif et al., EMNLP 2024."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

import pandas as pd

from palm_cache.errors import counted
from palm_cache.report import published
from palm_cache.report.content import Section, Table
from palm_cache.report.identity import paper_name
from palm_cache.report.means import percent, span
from palm_cache.store.atomic import parse_json
from palm_cache.types.runs import Training

HONEST = (
    f"Published: {published.SOURCE}. Ours: cached embeddings in evaluation mode, so that equal numbers are "
    "not to be expected, even with the same weights and the same clips."
)


Match = tuple[pd.DataFrame, dict[tuple[str, str], str]]
"""Our runs of published folds and seeds, and what is missing by (dataset, head)."""


def compare_with_paper(
    scores: pd.DataFrame, encoder: str, unlike: Mapping[str, str] | None = None
) -> Section | None:
    """Set the scores of one encoder at the paper's 16 shots beside the published ones.

    A difference is given where every published run has its counterpart: the same fold with as many test
    clips, the same seed, trained as in the paper. Our further seeds stay out; what is missing is said.

    Parameters
    ----------
    unlike : mapping, optional
        Datasets that are called like the paper's and are not known to be them, and why: they are left out.

    Returns
    -------
    Section or None
        ``None`` where no dataset is called like one of the paper's.
    """
    unlike = unlike or {}
    title = f"Beside the paper: {encoder}"
    left_out = [
        f"{name} is called like a dataset of the paper and left out here: {why}."
        for name, why in unlike.items()
    ]
    ours = _paper_runs(scores[~scores["dataset"].isin(unlike)])
    if ours.empty:
        return Section(title, tuple(left_out)) if left_out else None
    match = _matched(ours)
    blocks: list[str | Table] = [
        HONEST,
        _by_dataset(ours, match),
        *_by_seed(match),
        *_ablation(ours),
        _claims(ours),
        _parameters(ours),
        _datasets(ours),
    ]
    absent = [name for name in published.names() if name not in set(ours["dataset"])]
    if absent:
        blocks.append(f"Not among these scores: {', '.join(absent)}.")
    return Section(title, (*blocks, *left_out))


def _paper_runs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the runs on the paper's datasets with its number of shots, under the paper's spelling."""
    spelled = scores.assign(dataset=scores["dataset"].map(paper_name)).dropna(subset=["dataset"])
    return spelled[spelled["shots"].isin([0, published.SHOTS])]


def _matched(ours: pd.DataFrame) -> Match:
    """Find the counterpart of every published run."""
    keys = ["dataset", "head", "fold", "seed"]
    n_test = published.datasets()[["dataset", "fold", "n_test"]]
    of_paper = published.results()[keys].merge(n_test, on=["dataset", "fold"])
    runs = of_paper.merge(ours, on=keys, how="left", suffixes=("_published", ""))
    runs["same"] = runs["n_test"] == runs["n_test_published"]
    missing: dict[tuple[str, str], str] = {}
    for key, of_key in runs.groupby(["dataset", "head"]):
        if not of_key["same"].all():
            absent = of_key[of_key["n_test"].isna()]
            missing[cast("tuple[str, str]", key)] = _lacking(absent, of_key) or "other test clips"
    matched = runs[runs["same"]]
    for dataset, head, text in zip(
        matched["dataset"], matched["head"], matched["hyperparameters"], strict=True
    ):
        otherwise = deviations(text)
        if otherwise:
            missing.setdefault((dataset, head), f"the paper's training: {', '.join(otherwise)}")
    return matched, missing


def deviations(hyperparameters: object) -> list[str]:
    """Name the settings of training that are not the paper's, from that column of ``scores.csv``."""
    paper = asdict(Training())
    settings = parse_json(hyperparameters) if isinstance(hyperparameters, str) and hyperparameters else {}
    return [
        f"{name} {value} instead of {paper[name]}"
        for name, value in settings.items()
        if name in paper and value != paper[name]
    ]


def _lacking(absent: pd.DataFrame, all_runs: pd.DataFrame) -> str:
    """Name the folds and seeds that are missing, whole ones where they are."""
    lacking = []
    for key in ("fold", "seed"):
        counts = absent[key].value_counts()
        whole = sorted(counts.index[counts == all_runs[key].value_counts().reindex(counts.index)])
        if whole:
            lacking.append(f"{key}{'s' * (len(whole) > 1)} {', '.join(map(str, whole))}")
    return " and ".join(lacking) if lacking else counted(len(absent), "run") * bool(len(absent))


def _means(runs: pd.DataFrame) -> pd.Series[float]:
    """Return accuracy by dataset and head: mean over folds, then seeds."""
    per_seed = runs.groupby(["dataset", "head", "seed"])["accuracy"].mean()
    return per_seed.groupby(["dataset", "head"]).mean()


def _by_dataset(ours: pd.DataFrame, match: Match) -> Table:
    """Table 2's means and Figure 1's averages, over the datasets that both have whole and over all."""
    matched, missing = match
    every, means, paper_means = _means(ours), _means(matched), _means(published.results())
    shared = every.index.intersection(paper_means.index)
    rows = []
    for key in shared:
        ours_there = (every if key in missing else means)[key]
        rows.append((*key, *_beside(ours_there, paper_means[key], key not in missing), missing.get(key, "")))
    for head in shared.unique("head"):
        keys = [key for key in shared if key[1] == head]
        whole = [key for key in keys if key not in missing]
        if whole:
            cells = _beside(means[whole].mean(), paper_means[whole].mean())
            rows.append((f"average of {len(whole)}", head, *cells, ""))
        if len(whole) < len(keys):
            cells = _beside(every[keys].mean(), paper_means[keys].mean(), False)
            rows.append((f"average of {len(keys)}", head, *cells, "see its datasets"))
    caption = (
        "Accuracy at 16 shots, mean over folds and seeds (paper, Table 2 and Figure 1); the difference of "
        "published folds and seeds alone"
    )
    return Table(
        ("dataset", "head", "ours %", "published %", "difference", "missing here"), tuple(rows), caption
    )


def _by_seed(match: Match) -> list[Table]:
    """Averages over datasets, seed by seed, over the datasets that both have whole."""
    matched, missing = match
    keys_of_runs = zip(matched["dataset"], matched["head"], strict=True)
    whole = matched[pd.Series([key not in missing for key in keys_of_runs], index=matched.index, dtype=bool)]
    means, paper_means = (
        runs.groupby(["head", "dataset", "seed"])["accuracy"].mean() for runs in (whole, published.results())
    )
    shared = means.index.intersection(paper_means.index)
    rows = []
    for head, seed in sorted({(key[0], key[2]) for key in shared}):
        keys = [key for key in shared if (key[0], key[2]) == (head, seed)]
        cells = _beside(means[keys].mean(), paper_means[keys].mean())
        rows.append((str(head), str(seed), str(len(keys)), *cells))
    headings = ("head", "seed", "datasets", "ours %", "published %", "difference")
    return [Table(headings, tuple(rows), "Average over datasets by seed (paper, Table 2)")] if rows else []


def _claims(ours: pd.DataFrame) -> Table:
    """What later papers report on these datasets, beside our head of that name."""
    means = _means(ours)
    average = means.groupby("head").mean()[means.groupby("head").size() == len(published.names())]
    rows = []
    for claim in published.claims().to_dict("records"):
        dataset, head = claim["dataset"], claim["head"]
        if dataset and dataset not in set(ours["dataset"]):
            continue
        accuracy = means.get((dataset, head)) if dataset else average.get(head)
        rows.append(
            (
                dataset or f"average of {len(published.names())}",
                claim["method"],
                claim["encoders"],
                f"{claim['accuracy']:.2f}",
                "-" if accuracy is None else percent(accuracy),
                f"{claim['source']} (as reported by a digest, unverified)",
            )
        )
    headings = ("dataset", "method", "encoders", "reported %", "ours %", "source")
    return Table(
        headings, tuple(rows), "What later papers report at 16 shots; their folds and seeds are not known"
    )


def _ablation(ours: pd.DataFrame) -> list[Table]:
    """Figure 4: what PALM's learned context is worth, on datasets of which all folds are here."""
    folds = published.datasets().groupby("dataset")["fold"].nunique()
    whole = ours[ours.groupby(["dataset", "head"])["fold"].transform("nunique") >= ours["dataset"].map(folds)]
    means, full = _means(whole), _means(published.results())
    bare = published.figures().query("figure == 4").set_index("dataset")["accuracy"]
    rows = tuple(
        (
            dataset,
            percent(means[dataset, "palm-dagger"]),
            percent(bare[dataset]),
            _gain(means.get((dataset, "palm")), means[dataset, "palm-dagger"]),
            _gain(full[dataset, "palm"], bare[dataset]),
        )
        for dataset, head in means.index
        if head == "palm-dagger"
    )
    headings = ("dataset", "palm-dagger: ours %", "published %", "palm above it: ours", "published")
    caption = "PALM without its context, and what the context adds (paper, Figure 4)"
    return [Table(headings, rows, caption)] if rows else []


def _parameters(ours: pd.DataFrame) -> Table:
    """Table 3: learnable parameters, mean over datasets."""
    counts = ours.groupby(["head", "dataset"])["n_params"].first().groupby("head").mean()
    rows = tuple(
        (
            str(head),
            f"{count:,.0f}",
            f"{published.PARAMETERS[head]:,}" if head in published.PARAMETERS else "-",
        )
        for head, count in counts.items()
    )
    caption = (
        "Learnable parameters, mean over the datasets here (paper, Table 3, over all eleven; it counts "
        "COCOOP's network alone)"
    )
    return Table(("head", "ours", "published"), rows, caption)


def _datasets(ours: pd.DataFrame) -> Table:
    """Table 1: folds, training clips of a draw and test clips."""
    trained = ours[ours["shots"] == published.SHOTS]
    counts = published.datasets()
    rows = []
    for dataset in published.names():
        runs, paper = ours[ours["dataset"] == dataset], counts[counts["dataset"] == dataset]
        if runs.empty:
            continue
        drawn = trained.loc[trained["dataset"] == dataset, "n_train"]
        tested = runs.drop_duplicates("fold").set_index("fold")["n_test"]
        rows.append(
            (
                dataset,
                str(paper["n_classes"].iloc[0]),
                f"{tested.index.nunique()} / {len(paper)}",
                f"{span(drawn)} / {span(paper['n_train'])}",
                f"{tested.sum():,} / {paper['n_test'].sum():,}",
            )
        )
    headings = ("dataset", "classes", "folds", "training clips of a draw", "test clips in all folds")
    return Table(headings, tuple(rows), "Datasets: here / in the paper (Table 1)")


def _gain(full: float | None, bare: float) -> str:
    return "-" if full is None else f"{100 * (full - bare):+.2f}"


def _beside(ours: float, theirs: float, comparable: bool = True) -> tuple[str, str, str]:
    return percent(ours), percent(theirs), _gain(ours, theirs) if comparable else "-"
