from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from palm_cache.cli.loading import load


def test_no_garbage_is_looked_for_while_a_module_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_module.py").write_text("import gc\nlooking = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        load("heavy_module")
        assert not sys.modules["heavy_module"].looking
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        del sys.modules["heavy_module"]
    assert gc.isenabled()


def test_a_module_that_cannot_be_loaded_leaves_the_search_for_garbage_on() -> None:
    with pytest.raises(ModuleNotFoundError):
        load("no_such_module")
    assert gc.isenabled()
