"""What runs in the processes of a benchmark: one way of embedding files each."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palm_cache.bench.plain import plain_loop
from palm_cache.errors import EncoderError
from palm_cache.extraction.chunks import embed_chunks
from palm_cache.extraction.encoders.base import default_batch, run_tower
from palm_cache.extraction.encoders.registry import encoder_options, load_encoder
from palm_cache.extraction.extract import describe
from palm_cache.extraction.lanes import workers_of
from palm_cache.extraction.reading import Cut, read_pieces
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip, ClipTable, Fold


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass over all files."""

    seconds: float
    cpu_seconds: float
    """Of all threads together: what other programs disturb least."""
    tower_seconds: float | None
    """What the audio tower takes for the same clips when their log-mel lies ready."""


class Runner(Protocol):
    """One way of embedding files."""

    def prepare(self) -> None:
        """Do what is not measured."""
        ...

    def embed(self) -> None:
        """Embed all files."""
        ...

    def embeddings(self) -> NDArray[np.float32]:
        """Return what was embedded last, (n_files, dim)."""
        ...

    def run_tower(self) -> bool:
        """Run just the audio tower, on log-mel that lies ready; return whether there is one to run."""
        ...


class PlainRunner:
    """The plain loop."""

    def __init__(self, spec: str, files: Sequence[Path]) -> None:
        self._embed_file, self._files = plain_loop(spec), files
        self._vectors = [self._embed_file(files[0])]

    def prepare(self) -> None:
        """Forget what was embedded."""
        self._vectors = []

    def embed(self) -> None:
        """Embed file by file."""
        for file in self._files:
            self._vectors.append(self._embed_file(file))

    def embeddings(self) -> NDArray[np.float32]:
        """Return what was embedded last, (n_files, dim)."""
        return np.stack(self._vectors)

    def run_tower(self) -> bool:
        """Do nothing: what it would show, palm-cache's ways show."""
        return False


class ExtractionRunner:
    """Files into a feature store, as ``palm-cache extract`` does it.

    Parameters
    ----------
    folder : Path
        Where the store is put.
    """

    def __init__(self, spec: str, files: Sequence[Path], params: ExtractParams, folder: Path) -> None:
        options = encoder_options(params)
        self._encoders = [load_encoder(spec, device=device, **options) for device in params.devices]
        self._params = params
        clips = tuple(Clip(file, file.name, 0) for file in files)
        rows = torch.arange(len(files))
        self._table = ClipTable("benchmark", ("sound",), clips, (Fold(rows, rows),))
        encoder = self._encoders[0]
        self._header = describe(self._table, encoder, views=1)
        self._text = torch.zeros(1, len(self._header.templates), encoder.dim)  # only audio is measured
        workers, threads = workers_of(encoder.device)
        self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
        self._log_mels = self._read_log_mels()
        self._pool.submit(self._run_batch, self._log_mels[0]).result()
        self._place = folder / "bench.zarr"
        self.prepare()

    def prepare(self) -> None:
        """Make an empty store, which a dataset needs once, however many clips it has."""
        shutil.rmtree(self._place, ignore_errors=True)
        self._store = FeatureStore.create(self._place, self._header, self._table, self._text)

    def embed(self) -> None:
        """Extract into the store."""
        store, clips = self._store, self._table.clips
        chunks = {chunk: clips[store.rows(chunk)] for chunk in range(store.n_chunks)}
        embed_chunks(store, chunks, self._encoders, self._params)

    def embeddings(self) -> NDArray[np.float32]:
        """Return what was embedded last, (n_files, dim).

        Raises
        ------
        EncoderError
            If a clip could not be embedded.
        """
        for name, reason in self._store.failures():
            raise EncoderError(f"{self._encoders[0].spec}: {name}: {reason}")
        return self._store.read().audio[:, 0].numpy()

    def run_tower(self) -> bool:
        """Run the audio tower with the workers that extraction has, on one device."""
        list(self._pool.map(self._run_batch, self._log_mels))
        return True

    @torch.inference_mode()
    def _run_batch(self, log_mel: Tensor) -> None:
        run_tower(self._encoders[0], log_mel).cpu()

    @torch.inference_mode()
    def _read_log_mels(self) -> list[Tensor]:
        """Return the log-mel of all clips in batches, on the device."""
        encoder, alike = self._encoders[0], dict[int, list[Tensor]]()
        for clip in self._table.clips:
            for _, windows in next(read_pieces(clip, Cut.of(encoder, views=1))).windows:
                alike.setdefault(len(windows), []).append(windows)
        size = self._params.batch_size or default_batch(encoder.device)
        return [
            encoder.log_mel(torch.stack(clips[start : start + size]))
            for clips in alike.values()
            for start in range(0, len(clips), size)
        ]


_running: list[Runner] = []
"""What this process runs."""


def start(
    spec: str, files: Sequence[Path], params: ExtractParams | None, threads: int, folder: Path
) -> float:
    """Load a way into this process (the plain loop without parameters); return the seconds that it took."""
    began = time.perf_counter()
    torch.set_num_threads(threads)
    _running.append(ExtractionRunner(spec, files, params, folder) if params else PlainRunner(spec, files))
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
    return _running[0].embeddings(), _peak_bytes()


def _peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts in bytes
