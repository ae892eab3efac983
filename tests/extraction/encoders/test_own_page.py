"""The example of "Bring your own encoder", as it stands on the page."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from contracts import check_encoder

from palm_cache.extraction.encoders.registry import load_encoder

PAGE = Path(__file__).parents[3] / "docs" / "pages" / "own-encoder.md"


def write_example(folder: Path) -> None:
    """Write the page's module, and weights for it, into a folder."""
    found = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    module = folder / "my_encoder.py"
    module.write_text(found[1])
    torch.save(runpy.run_path(str(module))["Network"]().state_dict(), folder / "birds.pt")


def test_the_example_is_complete_and_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    write_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        encoder = load_encoder("python:my_encoder:Birds:birds.pt", device="cpu")
        check_encoder(encoder)
        again = load_encoder("python:my_encoder:Birds:birds.pt", device="cpu")
    finally:
        sys.modules.pop("my_encoder", None)
    assert encoder.identity == again.identity
    assert encoder.dim == 32
