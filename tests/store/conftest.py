from __future__ import annotations

import pytest

from palm_cache.store import cache as caching
from palm_cache.store import segments as segments_module


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two values and merged segments of a few."""
    monkeypatch.setattr(segments_module, "BLOCK_BYTES", 48)
    monkeypatch.setattr(caching, "SMALL_BYTES", 4000)
