"""``dvc repro`` for real, on a demo dataset of the smallest size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from pipeline_project import make_project, run, stages_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a small experiment."""

    def shrink(folder: Path) -> None:
        params = yaml.safe_load((folder / "params.yaml").read_text())
        params["synthesise"]["clips_per_class"] = 5
        small = {"shots": [1, 2], "seeds": [0], "training": {"epochs": 3}}
        params["fit"] = {"heads": ["zero-shot", "palm", "coop"], **small}
        (folder / "params.yaml").write_text(yaml.safe_dump(params))

    return make_project(tmp_path_factory.mktemp("demo"), shrink)


def test_the_pipeline_runs_and_redoes_only_what_changed(project: Path) -> None:
    assert stages_run(run(project, "dvc", "repro")) == ["synthesise", "extract", "fit", "evaluate", "report"]
    assert "palm-2shots" in run(project, "dvc", "metrics", "show", "results/metrics.json")
    assert "palm" in (project / "results" / "report" / "report.md").read_text(encoding="utf-8")

    again = run(project, "dvc", "repro")
    assert stages_run(again) == []
    assert "up to date" in again

    # A docstring of stage one.
    module = project / "palm_cache" / "extraction" / "embedding.py"
    module.write_text(module.read_text().replace('"""From sound', '"""Touched: from sound', 1))
    assert stages_run(run(project, "dvc", "repro")) == []

    # A seed: nothing is extracted again.
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("seeds:\n  - 0", "seeds:\n  - 0\n  - 1"))
    assert "fit.seeds" in run(project, "dvc", "params", "diff")
    assert stages_run(run(project, "dvc", "repro")) == ["fit", "evaluate", "report"]
    assert "index.html" in run(project, "dvc", "plots", "show")

    # Prompts: no clip is embedded again.
    (project / "prompts.txt").write_text("the sound of {c}\n")
    params.write_text(params.read_text().replace("prompts: {}", "prompts: {templates: prompts.txt}"))
    output = run(project, "dvc", "repro", "extract")
    assert stages_run(output) == ["extract"]
    assert "(0 embedded now, 50 known)" in output

    # An unreadable clip: one is recorded, and the stage goes on.
    clips = sorted((project / "data" / "raw" / "demo" / "audio" / "fold1").iterdir())
    clips[0].unlink()
    clips[0].write_bytes(b"<html>")
    run(project, "dvc", "commit", "--force", "synthesise")
    assert stages_run(run(project, "dvc", "repro", "extract")) == ["extract"]
    info = run(project, "palm-cache", "store", "info", "data/features/demo/mini.zarr", "--json")
    assert [why for _, why, _ in json.loads(info)["failures"]] == ["cannot be decoded: format not recognised"]

    # Another recipe, and the first one again, which the cache knows.
    for views, embedded in ((2, 49), (1, 0)):
        params.write_text(params.read_text().replace("extract: {}", "extract:\n  views: 1"))
        text = params.read_text()
        params.write_text(re.sub(r"views: \d", f"views: {views}", text))
        output = run(project, "dvc", "repro", "extract")
        assert stages_run(output) == ["extract"]
        assert f"({embedded} embedded now" in output

    # Preprocessing of another version: everything is embedded again.
    module = project / "palm_cache" / "store" / "fingerprint.py"
    text = module.read_text()
    module.write_text(re.sub(r"(?m)^PREPROCESSING_VERSION = \d+", "PREPROCESSING_VERSION = 99", text))
    assert stages_run(run(project, "dvc", "repro", "extract")) == ["extract"]
