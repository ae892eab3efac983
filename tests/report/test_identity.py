"""What stands beside the paper is the published dataset, not one that is called so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import succeed
from samples import make_features, write_sample

from palm_cache.extraction.datasets.registry import require_card
from palm_cache.types import Features, Fold

CARD = require_card("Beijing-Opera")
HOME = f"data/raw/{CARD.name}"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opera(encoder: str = "mini", seed: int = 0) -> Features:
    """Make features of as many clips, classes and folds as Beijing-Opera has."""
    features = make_features(n_classes=CARD.n_classes, clips_per_class=59, dim=8, noise=1.0, seed=seed)
    tests = torch.arange(sum(CARD.test_clips)).split(list(CARD.test_clips))
    folds = tuple(Fold(torch.cat([other for other in tests if other is not test]), test) for test in tests)
    return replace(features, dataset=CARD.name, encoder=encoder, class_names=CARD.class_names, folds=folds)


def report(features: Features, source: str | Path, published: str = "") -> str:
    """Fit zero-shot on features, and return what the report says."""
    header = {"source": str(Path(source).absolute()), "published": published}
    store = write_sample(Path(f"{features.encoder.partition(':')[0]}.zarr"), features, **header)
    succeed("fit", "--store", str(store), "--head", "zero-shot", "--shots", "16", "--seeds", "0")
    succeed("report")
    return Path("runs/report/report.md").read_text(encoding="utf-8")


def rows(text: str, encoder: str) -> list[str]:
    """Return the rows of the table that has the published accuracies."""
    section = text.split(f"## Beside the paper: {encoder}")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if " | zero-shot | " in line]


def test_the_published_dataset_stands_beside_the_paper_and_two_encoders_are_never_averaged() -> None:
    report(opera(), HOME)
    text = report(opera("clap:x", seed=1), HOME)
    ours = {}
    for encoder in ("mini", "clap-x"):
        of_dataset, average = rows(text, encoder)
        assert of_dataset.startswith(f"| {CARD.name} | zero-shot | ")
        assert re.search(r"\| [+-]\d+\.\d\d \|  \|$", of_dataset)
        assert average.startswith("| average of 1 | ")
        ours[encoder] = of_dataset.split(" | ")[2]
        assert average.split(" | ")[2] == ours[encoder]
    assert ours["mini"] != ours["clap-x"]


@pytest.mark.parametrize(
    ("changed", "source", "why"),
    [
        ({}, "Beijing-Opera", "it was read from {here}/Beijing-Opera, not as the published one"),
        ({"class_names": ("a", "b", "c", "d")}, HOME, "its 4 classes are not the 4 published ones"),
        (
            {"folds": opera().folds[:1]},
            HOME,
            "its folds test 48 clips, the published ones 48, 47, 47, 47, 47",
        ),
        ({"dataset": "beijing-opera"}, "beijing-opera", "it was read from"),
    ],
)
def test_a_dataset_that_is_called_like_one_of_the_papers_is_left_out(
    project: Path, changed: dict[str, object], source: str, why: str
) -> None:
    features = replace(opera(), **changed)  # type: ignore[arg-type]
    text = report(features, source)
    told = f"{features.dataset} is called like a dataset of the paper and left out here: "
    assert told + why.format(here=project) in text
    assert rows(text, "mini") == []


def test_the_published_dataset_may_lie_anywhere(project: Path) -> None:
    text = report(opera(), project / "disk" / "opera", published=CARD.name)
    assert len(rows(text, "mini")) == 2


def test_scores_whose_store_is_not_there_are_not_known_to_be_of_the_published_dataset() -> None:
    report(opera(), HOME)
    Path("mini.zarr").rename("away")
    succeed("report")
    text = Path("runs/report/report.md").read_text(encoding="utf-8")
    assert "left out here: the features that its scores are of are not there" in text
    assert rows(text, "mini") == []
