"""What runs in the processes of a benchmark: one way of embedding files each."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palm_cache.bench.plain import plain_loop
from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.reading import CuttingRule, read_file
from palm_cache.extraction.work import Work, audio_cache
from palm_cache.params import Recipe
from palm_cache.store.segments import KEY_BYTES
from palm_cache.types import Clip


@dataclass(frozen=True, slots=True)
class ExtractionSetup:
    """How extraction is to run."""

    recipe: Recipe
    device: str = "auto"
    batch_size: int = 0
    plain: bool = False
    """Whether it is not palm-cache's, but the plain loop."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass over all files."""

    seconds: float
    cpu_seconds: float
    """Of all threads together: what other programs disturb least."""
    tower_seconds: float | None
    """What the audio tower takes for the same clips when their log-mel lies ready."""


class PlainRunner:
    """The plain loop; has the methods of :class:`ExtractionRunner`."""

    def __init__(self, spec: str, files: Sequence[Path], how: ExtractionSetup) -> None:
        self._embed_file, self._files = plain_loop(spec, how.recipe), files
        self._embed_file(files[0])

    def prepare(self) -> None:
        """Do nothing: every turn begins anew."""

    def embed(self) -> None:
        """Embed file by file."""
        self._vectors = [self._embed_file(file) for file in self._files]

    def embeddings(self) -> NDArray[np.float32]:
        """Return what was embedded last, (n_files, dim)."""
        return np.stack(self._vectors)

    def run_tower(self) -> bool:
        """Do nothing: what it would show, palm-cache's ways show."""
        return False


class ExtractionRunner:
    """Files into the cache, as ``palm-cache extract`` does it.

    Parameters
    ----------
    place : Path
        Where the cache is put.
    """

    def __init__(self, spec: str, files: Sequence[Path], how: ExtractionSetup, place: Path) -> None:
        self._encoder = load_encoder(spec, how.recipe, device=how.device)
        self._embedder = Embedder(self._encoder, how.recipe, how.batch_size)
        self._recipe, self._place = how.recipe, place
        self._clips = [(row, Clip(file, file.name, None)) for row, file in enumerate(files)]
        self._features = self._read_features()
        self._embedder.on_workers(self._run_tower, self._features[:1])
        self.prepare()

    def prepare(self) -> None:
        """Do what is not measured: make an empty cache."""
        shutil.rmtree(self._place, ignore_errors=True)
        self._cache = audio_cache(self._place, self._encoder, self._recipe)

    def embed(self) -> None:
        """Extract into the cache."""
        self._done = list(Work(self._embedder, self._cache).embed(self._clips))

    def embeddings(self) -> NDArray[np.float32]:
        """Return what was embedded last, (n_files, dim).

        Raises
        ------
        EncoderError
            If a clip could not be embedded.
        """
        for clip in self._done:
            if clip.error:
                raise EncoderError(f"{self._encoder.spec}: {self._clips[clip.row][1].name}: {clip.error}")
        contents = [clip.content for clip in sorted(self._done, key=lambda clip: clip.row)]
        keys = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, KEY_BYTES)
        return np.asarray(self._cache.take(keys)[:, 0])

    def run_tower(self) -> bool:
        """Run just the audio tower, on log-mel that lies ready; return whether there is any."""
        self._embedder.on_workers(self._run_tower, self._features)
        return bool(self._features)

    @torch.inference_mode()
    def _run_tower(self, features: Tensor) -> None:
        self._encoder.run_tower(features).cpu()

    @torch.inference_mode()
    def _read_features(self) -> list[Tensor]:
        """Return what the audio tower reads of all clips in batches, on the device.

        Nothing for encoders that hear every clip at its own length: they make no batches.
        """
        encoder, batches = self._encoder, dict[int, list[Tensor]]()
        if encoder.window.padding == "nan":
            return []
        for clip in self._clips:
            for piece in read_file([clip], CuttingRule.of(encoder, self._recipe)):
                for waveform in piece.stretches:
                    windows = cut_windows(waveform, encoder.window)
                    batches.setdefault(len(windows), []).append(windows)
        size = self._embedder.batch_size
        return [
            encoder.front_end(torch.stack(clips[start : start + size]).to(encoder.device))
            for clips in batches.values()
            for start in range(0, len(clips), size)
        ]


_running: list[PlainRunner | ExtractionRunner] = []
"""What this process runs."""


def start(spec: str, files: Sequence[Path], how: ExtractionSetup, threads: int, place: Path) -> float:
    """Load a way into this process; return the seconds that it took."""
    began = time.perf_counter()
    torch.set_num_threads(threads)
    _running.append(PlainRunner(spec, files, how) if how.plain else ExtractionRunner(spec, files, how, place))
    return time.perf_counter() - began


def take_turn() -> Turn:
    """Embed all files once."""
    runner = _running[0]
    runner.prepare()
    began, cpu_began = time.perf_counter(), time.process_time()
    runner.embed()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    began = time.perf_counter()
    has_tower = runner.run_tower()
    return Turn(seconds, cpu_seconds, time.perf_counter() - began if has_tower else None)


def finish() -> tuple[NDArray[np.float32], int]:
    """Return the embeddings of all files, (n_files, dim), and the most bytes that this process has held."""
    return _running[0].embeddings(), peak_bytes()


def peak_bytes() -> int:
    """Return the most bytes that this process has held; 0 on Windows, which does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts in bytes
