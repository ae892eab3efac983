"""A small dataset, a cheap encoder and chunks of four clips: what tests of extraction share."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import write_palm_folder
from spectrum import Run, SpectrumEncoder

from palm_cache.extraction import extract as stage_one
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import Extraction, extract
from palm_cache.params import ExtractParams


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 clips: small datasets then have several."""
    monkeypatch.setattr("palm_cache.store.features.CHUNK_CLIPS", 4)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> SpectrumEncoder:
    spectrum = SpectrumEncoder()
    monkeypatch.setattr(stage_one, "load_encoder", lambda spec, **options: spectrum)
    return spectrum


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eighteen clips in two classes: five chunks."""
    return write_palm_folder(tmp_path / "Tones", train=6, test=3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "features" / "Tones" / "mini.zarr"


@pytest.fixture
def run(folder: Path, out: Path, encoder: SpectrumEncoder) -> Run:
    """Extract the folder as it is now; ``embedded`` of the encoder counts anew."""

    def extract_folder(**params: object) -> Extraction:
        encoder.embedded = 0
        return extract(read(folder), "mini", out, ExtractParams(**params))  # type: ignore[arg-type]

    return extract_folder
