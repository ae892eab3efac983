"""Time PENGI's extraction against the plain loop over transformers' own classes, on the same files.

``python -m pipelines.benchmarks.pengi CHECKPOINT --tokenizer DIR FILES...``

The plain loop is what one would write by hand: soundfile, resampling, the feature extractor and the model,
clip by clip. Each way runs in a process of its own, so that its peak
memory is its own. What comes before the first clip is counted apart; palm-cache embeds its prompts there.
Its time per clip includes hashing and the store. The last column compares embeddings with the plain loop's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Measured:
    """One way of embedding all files."""

    start: float
    """Seconds before the first clip: reading the checkpoint, and prompts."""
    seconds: float
    """Spent on the clips."""
    peak_bytes: int
    embeddings: NDArray[np.float32]
    """(n_files, 1024)"""


def plain_loop(checkpoint: Path, files: Sequence[Path], threads: int) -> Measured:
    """Embed file by file, with transformers' feature extractor and its HTSAT."""
    import soundfile
    import torch
    from torchaudio.functional import resample
    from transformers import ClapFeatureExtractor

    from palm_cache.extraction.encoders import pengi

    torch.set_num_threads(threads)
    started = time.perf_counter()
    tower, _ = pengi.build_towers("pengi", pengi.read_checkpoint(str(checkpoint)))
    tower.eval()
    extractor = ClapFeatureExtractor(
        sampling_rate=pengi.SAMPLE_RATE,
        hop_length=pengi.HOP_SAMPLES,
        max_length_s=7,
        truncation="rand_trunc",
        padding="repeat",
    )
    extractor.mel_filters_slaney = tower.mel.double().numpy()
    embeddings = []
    ready = time.perf_counter()
    with torch.no_grad():
        for file in files:
            sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
            waveform = resample(torch.from_numpy(sound.mean(axis=1)), rate, pengi.SAMPLE_RATE)
            start = max(0, len(waveform) - pengi.WINDOW_SAMPLES) // 2
            waveform = waveform[start : start + pengi.WINDOW_SAMPLES]
            inputs = extractor(waveform.numpy(), sampling_rate=pengi.SAMPLE_RATE, return_tensors="pt")
            pooled = tower.htsat(input_features=inputs["input_features"]).pooler_output
            embeddings.append(tower.projection(pooled)[0].numpy())
    seconds = time.perf_counter() - ready
    return Measured(ready - started, seconds, _peak_bytes(), np.stack(embeddings))


def palm_cache(
    checkpoint: Path, files: Sequence[Path], threads: int, tokenizer: str, precision: str
) -> Measured:
    """Extract into a store."""
    import torch

    from palm_cache.extraction.extract import extract
    from palm_cache.params import ExtractParams, override
    from palm_cache.store.features import FeatureStore
    from palm_cache.types import Clip, ClipTable, Fold

    torch.set_num_threads(threads)
    started = time.perf_counter()
    clips = tuple(Clip(file, file.name, 0) for file in files)
    rows = torch.arange(len(files))
    table = ClipTable("benchmark", ("sound",), clips, (Fold(rows, rows),))
    params = override(ExtractParams(device="cpu", tokenizer=tokenizer), precision=precision)
    ticks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        done = extract(
            table,
            f"pengi:{checkpoint}",
            Path(folder, "benchmark.zarr"),
            params,
            progress=lambda *_: ticks.append(time.perf_counter()),
        )
        seconds = time.perf_counter() - ticks[0]
        if done.failures:
            raise SystemExit(f"{done.failures[0][0]}: {done.failures[0][1]}; leave it out")
        audio = FeatureStore(done.store).read().audio[:, 0].numpy()
    return Measured(ticks[0] - started, seconds, _peak_bytes(), audio)


def measure(way: Callable[[], Measured]) -> Measured:
    """Run one way in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way).result()


def main() -> None:
    """Run all ways in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--tokenizer", default="openai/clip-vit-base-patch32", help="directory or hub id")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    given = (options.checkpoint, options.files, options.threads)
    ways = {
        "plain loop": partial(plain_loop, *given),
        "palm-cache": partial(palm_cache, *given, options.tokenizer, "fp32"),
        "palm-cache, bf16": partial(palm_cache, *given, options.tokenizer, "bf16"),
    }
    print(f"{len(options.files)} files, {options.threads} threads")
    print(f"{'':18}{'start s':>9}{'s/clip':>8}{'peak GB':>9}{'least cosine':>14}")
    reference = None
    for name, way in ways.items():
        measured = measure(way)
        unit = measured.embeddings.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        reference = unit if reference is None else reference
        cosine = (unit * reference).sum(axis=1).min()
        per_clip, gigabytes = measured.seconds / len(options.files), measured.peak_bytes / 1e9
        print(f"{name:18}{measured.start:9.1f}{per_clip:8.3f}{gigabytes:9.2f}{cosine:14.6f}")


def _peak_bytes() -> int:
    """Return the most memory this process has held; macOS counts in bytes, Linux in kilobytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
