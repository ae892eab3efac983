from __future__ import annotations

import html
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from chromium import Browser
from command_line import succeed
from scored import predictions, scores_table

from palm_cache.errors import DataError, StoreError, UnknownNameError
from palm_cache.report.means import below_zero_shot, format_rows, on_some_folds, summarise
from palm_cache.report.render import markdown_table
from palm_cache.report.write import write_report
from palm_cache.store.scores import COLUMNS, write_predictions, write_scores
from palm_cache.types.runs import ALL_SHOTS, Training


def test_folds_are_averaged_before_seeds() -> None:
    summary = summarise(scores_table()).set_index(["head", "shots"])
    palm = summary.loc[("palm", 4)]
    assert palm["accuracy"] == pytest.approx(0.5 + 0.04 + 0.15 + 0.03)
    assert palm["accuracy_sd"] == pytest.approx(0.03)
    assert (palm["folds"], palm["seeds"]) == (2, 3)
    assert pd.isna(summary.loc[("zero-shot", 0), "accuracy_sd"])


def test_one_seed_has_no_deviation() -> None:
    rows = format_rows(summarise(scores_table()))
    assert [row[4] for row in rows] == ["65.00", "72.00 ± 3.00", "84.00 ± 3.00"]


def test_the_page_and_its_figures_are_written(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", scores_table())
    page = write_report(tmp_path).page
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    assert "demo, mini:" in text
    assert "| palm | 16 | 84.00 ± 3.00 |" in text
    figures = re.findall(r"\]\((.*?\.svg)\)", text)
    assert figures
    for figure in figures:
        words = " ".join(svg_words(page.parent / figure))
        assert "palm" in words
        assert "accuracy" in words


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        write_scores(tmp_path / "scores.csv", scores_table())
        os.utime(tmp_path / "scores.csv", (1e9, 1e9))  # the page tells the day of the scores
        page = write_report(tmp_path).page
        contents.append({file.name: file.read_bytes() for file in page.parent.iterdir()})
    assert contents[0] == contents[1]
    assert b"Scores of 2001-09-09" in contents[0]["index.html"]


HOSTILE = "a|b <script>alert(1) $x$ {{ 7 * 7 }}"


def test_names_that_are_markup_stay_text(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", scores_table(HOSTILE))
    write_predictions(
        tmp_path / "predictions.h5", predictions(HOSTILE, class_names=(f"{HOSTILE}</script>", "\x1b[31m"))
    )
    page = write_report(tmp_path).page
    for file in (page, page.parent / "report.md"):
        assert "<script>" not in file.read_text(encoding="utf-8")
    for figure in page.parent.glob("*.svg"):
        ElementTree.parse(figure)
    assert "\x1b" not in (page.parent / "report.md").read_text(encoding="utf-8")
    assert html.escape(HOSTILE) in page.read_text(encoding="utf-8")
    assert markdown_table(["a"], [["x|y"]]).endswith("| x\\|y |")


def test_predictions_add_intervals_comparisons_recall_and_confusion(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", scores_table())
    alone = write_report(tmp_path)[0].read_text(encoding="utf-8")
    assert "predictions.h5 (make it with: palm-cache evaluate" in alone
    write_predictions(tmp_path / "predictions.h5", predictions())
    page = write_report(tmp_path)[0]
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# palm is ahead on demo with mini at 16 shots with 84.0 % (")
    compared = text.split("palm, 16 shots, less each of the others")[1].split("\n## ")[0]
    assert "| zero-shot | +" in compared
    assert "| palm" not in compared
    assert "recall per class" in text
    assert (page.parent / "confusion_1.svg").is_file()
    assert "predictions.h5 (make" not in text


def test_settings_that_are_not_the_papers_are_named(tmp_path: Path) -> None:
    def said(**settings: object) -> str:
        settled = scores_table()["head"].map(lambda head: json.dumps(settings if head == "palm" else {}))
        write_scores(tmp_path / "scores.csv", scores_table().assign(hyperparameters=settled))
        return write_report(tmp_path)[0].read_text(encoding="utf-8")

    protocol = asdict(Training())
    assert "Not trained as in the paper: epochs 3 instead of 50 (palm)." in said(**{**protocol, "epochs": 3})
    assert "Trained as in the paper: palm, with epochs 50, lr 0.05, momentum" in said(**protocol)
    # Tip-Adapter-F's are its own paper's; and what learns nothing is not trained.
    for other in ({}, {"epochs": 20, "lr": 1e-3}):
        assert "rained as in the paper" not in said(**other)


def study_page(root: Path) -> Path:
    """Make a report as wide as they come: eleven heads at five numbers of shots."""
    runs, made = [], []
    for head in ("zero-shot", "palm-prototype", "palm", "proker", *(f"kernel-ridge-{n}" for n in range(7))):
        for shots in (1, 2, 4, 8, 16) if head != "zero-shot" else (0,):
            row = {**scores_table().iloc[0].to_dict(), "head": head, "shots": shots, "n_params": 123_456}
            runs.append({**row, "accuracy": 0.9})
            name = f"{head}-{shots}shots-fold1-seed0"
            made.append(replace(predictions()[0], run=name))
    write_scores(root / "scores.csv", pd.DataFrame(runs, columns=list(COLUMNS)))
    write_predictions(root / "predictions.h5", made)
    return write_report(root)[0]


CUT_OFF = """
    const edge = document.documentElement.clientWidth;
    const told = [...document.querySelectorAll("th, td, caption, p, li, h1, h2, figure img")].filter(
        (element) => element.checkVisibility() && element.closest("thead")?.clientHeight !== 0);
    const outside = told.filter((element) => element.getBoundingClientRect().right > edge + 0.5);
    return outside.map((element) => element.textContent || element.outerHTML.slice(0, 80));
"""


@pytest.mark.slow
def test_a_wide_window_is_filled_and_notes_stand_beside_what_they_are_of(
    tmp_path: Path, browser: Browser
) -> None:
    opened = browser.open(study_page(tmp_path).as_uri(), 1440, 900)
    notes, table = opened.run("""
        return ["section p", "section table"].map((which) => {
            const { left, top, right } = document.querySelector(which).getBoundingClientRect();
            return { left, top, right };
        });
    """)
    assert notes["left"] < 60
    assert notes["right"] < table["left"]
    assert table["right"] > 1380
    assert abs(notes["top"] - table["top"]) < 10


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280, 1440])
def test_nothing_is_cut_off(tmp_path: Path, browser: Browser, width: int) -> None:
    opened = browser.open(study_page(tmp_path).as_uri(), width, 900)
    assert opened.run("return document.documentElement.scrollWidth") <= width
    assert opened.run(CUT_OFF) == []


def test_a_figure_of_one_dataset_has_a_row_per_head_and_a_curve_needs_two_numbers_of_shots(
    tmp_path: Path,
) -> None:
    scores = scores_table()
    for runs, curve in ((scores[scores["shots"] != 4], False), (scores, True)):
        write_scores(tmp_path / "scores.csv", runs)
        text = (write_report(tmp_path).page.parent / "report.md").read_text(encoding="utf-8")
        assert ("accuracy_by_shots.svg" in text) == curve
    assert {"zero-shot", "palm, 16 shots"} <= set(svg_words(tmp_path / "report" / "accuracy_by_head.svg"))


def test_palm_below_zero_shot_is_explained(tmp_path: Path) -> None:
    scores = scores_table()
    assert below_zero_shot(scores) == []
    # What both columns show alike is no difference.
    alike = scores[scores["shots"] == 16].assign(shots=2, accuracy=0.6495)
    assert below_zero_shot(pd.concat([scores, alike])) == []
    # Nor is what another seed may turn.
    spread = alike.assign(accuracy=0.64 + 0.02 * alike["seed"].rank(method="dense").sub(2))
    assert spread.groupby("seed")["accuracy"].mean().mean() < 0.649
    assert below_zero_shot(pd.concat([scores, spread])) == []
    weak = scores[scores["shots"] == 16].assign(shots=1, accuracy=0.3)
    write_scores(tmp_path / "scores.csv", pd.concat([scores, weak]))
    text = (write_report(tmp_path).page.parent / "report.md").read_text(encoding="utf-8")
    assert (
        "demo, mini: palm is below zero-shot: 30.0 % against 65.0 % at 1 shot. PALM's context starts" in text
    )
    assert "give it more shots" in text
    both = below_zero_shot(pd.concat([scores, weak, weak.assign(head="palm@lr=0.5", accuracy=0.2)]))
    assert [note.partition("%")[0] for note in both] == [
        "demo, mini: palm is below zero-shot: 30.0 ",
        "demo, mini: palm@lr=0.5 is below zero-shot: 20.0 ",
    ]
    assert below_zero_shot(pd.concat([scores, weak.assign(variant="split=base-novel")])) == []
    (note,) = below_zero_shot(pd.concat([scores, weak.assign(shots=ALL_SHOTS)]))
    assert "at all shots" in note
    assert "more shots" not in note


def test_palm_is_set_against_zero_shot_on_the_same_folds_alone() -> None:
    scores = scores_table()  # zero-shot has 60 % on fold 1 and 70 % on fold 2
    one = scores[(scores["head"] == "zero-shot") | (scores["fold"] == 1)]
    assert below_zero_shot(one.assign(accuracy=one["accuracy"].where(one["head"] == "zero-shot", 0.62))) == []
    weak = one.assign(accuracy=one["accuracy"].where(one["head"] == "zero-shot", 0.55))
    (note,) = below_zero_shot(weak)
    assert ": 55.0 % against 60.0 % at 4 shots, 55.0 % against 60.0 % at 16 shots. " in note
    assert below_zero_shot(weak[(weak["head"] == "palm") | (weak["fold"] == 2)]) == []
    assert on_some_folds(one) == ["demo, mini: on some of these folds, and so clips, alone: palm."]
    assert on_some_folds(scores) == []
    assert on_some_folds(
        scores.drop(scores[(scores["seed"] == 2) & (scores["fold"] == 2)].index)
    ) == on_some_folds(one)


def test_what_is_of_some_folds_alone_is_marked(tmp_path: Path) -> None:
    scores, made = scores_table(), predictions()
    of_one = (scores["head"] == "zero-shot") | (scores["fold"] == 1)
    write_scores(tmp_path / "scores.csv", scores[of_one])
    write_predictions(
        tmp_path / "predictions.h5", [one for one, kept in zip(made, of_one, strict=True) if kept]
    )
    text = (write_report(tmp_path).page.parent / "report.md").read_text(encoding="utf-8")
    assert "demo, mini: on some of these folds, and so clips, alone: palm." in text
    assert "| class | zero-shot | palm, 16 shots, fold 1 alone |" in text


def svg_words(figure: Path) -> list[str]:
    nodes = ElementTree.parse(figure).getroot().iter()
    return ["".join(node.itertext()).strip() for node in nodes if node.tag.endswith("text")]


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    text = study_page(tmp_path).read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", text)


def test_any_head_can_be_the_reference(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", scores_table())
    write_predictions(tmp_path / "predictions.h5", predictions())
    text = (write_report(tmp_path, against="zero-shot")[0].parent / "report.md").read_text(encoding="utf-8")
    compared = text.split("zero-shot, less each of the others")[1].split("\n## ")[0]
    assert "| palm, 16 shots | -" in compared
    with pytest.raises(UnknownNameError, match="'plam'; did you mean palm"):
        write_report(tmp_path, against="plam")


def test_without_palm_zero_shot_is_the_reference_and_a_variant_can_be(tmp_path: Path) -> None:
    scores, options = scores_table(), "epochs=3,lr=0.5"
    write_scores(tmp_path / "scores.csv", scores.assign(head=scores["head"].replace("palm", "gda")))
    renamed = [replace(one, run=one.run.replace("palm", "gda")) for one in predictions()]
    write_predictions(tmp_path / "predictions.h5", renamed)
    text = (write_report(tmp_path).page.parent / "report.md").read_text(encoding="utf-8")
    assert "| gda, 16 shots | -" in text.split("zero-shot, less each of the others")[1]
    # On each dataset by itself: palm on another one does not keep these from being compared.
    birds = scores_table("birds")
    write_scores(
        tmp_path / "scores.csv", pd.concat([scores.assign(head=scores["head"].replace("palm", "gda")), birds])
    )
    write_predictions(tmp_path / "predictions.h5", [*renamed, *predictions("birds")])
    text = (write_report(tmp_path).page.parent / "report.md").read_text(encoding="utf-8")
    assert "demo, mini: zero-shot, less each of the others" in text
    assert "birds, mini: palm, 16 shots, less each of the others" in text
    (tmp_path / "predictions.h5").unlink()
    variant = scores[scores["head"] == "palm"].assign(variant=options)
    write_scores(tmp_path / "scores.csv", pd.concat([scores, variant]))
    of_palm = [one for one in predictions() if one.run.startswith("palm")]
    of_variant = [replace(one, run=one.run.replace("palm", f"palm@{options}")) for one in of_palm]
    write_predictions(tmp_path / "predictions.h5", [*predictions(), *of_variant])
    succeed("report", "--out", str(tmp_path), "--against", f"palm@{options}")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| palm | +0.00 |" in text.split(f"palm@{options}, 16 shots, less each of the others")[1]


def test_draws_with_fewer_clips_than_asked_for_are_named(tmp_path: Path) -> None:
    scores = scores_table()
    short = scores["n_train"].where(scores["shots"] != 16, 30 + scores["fold"])
    write_scores(tmp_path / "scores.csv", scores.assign(n_train=short.where(scores["shots"] != 4, 8)))
    write_predictions(tmp_path / "predictions.h5", predictions())
    text = (write_report(tmp_path)[0].parent / "report.md").read_text(encoding="utf-8")
    expected = "as some classes have fewer: demo, mini: 31 to 32 of 32 clips at 16 shots."
    assert expected in text


def test_a_class_without_a_test_clip_has_no_recall(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", scores_table())
    write_predictions(
        tmp_path / "predictions.h5",
        [
            replace(
                one, logits=torch.cat([one.logits, one.logits[:, :1] - 9], dim=1), class_names=("a", "b", "c")
            )
            for one in predictions()
        ],
    )
    text = (write_report(tmp_path)[0].parent / "report.md").read_text(encoding="utf-8")
    recall = text.split("recall per class, %")[1]
    assert "| c | - | - |" in recall
    assert "nan" not in recall


def test_single_seeds_are_marked_and_not_tested(tmp_path: Path) -> None:
    scores = scores_table()
    write_scores(tmp_path / "scores.csv", scores[scores["seed"] == 0])
    write_predictions(tmp_path / "predictions.h5", predictions())
    text = (write_report(tmp_path)[0].parent / "report.md").read_text(encoding="utf-8")
    compared = text.split("palm, 16 shots, less each of the others")[1].split("\n## ")[0]
    (row,) = (line for line in compared.splitlines() if line.startswith("| zero-shot*"))
    assert row.endswith("| - | - |")
    assert "Marked *: a single seed." in text
    assert re.search(r"^\| palm \| 16 \| .*\* \|", text, re.MULTILINE)


def test_missing_scores_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no scores here; make them with: palm-cache fit"):
        write_report(tmp_path)


def test_scores_of_another_format_are_refused_by_name(tmp_path: Path) -> None:
    scores_table().drop(columns=["macro_f1"]).to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(DataError, match=r"\(no column macro_f1\); move it away and run palm-cache fit"):
        write_report(tmp_path)
