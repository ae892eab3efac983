"""Keeping encoders busy: one lane per encoder, several workers per lane, one writer for all.

::

    readers --pieces--> lane --batches--> workers --embeddings--> lane --finished chunks--> writer

A worker that has embedded a batch hands its embeddings in and takes the next batch, so nothing piles up: in
memory are what is read ahead, what the workers hold and a few finished chunks, however long the dataset is.

On a CPU each worker computes in a thread of its own, and torch does not split its operations further. Two
workers with a batch each are quicker than one that splits every operation in two, by far so where other
programs want the same cores, and what they compute does not depend on how many they are. A GPU has two
workers, each with its own stream: while one computes, the other's batch is copied.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palm_cache.errors import AudioError, EncoderError
from palm_cache.extraction.batches import Batch, ChunkJob, FinishedChunk, OpenChunk
from palm_cache.extraction.encoders.base import Encoder, cpu_workers, default_batch, exact_float32
from palm_cache.extraction.reading import Cut, Piece, Reading, read_ahead, read_pieces
from palm_cache.params import ExtractParams

GPU_WORKERS = 2

MOST_UNWRITTEN = 4
"""Finished chunks that may wait for a slow disk; then the encoders wait too."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all lanes of an extraction share."""

    views: int
    params: ExtractParams
    readers: ThreadPoolExecutor
    n_readers: int
    commit: Callable[[FinishedChunk], None]
    """Takes finished chunks, those of a lane in order."""
    tick: Callable[[], None]
    """Called once per clip read."""
    stop: threading.Event
    """When set, no more batches are given out."""
    closing: threading.Event
    """When set, batches of no chunk but the first that is not finished."""


class _Lane:
    """One encoder and the chunks that it embeds, in order; its workers take batches from here.

    Parameters
    ----------
    jobs : iterable of ChunkJob
        Made when their turn comes.
    """

    def __init__(self, encoder: Encoder, jobs: Iterable[ChunkJob], shared: _Shared) -> None:
        self.encoder, self._shared = encoder, shared
        self._batch_size = self._most = shared.params.batch_size or default_batch(encoder.device)
        self._lock = threading.Lock()
        self._open: deque[OpenChunk] = deque()
        self._last: OpenChunk | None = None
        self._notes: list[str] = []
        clips = self._begin(jobs, Cut.of(encoder, shared.views))
        # A batch ahead of the one being filled, and work for every reader.
        depth = max(2 * self._batch_size // shared.views, shared.n_readers) + 1
        self._batches = self._fill(read_ahead(shared.readers, clips, depth))

    def exchange(self, done: Batch | None, embeddings: NDArray[np.float32] | None) -> Batch | None:
        """Take in the embeddings of a batch and give out the next, or ``None`` if that was all or it is over.

        Raises
        ------
        AudioError
            If a clip cannot be read and ``on_error`` is ``"fail"``.
        """
        with self._lock:
            if done is not None and embeddings is not None:
                done.chunk.embedded[done.number] = (done.slots, embeddings)
            try:
                return self._next()
            finally:
                while self._open and self._open[0].complete:
                    notes, self._notes = self._notes, []
                    made = self._open.popleft().finish(self._shared.views, self.encoder.dim, notes)
                    self._shared.commit(made)

    def _next(self) -> Batch | None:
        if self._shared.closing.is_set() and self._last is None and self._open:
            self._last = self._open[0]
        if self._shared.stop.is_set():
            return None
        batch = next(self._batches, None)
        wanted = batch is None or not self._shared.closing.is_set() or batch.chunk is self._last
        return batch if wanted else None

    def _begin(self, jobs: Iterable[ChunkJob], cut: Cut) -> Iterator[Reading]:
        """Open chunk after chunk, as far as clips are read ahead."""
        for job in jobs:
            self._open.append(OpenChunk.begin(job))
            for clip in job.clips:
                yield read_pieces(clip, cut, job.known)

    def _fill(self, clips: Iterator[Iterator[Piece]]) -> Iterator[Batch]:
        """Fill batches across the clips of a chunk, never across chunks."""
        for clip in clips:
            chunk = next(chunk for chunk in self._open if not chunk.read)
            for piece in clip:
                if piece.error and self._shared.params.on_error == "fail":
                    advice = "mend or remove the clip, or use --on-error skip"
                    raise AudioError(f"{chunk.job.clips[chunk.row].name}: {piece.error}; {advice}")
                chunk.take(piece)
                yield from chunk.batches(self._batch_size)
            self._shared.tick()

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Embed a batch, in parts where memory does not hold it whole, -> (stretches, dim).

        Rows do not depend on their companions but for rounding below 1e-5, so neither do they on whether
        memory ran out.

        Raises
        ------
        EncoderError
            If memory does not hold a single stretch.
        """
        parts, start = [], 0
        while start < len(batch.windows):
            windows = batch.windows[start : start + self._most]
            part = self._try_embed(windows)
            if part is not None:
                parts.append(part)
                start += len(windows)
        return np.concatenate(parts)

    def _try_embed(self, windows: Sequence[Tensor]) -> NDArray[np.float32] | None:
        """Embed what goes in at once; if memory runs out, halve that from now on and return ``None``."""
        device = self.encoder.device
        try:
            return self.encoder.embed_audio(_stack(windows, device)).numpy()
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(windows) == 1:
                raise EncoderError(
                    f"encoder {self.encoder.spec}: out of memory on {device} with a single clip; "
                    "free some, or use another --device"
                ) from error
        # Not in the handler: its traceback holds what the failed call had allocated.
        if device.type == "cuda":
            torch.cuda.empty_cache()
        with self._lock:
            if self._most > len(windows) // 2:
                self._most = len(windows) // 2
                self._notes.append(
                    f"out of memory on {device} with {len(windows)} clips at once; went on with {self._most} "
                    f"(next time: --batch-size {self._most})"
                )
        return None


def _stack(windows: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return (stretches, windows, samples), for a GPU in memory that it can copy from by itself."""
    if device.type != "cuda":
        return torch.stack(tuple(windows))
    pinned = torch.empty((len(windows), *windows[0].shape), pin_memory=True)
    return torch.stack(tuple(windows), out=pinned)


def _is_out_of_memory(error: Exception) -> bool:
    """Recognise it on CUDA, in CUDA's libraries, in torch's CPU allocator and in Python."""
    said = re.search(r"out of memory|can't allocate memory|ALLOC_FAILED|bad.alloc", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or said is not None


class _Writer(Generic[T]):
    """Writes finished chunks in a thread of its own, one after the other, and none after one that failed."""

    def __init__(self, write: Callable[[FinishedChunk], T]) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, "writer")
        self._lock = threading.Lock()
        self._pending: deque[Future[T]] = deque()
        self._written: list[T] = []
        self._failed = False

    def submit(self, chunk: FinishedChunk) -> None:
        """Have a chunk written; raises what went wrong with an earlier one."""
        with self._lock:
            self._collect(leave=MOST_UNWRITTEN - 1)
            self._pending.append(self._thread.submit(self._try_write, chunk))

    def results(self) -> list[T]:
        """Wait until all is written."""
        with self._lock:
            self._collect(leave=0)
            return self._written

    def close(self) -> None:
        """Wait until all is written that can be, whatever became of it."""
        self._thread.shutdown()

    def _collect(self, leave: int) -> None:
        while self._pending and (len(self._pending) > leave or self._pending[0].done()):
            self._written.append(self._pending.popleft().result())

    def _try_write(self, chunk: FinishedChunk) -> T:
        if self._failed:
            raise RuntimeError("an earlier chunk could not be written")  # and that error is raised first
        try:
            return self._write(chunk)
        except BaseException:
            self._failed = True
            raise


def workers_of(device: torch.device) -> tuple[int, int]:
    """Return how many workers a device has, and how many threads each of them."""
    if device.type == "cpu":
        return cpu_workers()
    return (GPU_WORKERS if device.type == "cuda" else 1), 1


def embed_jobs(
    encoders: Sequence[Encoder],
    chunks: Sequence[int],
    job: Callable[[int], ChunkJob],
    views: int,
    params: ExtractParams,
    *,
    write: Callable[[FinishedChunk], T],
    tick: Callable[[], None] = lambda: None,
    closing: Callable[[], None] = lambda: None,
) -> list[T]:
    """Embed chunks; on an exception, those that are finished are still written.

    Ctrl-C lets every encoder finish the chunk that it is at; a second one stops at once.

    Parameters
    ----------
    encoders : sequence of Encoder
        The same one on every device. Chunk ``n`` is for encoder ``n % len(encoders)``, whenever it is done.
    chunks : sequence of int
        Their numbers.
    job : callable
        Says what there is to do for a chunk, when its turn comes.
    write : callable
        Writes a finished chunk; its results are returned. Called in one thread.
    tick : callable
        Called once per clip read.
    closing : callable
        Called at the first Ctrl-C.

    Raises
    ------
    AudioError
        If a clip cannot be read and ``params.on_error`` is ``"fail"``.
    EncoderError
        If memory does not hold a single clip.
    """
    clock, n_readers = threading.Lock(), torch.get_num_threads()

    def locked_tick() -> None:
        with clock:
            tick()

    with ExitStack() as stack:
        # What a worker sets, threads that come later would inherit.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        for encoder in encoders:
            # Here for all: workers that set and reset it one by one would do so under each other's feet.
            stack.enter_context(exact_float32(encoder.device))
        writer = _Writer(write)
        stack.callback(writer.close)
        readers = ThreadPoolExecutor(n_readers, "reader", initializer=torch.set_num_threads, initargs=(1,))
        stack.callback(readers.shutdown, cancel_futures=True)
        stop, last = threading.Event(), threading.Event()
        shared = _Shared(views, params, readers, n_readers, writer.submit, locked_tick, stop, last)
        workers: list[tuple[_Lane, int]] = []
        for place, encoder in enumerate(encoders):
            own = [number for number in chunks if number % len(encoders) == place]
            count, threads = workers_of(encoder.device)
            workers += [(_Lane(encoder, map(job, own), shared), threads)] * count
        pool = stack.enter_context(ThreadPoolExecutor(len(workers), "worker"))
        running: list[Future[None]] = []
        try:
            running += (pool.submit(_work, lane, threads) for lane, threads in workers)
            for worker in as_completed(running):
                worker.result()
        except KeyboardInterrupt:
            last.set()
            closing()
            pool.shutdown()
            raise
        finally:
            stop.set()
        return writer.results()


def _work(lane: _Lane, threads: int) -> None:
    """Embed batches of a lane until it gives no more."""
    torch.set_num_threads(threads)
    with _own_stream(lane.encoder.device):
        batch = lane.exchange(None, None)
        while batch is not None:
            batch = lane.exchange(batch, lane.embed(batch))


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Let this thread's work on a GPU run beside that of others."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)  # the weights are copied on the default stream
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield
