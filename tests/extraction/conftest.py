"""A small dataset, a cheap encoder, chunks and batches of four: what tests of extraction share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from samples import embedder_threads, parted, write_palm_folder, write_tone
from spectrum import Look, Run, SpectrumEncoder

from palm_cache.extraction import extract as stage_one
from palm_cache.extraction import work
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import Extraction, Extractor, extract
from palm_cache.extraction.plan import Plan
from palm_cache.extraction.prompts import Prompts
from palm_cache.types import Clip


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 rows, and a segment for every few clips: small datasets then have several."""
    for module in ("features", "writing", "conversion"):
        monkeypatch.setattr(f"palm_cache.store.{module}.CHUNK_ROWS", 4)
    monkeypatch.setattr(work, "SEGMENT_BYTES", 100)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> SpectrumEncoder:
    spectrum = SpectrumEncoder()
    for module in (stage_one, work):
        monkeypatch.setattr(module, "load_encoder", lambda *given, **options: spectrum)
    return spectrum


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eighteen clips in two classes."""
    return write_palm_folder(tmp_path / "Tones", train=6, test=3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "features" / "Tones" / "mini.zarr"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "features" / ".cache"


@pytest.fixture
def run(folder: Path, out: Path, cache: Path, encoder: SpectrumEncoder) -> Run:
    """Extract the folder as it is now; ``embedded`` of the encoder counts anew."""

    def extract_folder(prompts: Prompts | None = None, **params: object) -> Extraction:
        encoder.embedded = 0
        return extract(read(folder), "mini", out, *parted(**params), prompts, cache=cache)

    return extract_folder


@pytest.fixture
def look(folder: Path, out: Path, cache: Path, encoder: SpectrumEncoder) -> Look:
    """Plan the extraction of the folder as it is now; nothing may be written."""

    def plan(prompts: Prompts | None = None, **params: object) -> Plan:
        before = {file: file.stat().st_mtime_ns for file in out.parents[1].rglob("*") if file.is_file()}
        try:
            with Extractor("mini", *parted(**params), prompts) as extractor:
                return extractor.plan(read(folder), out, cache)
        finally:
            assert before == {
                file: file.stat().st_mtime_ns for file in out.parents[1].rglob("*") if file.is_file()
            }

    return plan


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many threads as torch may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Thirty clips of one to six windows of ``mini``; one of them cannot be read."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(30):
        write_tone(folder / f"{number}.wav", 200 + 30 * number, seconds=1 + number % 7 * 2, seed=number)
    (folder / "11.wav").write_bytes(b"<html>")
    return [Clip(folder / f"{number}.wav", f"{number}.wav", 0) for number in range(30)]


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Ask of a test that its embedders are closed when it ends."""
    before = embedder_threads()
    yield
    assert embedder_threads() <= before
