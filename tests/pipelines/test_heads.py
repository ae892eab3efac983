"""The study of heads for real, on two small datasets and a part of its grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from miniatures import write_miniature
from pipeline_project import ROOT, make_project, run, stages_run

from palm_cache.adaptation.heads import HEADS
from palm_cache.store.scores import read_scores

PARAMS = yaml.safe_load((ROOT / "pipelines" / "heads" / "params.yaml").read_text())


def test_every_head_that_is_quick_and_needs_one_encoder_takes_part() -> None:
    expected = {name for name, head in HEADS.items() if head.n_encoders == 1 and not head.needs_text_tower}
    assert set(PARAMS["fit"]["heads"]) == expected
    assert PARAMS["fit"]["shots"] == [1, 2, 4, 8, 16]


@pytest.mark.slow
def test_the_study_runs_on_the_datasets_that_are_here(tmp_path: Path) -> None:
    def shrink(folder: Path) -> None:
        small = {**PARAMS, "fit": {**PARAMS["fit"], "shots": [1, 2], "seeds": [0], "folds": [1]}}
        (folder / "pipelines" / "heads" / "params.yaml").write_text(yaml.safe_dump(small))

    project = make_project(tmp_path, shrink)
    for name in ("SESA", "VocalSound"):
        write_miniature(name, project / "data" / "raw" / name)
    output = run(project, "dvc", "repro", "pipelines/heads/dvc.yaml")
    assert stages_run(output) == ["extract", "fit", "evaluate", "report"]
    results = project / "pipelines" / "heads" / "results"
    scores = read_scores(results / "scores.csv")
    assert set(scores["dataset"]) == {"SESA", "VocalSound"}
    assert set(scores["head"]) == set(PARAMS["fit"]["heads"])
    report = (results / "report" / "report.md").read_text(encoding="utf-8")
    assert "mini, on SESA, VocalSound:" in report.split("## Which head?")[1]
