"""The paper's pipeline for real, on miniatures of its eleven datasets and a small experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from miniatures import MINIATURES, write_miniature
from pipeline_project import make_project, run, stages_run

from palm_cache.report import published
from palm_cache.store.scores import read_scores

pytestmark = pytest.mark.slow

ABSENT = "VocalSound"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with ten of the eleven datasets; ESC50-Actions is in ESC50's folder."""

    def shrink(folder: Path) -> None:
        file = folder / "pipelines" / "paper" / "params.yaml"
        params = yaml.safe_load(file.read_text())
        params["encoder"] = "mini"
        params["fit"].update(seeds=[0], folds=[1])
        params["fit"]["training"] = {"epochs": 1}
        file.write_text(yaml.safe_dump(params))

    folder = make_project(tmp_path_factory.mktemp("paper"), shrink)
    for name in MINIATURES:
        if name not in (ABSENT, "ESC50-Actions"):
            write_miniature(name, folder / "data" / "raw" / name)
    return folder


def test_the_whole_experiment_runs_on_the_datasets_that_are_here(project: Path) -> None:
    first = run(project, "dvc", "repro", "pipelines/paper/dvc.yaml")
    assert stages_run(first) == ["extract", "fit", "evaluate", "report"]
    results = project / "pipelines" / "paper" / "results"
    scores = read_scores(results / "scores.csv")
    assert set(scores["dataset"]) == set(published.names()) - {ABSENT}
    assert set(scores["head"]) == {"zero-shot", "palm-dagger", "coop", "cocoop", "palm"}
    assert set(scores.loc[scores["head"] == "palm", "shots"]) == {1, 2, 4, 8, 16}
    assert set(scores.loc[scores["head"] == "coop", "shots"]) == {16}
    report = (results / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Beside the paper: mini" in report
    for name in set(published.names()) - {ABSENT}:  # miniatures have two classes
        assert f"{name} is called like a dataset of the paper and left out here: its 2 classes" in report

    # Nothing has changed: only the extraction looks again.
    again = run(project, "dvc", "repro", "pipelines/paper/dvc.yaml")
    assert stages_run(again) == ["extract"]
    assert f"note: skipped: {ABSENT} is not in" in again

    # The last dataset arrives: it alone is embedded, and everything behind it is to follow.
    write_miniature(ABSENT, project / "data" / "raw" / ABSENT)
    last = run(project, "dvc", "repro", "pipelines/paper/dvc.yaml:extract")
    assert stages_run(last) == ["extract"]
    assert "0 embedded now" in last
    assert "8 clips -> pipelines/paper/features/VocalSound/mini.zarr (8 embedded now" in last
    assert "modified:" in run(project, "dvc", "status", "pipelines/paper/dvc.yaml:fit")
