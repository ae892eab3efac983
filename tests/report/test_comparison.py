from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored import scores_table

from palm_cache.report import published
from palm_cache.report.comparison import compare_with_paper
from palm_cache.report.render import as_markdown


def published_as_scores() -> pd.DataFrame:
    """The paper's own logged results as if they were ours."""
    results = published.results()
    counts = published.datasets().set_index(["dataset", "fold"])
    of_run = counts.loc[list(zip(results["dataset"], results["fold"], strict=True))].reset_index(drop=True)
    return results.assign(
        **of_run[["n_train", "n_test"]],
        encoder="pengi-base",
        shots=np.where(results["head"] == "zero-shot", 0, 16),
        n_params=np.where(results["head"] == "palm", of_run["n_classes"] * 1025, 0),
        fit_seconds=0,
        template="",
        hyperparameters="{}",
        fingerprint="f" * 64,
    )


def beside(scores: pd.DataFrame) -> str:
    """Return what a report says of scores beside the paper's, all datasets being the published ones."""
    section = compare_with_paper(scores, "pengi-base")
    assert section
    return as_markdown("", [section])


def test_the_published_results_give_the_papers_averages() -> None:
    text = beside(published_as_scores())
    averages = (("zero-shot", "39.69"), ("coop", "71.14"), ("cocoop", "73.47"), ("palm", "76.58"))
    for head, average in averages:
        assert f"| average of 11 | {head} | {average} | {average} | +0.00 |  |" in text
    for seed, average in enumerate(("77.59", "76.21", "75.95")):
        assert f"| palm | {seed} | 11 | {average} | {average} | +0.00 |" in text
    assert "| palm | 12,393 | 12,393 |" in text
    assert "| UrbanSound8K | 10 | 10 / 10 | 160 / 160 | 8,732 / 8,732 |" in text
    assert "Not among these scores" not in text


def test_only_datasets_that_both_have_are_averaged() -> None:
    scores = published_as_scores()
    some = scores[scores["dataset"].isin(["ESC50", "SESA"])]
    text = beside(pd.concat([some, scores_table()]))
    mean = f"{(95.93333 + 89.52333) / 2:.2f}"
    assert f"| average of 2 | palm | {mean} | {mean} | +0.00 |  |" in text
    assert "Not among these scores: Beijing-Opera, CREMA-D" in text


def test_only_published_folds_and_seeds_are_compared_and_what_is_missing_is_said() -> None:
    ours = published_as_scores()
    palm = ours[(ours["head"] == "palm") & ours["dataset"].isin(["ESC50", "SESA", "RAVDESS", "VocalSound"])]
    further = palm.assign(seed=palm["seed"] + 3, accuracy=0.0)  # seeds that the paper has not
    lost = ((palm["dataset"] == "SESA") & (palm["seed"] > 0)) | (
        (palm["dataset"] == "ESC50") & (palm["fold"] == 2)
    )
    lost |= (palm["dataset"] == "ESC50") & (palm["fold"] == 4) & (palm["seed"] == 1)
    fewer = palm["n_test"].where(palm["dataset"] != "RAVDESS", 490)
    text = beside(pd.concat([palm.assign(n_test=fewer)[~lost], further]))
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if " | palm | " in line}
    assert "| +0.00 |  |" in rows["VocalSound"]
    assert rows["SESA"].endswith("| - | seeds 1, 2 |")
    assert rows["ESC50"].endswith("| - | fold 2 |")
    assert rows["RAVDESS"].endswith("| - | other test clips |")
    assert rows["average of 1"].endswith("| +0.00 |  |")
    assert rows["average of 4"].endswith("| - | see its datasets |")


def test_runs_that_were_trained_otherwise_are_not_held_against_the_paper() -> None:
    ours = published_as_scores()
    settings = {
        "palm": json.dumps({"epochs": 50, "lr": 0.01}),
        "coop": json.dumps({"epochs": 50, "lr": 0.05}),
    }
    ours = ours.assign(hyperparameters=ours["head"].map(settings).fillna("{}"))
    text = beside(ours[ours["dataset"] == "SESA"])
    assert "| SESA | palm | 89.52 | 89.52 | - | the paper's training: lr 0.01 instead of 0.05 |" in text
    assert re.search(r"\| SESA \| coop \| .* \| \+0.00 \|  \|", text)


def test_what_later_papers_report_is_marked_by_its_source() -> None:
    ours = published_as_scores()
    text = beside(ours.assign(head=ours["head"].replace("coop", "proker")))
    (muka,) = (line for line in text.splitlines() if line.startswith("| SESA | MUKA |"))
    assert "| 90.16 | - |" in muka
    assert muka.endswith("arXiv:2602.14127 (as reported by a digest, unverified) |")
    assert "| average of 11 | ProKeR | PENGI | 79.48 | 71.14 |" in text
    claims = published.claims()
    of_muka = claims[(claims["method"] == "MUKA") & (claims["dataset"] != "")]
    assert sorted(of_muka["dataset"]) == sorted(published.names())
    assert of_muka["accuracy"].mean() == pytest.approx(80.90)


def test_published_numbers_are_the_shared_ones(golden: Path) -> None:
    paper = golden.parent / "paper"
    theirs = pd.read_csv(paper / "results.csv")
    assert theirs["accuracy"].tolist() == published.results()["accuracy"].tolist()
    assert theirs["dataset"].tolist() == published.results()["dataset"].tolist()
    assert pd.read_csv(paper / "datasets.csv")["test"].tolist() == published.datasets()["n_test"].tolist()
    assert pd.read_csv(paper / "figures.csv")["accuracy"].tolist() == published.figures()["accuracy"].tolist()
