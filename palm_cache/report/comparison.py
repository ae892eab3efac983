"""Our scores beside the paper's: tables 1 to 3 and the ablation of Hanif et al., EMNLP 2024."""

from __future__ import annotations

import pandas as pd

from palm_cache.report import published
from palm_cache.report.content import Section, Table
from palm_cache.report.tables import percent, span

HONEST = (
    f"Published: {published.SOURCE}. Ours: cached embeddings in evaluation mode, so that equal numbers are "
    "not to be expected, even with the same weights and the same clips."
)


def compare_with_paper(scores: pd.DataFrame, encoder: str) -> Section | None:
    """Set the scores of one encoder at the paper's 16 shots beside the published ones.

    Returns
    -------
    Section or None
        ``None`` where no dataset or no head is the paper's.
    """
    ours = _paper_runs(scores)
    if ours.empty:
        return None
    blocks: list[str | Table] = [
        HONEST,
        _by_dataset(ours),
        _by_seed(ours),
        _parameters(ours),
        _datasets(ours),
    ]
    ablation = _ablation(ours)
    if ablation is not None:
        blocks.insert(3, ablation)
    absent = [name for name in published.names() if name not in set(ours["dataset"])]
    if absent:
        blocks.append(f"Not among these scores: {', '.join(absent)}.")
    return Section(f"Beside the paper: {encoder}", tuple(blocks))


def _paper_runs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the runs on the paper's datasets with its number of shots, under the paper's spelling."""
    spelling = {name.lower(): name for name in published.names()}
    known = scores.assign(dataset=scores["dataset"].str.lower().map(spelling)).dropna(subset=["dataset"])
    return known[known["shots"].isin([0, published.SHOTS])]


def _means(runs: pd.DataFrame) -> pd.Series[float]:
    """Return accuracy by dataset and head: mean over folds, then seeds."""
    per_seed = runs.groupby(["dataset", "head", "seed"])["accuracy"].mean()
    return per_seed.groupby(["dataset", "head"]).mean()


def _by_dataset(ours: pd.DataFrame) -> Table:
    """Table 2's means and Figure 1's averages, the latter over the datasets that both have."""
    mine, theirs = _means(ours), _means(published.results())
    shared = mine.index.intersection(theirs.index)
    rows = []
    for dataset, head in shared:
        rows.append((dataset, head, *_beside(mine[dataset, head], theirs[dataset, head])))
    for head in dict.fromkeys(head for _, head in shared):
        keys = [key for key in shared if key[1] == head]
        name = f"average of {len(keys)}"
        rows.append((name, head, *_beside(float(mine[keys].mean()), float(theirs[keys].mean()))))
    caption = "Accuracy at 16 shots, mean over folds and seeds (paper, Table 2 and Figure 1)"
    return Table(("dataset", "head", "ours %", "published %", "difference"), tuple(rows), caption)


def _by_seed(ours: pd.DataFrame) -> Table:
    """Averages over datasets, seed by seed, over the datasets that both have."""
    mine, theirs = (
        runs.groupby(["head", "dataset", "seed"])["accuracy"].mean() for runs in (ours, published.results())
    )
    shared = mine.index.intersection(theirs.index)
    rows = []
    for head in dict.fromkeys(key[0] for key in shared):
        for seed in sorted({key[2] for key in shared if key[0] == head}):
            keys = [key for key in shared if key[0] == head and key[2] == seed]
            cells = _beside(float(mine[keys].mean()), float(theirs[keys].mean()))
            rows.append((str(head), str(seed), str(len(keys)), *cells))
    headings = ("head", "seed", "datasets", "ours %", "published %", "difference")
    return Table(headings, tuple(rows), "Average over datasets by seed (paper, Table 2)")


def _ablation(ours: pd.DataFrame) -> Table | None:
    """Figure 4: what PALM's learned context is worth."""
    mine, full = _means(ours), _means(published.results())
    bare = published.figures().query("figure == 4").set_index("dataset")["accuracy"]
    rows = tuple(
        (
            dataset,
            percent(mine[dataset, "palm-dagger"]),
            percent(bare[dataset]),
            _gain(mine.get((dataset, "palm")), mine[dataset, "palm-dagger"]),
            _gain(full[dataset, "palm"], bare[dataset]),
        )
        for dataset, head in mine.index
        if head == "palm-dagger"
    )
    if not rows:
        return None
    headings = ("dataset", "palm-dagger: ours %", "published %", "palm above it: ours", "published")
    return Table(headings, rows, "PALM without its context, and what the context adds (paper, Figure 4)")


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
    theirs = published.datasets()
    rows = []
    for dataset in published.names():
        mine, paper = ours[ours["dataset"] == dataset], theirs[theirs["dataset"] == dataset]
        if mine.empty:
            continue
        drawn = trained.loc[trained["dataset"] == dataset, "n_train"]
        tested = mine.drop_duplicates("fold").set_index("fold")["n_test"]
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


def _beside(ours: float, theirs: float) -> tuple[str, str, str]:
    return percent(ours), percent(theirs), _gain(ours, theirs)
