from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd
import pytest

from palm_cache.errors import DataError, StoreError
from palm_cache.report.tables import format_rows, markdown_table, summarise
from palm_cache.report.write import write_report
from palm_cache.store.scores import COLUMNS, write_scores


def scores_table(dataset: str = "demo") -> pd.DataFrame:
    rows = []
    for head, shots, seeds in (("zero-shot", 0, (0,)), ("palm", 4, (0, 1, 2)), ("palm", 16, (0, 1, 2))):
        for fold in (1, 2):
            for seed in seeds:
                accuracy = 0.5 + 0.01 * shots + 0.1 * fold + 0.03 * seed
                rows.append(
                    {
                        **dict.fromkeys(COLUMNS, 0),
                        "dataset": dataset,
                        "encoder": "mini",
                        "head": head,
                        "shots": shots,
                        "fold": fold,
                        "seed": seed,
                        "n_test": 80,
                        "accuracy": accuracy,
                        "macro_f1": accuracy - 0.05,
                        "fingerprint": "f" * 64,
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_folds_are_averaged_before_seeds() -> None:
    summary = summarise(scores_table()).set_index(["head", "shots"])
    palm = summary.loc[("palm", 4)]
    assert palm["accuracy"] == pytest.approx(0.5 + 0.04 + 0.15 + 0.03)
    assert palm["accuracy_sd"] == pytest.approx(0.03)
    assert (palm["folds"], palm["seeds"]) == (2, 3)
    assert pd.isna(summary.loc[("zero-shot", 0), "accuracy_sd"])


def test_the_papers_averages_follow_from_its_published_results(golden: Path) -> None:
    """Mean over folds, then seeds, then datasets: 39.69, 71.14, 73.47 and 76.58 per cent."""
    published = pd.read_csv(golden.parent / "paper" / "results.csv").rename(
        columns={"method": "head", "f1": "macro_f1"}
    )
    published = published.assign(encoder="pengi", shots=16, n_params=0)
    means = summarise(published).groupby("head")["accuracy"].mean()
    assert {head: round(100 * mean, 2) for head, mean in means.items()} == {
        "zeroshot": 39.69,
        "coop": 71.14,
        "cocoop": 73.47,
        "palm": 76.58,
    }


def test_one_seed_has_no_deviation() -> None:
    rows = format_rows(summarise(scores_table()))
    assert [row[4] for row in rows] == ["65.00", "72.00 ± 3.00", "84.00 ± 3.00"]


def test_the_page_and_its_figures_are_written(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", scores_table())
    page, _ = write_report(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "| demo | mini | palm | 16 | 84.00 ± 3.00 |" in text
    for figure in re.findall(r"\]\((.*?\.svg)\)", text):
        root = ElementTree.parse(page.parent / figure).getroot()
        words = " ".join("".join(node.itertext()) for node in root.iter() if node.tag.endswith("text"))
        assert "palm" in words
        assert "accuracy" in words


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        write_scores(tmp_path / "scores.csv", scores_table())
        page, _ = write_report(tmp_path)
        contents.append({file.name: file.read_bytes() for file in page.parent.iterdir()})
    assert contents[0] == contents[1]


def test_names_that_are_markup_stay_text(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", scores_table("a|b <script> $x$"))
    page, _ = write_report(tmp_path)
    assert "<script>" not in page.read_text(encoding="utf-8")
    assert markdown_table(["a"], [["x|y"]]).endswith("| x\\|y |")


def test_missing_scores_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no scores here; make them with: palm-cache fit"):
        write_report(tmp_path)


def test_scores_of_another_format_are_refused_by_name(tmp_path: Path) -> None:
    scores_table().drop(columns=["macro_f1"]).to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(DataError, match="no column macro_f1; it is of another format"):
        write_report(tmp_path)
