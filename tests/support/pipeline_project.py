"""A copy of the project in a git repository of its own, in which its DVC pipelines are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make_project(folder: Path, shrink: Callable[[Path], None]) -> Path:
    """Copy what DVC needs of the project, let ``shrink`` make its experiments small, and commit it."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    shutil.copytree(ROOT / "palm_cache", folder / "palm_cache", ignore=shutil.ignore_patterns("__pycache__"))
    for pipeline in ("heads", "paper"):
        (folder / "pipelines" / pipeline).mkdir(parents=True)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / "pipelines" / pipeline / name, folder / "pipelines" / pipeline)
    shrink(folder)
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", ".")
    run(folder, "git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "-m", "start")
    return folder


def run(folder: Path, *words: str) -> str:
    """Run a command of the environment there, on that copy's code; return what it printed."""
    tools = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    done = subprocess.run(
        words,
        check=False,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def stages_run(output: str) -> list[str]:
    """Return the names of the stages that "dvc repro" ran."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage")]
    return [line.split("'")[1].rpartition(":")[2] for line in lines]
