"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import write_palm_folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset of two classes, from which commands are run."""
    monkeypatch.chdir(tmp_path)
    write_palm_folder(tmp_path / "Tones")
    return tmp_path
