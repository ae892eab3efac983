"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import make_features, write_palm_folder, write_sample


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset of two classes, from which commands are run."""
    monkeypatch.chdir(tmp_path)
    write_palm_folder(tmp_path / "Tones")
    return tmp_path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset, two stores and one place of heads, whose content no test reads."""
    monkeypatch.chdir(tmp_path)
    write_palm_folder(tmp_path / "own" / "Tones")
    for store in ("Tones", "Other"):
        write_sample(Path("data/features", store, "mini.zarr"), make_features())
    heads = Path("runs/Tones/mini/heads.h5")
    heads.parent.mkdir(parents=True)
    heads.touch()
    return tmp_path
