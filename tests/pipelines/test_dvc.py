"""``dvc repro`` for real, on a demo dataset of the smallest size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a small experiment, in a git repository of its own."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    shutil.copytree(ROOT / "palm_cache", folder / "palm_cache", ignore=shutil.ignore_patterns("__pycache__"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["synthesise"]["clips_per_class"] = 5
    params["fit"].update(shots=[1, 2], seeds=[0])
    params["fit"]["training"]["epochs"] = 3
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", ".")
    run(folder, "git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "-m", "start")
    return folder


def run(folder: Path, *words: str) -> str:
    tools = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    done = subprocess.run(words, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def test_the_pipeline_runs_and_redoes_only_what_changed(project: Path) -> None:
    assert stages_run(run(project, "dvc", "repro")) == ["synthesise", "extract", "fit", "evaluate", "report"]
    assert "palm-2shots" in run(project, "dvc", "metrics", "show")
    assert "palm" in (project / "results" / "report" / "report.md").read_text(encoding="utf-8")

    again = run(project, "dvc", "repro")
    assert stages_run(again) == []
    assert "up to date" in again

    # A docstring of stage one.
    module = project / "palm_cache" / "extraction" / "chunks.py"
    module.write_text(module.read_text().replace('"""The unit', '"""Touched: the unit', 1))
    assert stages_run(run(project, "dvc", "repro")) == []

    # A seed: nothing is extracted again.
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("seeds:\n  - 0", "seeds:\n  - 0\n  - 1"))
    assert "fit.seeds" in run(project, "dvc", "params", "diff")
    assert stages_run(run(project, "dvc", "repro")) == ["fit", "evaluate", "report"]
    assert "index.html" in run(project, "dvc", "plots", "show")

    # A changed and an unreadable clip: two are embedded or recorded, the pipeline goes on.
    clips = sorted((project / "data" / "raw" / "demo" / "audio" / "fold1").iterdir())
    clips[0].unlink()
    clips[0].write_bytes(b"<html>")
    run(project, "dvc", "commit", "--force", "synthesise")
    assert stages_run(run(project, "dvc", "repro")) == ["extract", "fit", "evaluate", "report"]
    info = run(project, "palm-cache", "store", "info", "data/features/demo/mini.zarr", "--json")
    assert [why for _, why in json.loads(info)["failures"]] == ["cannot be decoded: format not recognised"]

    # Preprocessing of another version: everything is embedded again.
    module = project / "palm_cache" / "store" / "fingerprint.py"
    text = module.read_text()
    module.write_text(text.replace("PREPROCESSING_VERSION = 1", "PREPROCESSING_VERSION = 2"))
    assert stages_run(run(project, "dvc", "repro"))[0] == "extract"
