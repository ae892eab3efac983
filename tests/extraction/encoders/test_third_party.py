"""The example of "Bring your own encoder", as it stands on the page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from contracts import check_encoder
from own_example import write_example

from palm_cache.extraction.encoders.registry import load_encoder


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
