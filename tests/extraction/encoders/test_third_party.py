"""The example of "Bring your own encoder", as it stands on the page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from contracts import check_encoder
from own_example import write_example
from samples import write_palm_folder

from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.extract import extract

SPEC = "python:my_encoder:Birds:birds.pt"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with the example in it."""
    torch.manual_seed(0)
    write_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_encoder", None)


def test_class_names_that_nobody_reads_have_not_collapsed(tmp_path: Path) -> None:
    extraction = extract(read(write_palm_folder(tmp_path / "Tones")), SPEC, tmp_path / "birds.zarr")
    assert extraction.embedded == 12
    assert not any("class names" in note for note in extraction.notes)


def test_the_example_is_complete_and_keeps_the_contract() -> None:
    encoder = load_encoder(SPEC, device="cpu")
    check_encoder(encoder)
    again = load_encoder(SPEC, device="cpu")
    assert encoder.identity == again.identity
    assert encoder.dim == 32
