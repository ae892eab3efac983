"""What only a GPU shows; everything here needs one, and is skipped without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from contracts import check_encoder, make_waveforms
from samples import write_palm_folder
from tiny_clap import save_tiny_clap

from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.encoders import cuda_graphs, engine
from palm_cache.extraction.encoders.cuda_graphs import GraphedEncoder, can_record
from palm_cache.extraction.encoders.devices import feeding_processes
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.extract import Extraction, extract
from palm_cache.params import Precision, Recipe, Resources
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip, ClipTable

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # torch's own, in its compiler; it would also like fp32 to be TF32.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]

MIN_COSINE = {"fp32": 1 - 1e-6, "tf32": 0.9999, "bf16": 0.999}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ClipTable:
    """Two hundred clips of three classes."""
    folder = tmp_path_factory.mktemp("sounds") / "Tones"
    return read(write_palm_folder(folder, classes=["low", "middle", "high"], train=50, test=17))


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"clap:{save_tiny_clap(tmp_path_factory.mktemp('clap') / 'tiny')}"


def embed(table: ClipTable, folder: Path, recipe: Recipe, device: str, **more: object) -> np.ndarray:
    """Extract and return the embeddings."""
    out = folder / f"{recipe.precision}-{device}.zarr"
    resources = Resources(device=device, **more)  # type: ignore[arg-type]
    done = extract(table, "mini", out, recipe, resources, cache=folder / ".cache")
    assert done.embedded == len(table.clips)
    return FeatureStore(out).audio()[:, 0]


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(torch.cosine_similarity(torch.tensor(some).double(), torch.tensor(others).double()))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_extraction_agrees_with_the_cpu(table: ClipTable, tmp_path: Path, precision: Precision) -> None:
    on_cpu = embed(table, tmp_path / "cpu", Recipe(), "cpu")
    on_gpu = embed(table, tmp_path / "gpu", Recipe(precision=precision), "cuda", batch_size=16)
    assert cosines(on_gpu, on_cpu).min() > MIN_COSINE[precision]
    if precision == "fp32":
        unit = on_cpu / np.linalg.norm(on_cpu, axis=1, keepdims=True)
        np.testing.assert_allclose(on_gpu / np.linalg.norm(on_gpu, axis=1, keepdims=True), unit, atol=1e-5)


def test_a_compiled_tower_agrees(table: ClipTable, tmp_path: Path) -> None:
    plain = embed(table, tmp_path / "plain", Recipe(precision="bf16"), "cuda", batch_size=16)
    compiled = embed(table, tmp_path / "fast", Recipe(precision="bf16", compile=True), "cuda", batch_size=16)
    assert cosines(compiled, plain).min() > MIN_COSINE["bf16"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_keeps_its_contract_on_a_gpu(precision: Precision) -> None:
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    check_encoder(load_encoder("mini", Recipe(precision=precision), device="cuda"), tolerance)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_recorded_launches_give_the_numbers_of_launches_one_by_one(
    clap: str, precision: Precision, compiled: bool
) -> None:
    encoder = load_encoder(clap, Recipe(precision=precision, compile=compiled), device="cuda")
    assert can_record(encoder)
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        embed = GraphedEncoder(encoder)
        for number in range(cuda_graphs.RECORD_AFTER + 3):
            waveforms = make_waveforms(encoder, 6) * (1 + number)
            torch.testing.assert_close(embed(waveforms), encoder.embed_audio(waveforms), atol=1e-6, rtol=1e-5)
    assert [one is not None for one in embed._recordings.values()] == [True]


def test_what_waits_for_the_gpu_halfway_is_launched_one_by_one() -> None:
    encoder = load_encoder("mini", device="cuda")
    inner = encoder.embed_windows

    def waiting(waveforms: torch.Tensor) -> torch.Tensor:
        assert float(waveforms.sum()) != 0  # asks the GPU
        return inner(waveforms)

    encoder.embed_windows = waiting  # type: ignore[method-assign]
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        embed = GraphedEncoder(encoder)
        for number in range(cuda_graphs.RECORD_AFTER + 2):
            waveforms = make_waveforms(encoder, 3) * (1 + number)
            torch.testing.assert_close(embed(waveforms), encoder.embed_audio(waveforms), atol=1e-6, rtol=1e-5)
    assert list(embed._recordings.values()) == [None]


def test_workers_have_streams_of_their_own(table: ClipTable) -> None:
    encoder = load_encoder("mini", device="cuda")
    streams = set()
    inner = encoder.embed_windows

    def noting(waveforms: torch.Tensor) -> torch.Tensor:
        streams.add(torch.cuda.current_stream().cuda_stream)
        return inner(waveforms)

    encoder.embed_windows = noting  # type: ignore[method-assign]
    with Embedder(encoder, batch_size=4) as embedder:
        assert all(one.vectors is not None for one in embedder.embed(numbered(table)))
    assert torch.cuda.default_stream().cuda_stream not in streams
    assert len(streams) > 1


def numbered(table: ClipTable) -> list[tuple[int, Clip]]:
    return list(enumerate(table.clips))


def test_a_batch_beyond_memory_is_halved(table: ClipTable) -> None:
    """The GPU is told to have little memory, so that this is quick and does no harm."""
    encoder = load_encoder("mini", device="cuda")
    with Embedder(encoder, batch_size=16) as embedder:
        expected = {one.row: one.vectors for one in embedder.embed(numbered(table))}
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + (512 << 20)
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        with Embedder(encoder, batch_size=2048) as embedder:
            found = {one.row: one.vectors for one in embedder.embed(numbered(table))}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(note.startswith("out of memory on cuda with ") for note in embedder.notes)
    for row, vectors in expected.items():
        np.testing.assert_allclose(found[row], vectors, atol=1e-4, rtol=1e-4)


COMMAND = """
import palm_cache.extraction.work as work
work.SEGMENT_SECONDS = 0.01
from palm_cache.cli import app; app()
"""


def test_killed_and_resumed_it_gives_what_one_run_gives(table: ClipTable, tmp_path: Path) -> None:
    folder = table.clips[0].file.parents[1]
    whole = embed(table, tmp_path / "whole", Recipe(), "cuda", batch_size=4)
    out = tmp_path / "killed" / "mini.zarr"
    words = ["extract", "--dataset", str(folder), "--out", str(out), "--device", "cuda", "--batch-size", "4"]
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words])
    deadline = time.monotonic() + 120
    while not list(out.parent.glob(".cache/audio-*/*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done: Extraction = extract(table, "mini", out, Recipe(), Resources(device="cuda", batch_size=4))
    assert done.embedded < len(table.clips)
    np.testing.assert_allclose(FeatureStore(out).audio()[:, 0], whole, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_two_gpus_share_the_clips(table: ClipTable, tmp_path: Path) -> None:
    one = embed(table, tmp_path / "one", Recipe(), "cuda:0")
    both = embed(table, tmp_path / "both", Recipe(), "cuda:0,cuda:1")
    np.testing.assert_allclose(both, one, atol=1e-5)


def test_processes_on_one_gpu_share_the_clips(table: ClipTable, tmp_path: Path) -> None:
    one = embed(table, tmp_path / "one", Recipe(), "cuda")
    two = embed(table, tmp_path / "two", Recipe(), "cuda", jobs=2)
    np.testing.assert_allclose(two, one, atol=1e-5)


def test_many_clips_have_several_processes_and_few_have_one() -> None:
    device = torch.device("cuda")
    assert feeding_processes(device, 10) == 1
    most = feeding_processes(device, 10**9)
    assert most <= joblib.cpu_count()
    assert most * engine.MEMORY_A_PROCESS <= torch.cuda.get_device_properties(0).total_memory
