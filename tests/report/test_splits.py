"""Runs of all shots and of base classes from the fit to the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from samples import make_features, write_sample

from palm_cache.adaptation.evaluate import evaluate_files
from palm_cache.adaptation.fit import fit_store
from palm_cache.cli.adaptation import print_scores
from palm_cache.params import FitParams
from palm_cache.report.base_novel import base_to_novel
from palm_cache.report.write import write_report
from palm_cache.store.heads import read_runs
from palm_cache.store.run_names import choose_run, run_name, split_run_name
from palm_cache.store.scores import read_scores
from palm_cache.types import Fold
from palm_cache.types.runs import ALL_SHOTS

HEADS = ("prototype", "tip-adapter")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 4 and of all shots, and of base classes beside them."""
    out = tmp_path_factory.mktemp("results")
    store = write_sample(out / "features.zarr", make_features(noise=0.9))
    fit_store(store, out, FitParams(heads=HEADS, shots=("all", 4), seeds=(0, 1)))
    split = FitParams(heads=("zero-shot", "tip-adapter"), shots=(4,), seeds=(0, 1), split="base-novel")
    fit_store(store, out, split)
    evaluate_files(out)
    write_report(out)
    return out


def test_all_is_what_users_read_and_more_than_any_number(out: Path) -> None:
    runs = read_runs(out / "clusters" / "mini" / "heads.h5")
    first = choose_run(runs, "prototype")
    assert run_name(first) == "prototype-allshots-fold1-seed0"
    assert split_run_name(run_name(first)) == ("prototype", ALL_SHOTS, 1, 0)
    assert run_name(choose_run(runs, "prototype-allshots-fold2")) == "prototype-allshots-fold2-seed0"
    assert run_name(choose_run(runs, "prototype-4shots")) == "prototype-4shots-fold1-seed0"
    text = (out / "scores.csv").read_text()
    assert ",prototype,all,1,0," in text
    assert str(ALL_SHOTS) not in text
    assert set(read_scores(out / "scores.csv")["shots"]) == {0, 4, ALL_SHOTS}


def test_the_report_has_a_column_of_all_shots_and_a_mark_beyond_the_others(out: Path) -> None:
    report = (out / "report" / "report.md").read_text()
    assert str(ALL_SHOTS) not in report
    assert "| head | 4 shots | all shots |" in report.split("## Which head?")[1]
    figure = (out / "report" / "accuracy_by_shots.svg").read_text()
    assert ">all<" in figure


def test_base_and_novel_have_a_table_of_their_own(out: Path) -> None:
    scores = read_scores(out / "scores.csv")
    table = base_to_novel(scores)
    assert list(table["head"]) in (["tip-adapter", "zero-shot"], ["zero-shot", "tip-adapter"])
    mine = scores[scores["variant"] == "split=base-novel"].groupby("head")
    for row in table.to_dict("records"):
        base, novel = (mine.get_group(row["head"])[f"{half}_accuracy"].mean() for half in ("base", "novel"))
        assert (row["base_accuracy"], row["novel_accuracy"]) == pytest.approx((base, novel))
        assert row["harmonic_mean"] == pytest.approx(2 / (1 / base + 1 / novel))
    assert scores.loc[scores["variant"] == "", "base_accuracy"].isna().all()
    report = (out / "report" / "report.md").read_text()
    assert "base %" in report.split("## Base to novel")[1]
    assert "split=base-novel" not in report.split("## Results")[1].split("## Base to novel")[0]


def test_base_classes_alone_have_a_report_that_says_so(tmp_path: Path) -> None:
    features = make_features(noise=0.9)
    folds = tuple(Fold(fold.train, fold.test[features.labels[fold.test] < 2]) for fold in features.folds)
    store = write_sample(tmp_path / "features.zarr", replace(features, folds=folds))
    split = FitParams(heads=("zero-shot", "proker"), shots=(4,), seeds=(0, 1), split="base-novel")
    fit_store(store, tmp_path, split)
    evaluate_files(tmp_path)
    written = write_report(tmp_path)
    assert written.verdict.startswith("Of heads that learned from base classes alone, ")
    report = (written.page.parent / "report.md").read_text()
    assert "learned from the first half of the classes alone" in report.split("## Results")[1]
    assert (
        "Draws with fewer clips than asked for" not in report
    )  # eight clips of two classes are all asked for
    table = base_to_novel(read_scores(tmp_path / "scores.csv"))
    assert table["novel_accuracy"].isna().all()
    assert table["harmonic_mean"].isna().all()
    assert "| - | - | 3 | 2 |" in report.split("## Base to novel")[1]


def test_of_two_halves_without_a_right_answer_the_mean_is_zero(out: Path) -> None:
    scores = read_scores(out / "scores.csv").assign(base_accuracy=0.0, novel_accuracy=0.0)
    assert base_to_novel(scores)["harmonic_mean"].tolist() == [0.0, 0.0]


def test_the_command_prints_both_halves(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = read_scores(out / "scores.csv")
    print_scores(scores, as_json=False)
    told = capsys.readouterr().out
    assert "harmonic mean %" in told
    assert "tip-adapter@split=base-novel" in told.split("harmonic mean %")[0]
    assert "@" not in told.split("harmonic mean %")[1]  # all of this table have it
    print_scores(scores, as_json=True)
    rows = {row["head"]: row for row in json.loads(capsys.readouterr().out) if row["shots"] == 4}
    for row in base_to_novel(scores).query("shots == 4").to_dict("records"):
        told = rows[f"{row['head']}@split=base-novel"]
        for name in ("base_accuracy", "novel_accuracy", "harmonic_mean"):
            assert told[name] == row[name] > 0
    assert rows["prototype"]["harmonic_mean"] is None
    print_scores(scores[scores["variant"] == ""], as_json=True)
    assert all("harmonic_mean" not in row for row in json.loads(capsys.readouterr().out))
