"""Fixtures that several test folders share."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import make_features

from palm_cache.types import Features

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def golden() -> Path:
    """Numbers recorded from the authors' own code, where they are present."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("the golden numbers are not beside the project")
    return folder


@pytest.fixture
def game_sfx() -> Path:
    """Real, messy audio in the PALM layout, where it is present."""
    folder = SHARED / "audio" / "GameSFX"
    if not folder.is_dir():
        pytest.skip("the real audio is not beside the project")
    return folder


@pytest.fixture
def features() -> Features:
    return make_features()
