"""From sound to vector: reading, windows, batches, the encoder.

::

    readers --pieces--> batches of one shape --> workers --vectors--> one outcome per clip

Extraction, prediction, verification and benchmarks all go this way. Batches are filled across clips and all
have the same shape, the last ones padded by repetition, so that what a clip gives does not depend on its
companions.

On a CPU each worker computes in a thread of its own, and torch does not split its operations further: two
workers with a batch each are quicker than one that splits every operation in two. A GPU has a few workers,
each with its own stream for as long as the embedder is open: while one computes, the others' batches are
copied.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.downmix import SoundFacts
from palm_cache.extraction.audio.waveforms import fill_windows, n_windows
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.cuda_graphs import RECORDING, GraphedEncoder, can_record
from palm_cache.extraction.encoders.devices import cpu_workers, default_batch, n_readers
from palm_cache.extraction.in_work import InWork, Vectors, rescue, take
from palm_cache.extraction.reading import CuttingRule, IsWanted, Piece, read_clips
from palm_cache.params import Recipe
from palm_cache.types import Clip

GPU_WORKERS = 2

NOT_FINITE = "the encoder returned NaN or infinity"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a clip."""

    row: int
    content: bytes
    """sha256 of its file, empty where it could not be read."""
    key: bytes
    """What the cache knows it by."""
    state: bytes | None
    """Of the file: see :func:`palm_cache.store.places.states`."""
    vectors: Vectors | None = None
    """(views, dim); ``None`` where there is an error, or it was not to be embedded."""
    error: str = ""
    lasting: bool = True
    """Whether the error is the content's, or may be gone the next time."""
    heard: SoundFacts = field(default_factory=SoundFacts)
    """What the sound was like."""


@dataclass(slots=True)
class _Open:
    """A clip of which something has been read."""

    vectors: list[Vectors | None] = field(default_factory=list)
    """(dim,) of every stretch, ``None`` until it is embedded."""
    left: int = 0
    """Stretches that are not embedded yet."""
    last: Piece | None = None
    dropped: bool = False
    """Whether it is not to be embedded any more."""


class Embedder:
    """A loaded encoder, its readers and its workers; open until closed.

    Parameters
    ----------
    encoder : Encoder
    recipe : Recipe
    batch_size : int
        Stretches that go through the encoder at once; 0 is what suits the device.
    """

    def __init__(self, encoder: Encoder, recipe: Recipe | None = None, batch_size: int = 0) -> None:
        self.encoder, self.recipe = encoder, recipe or Recipe()
        self.cut = CuttingRule.of(encoder, self.recipe)
        self.batch_size = batch_size or default_batch(encoder.device)
        self.notes: list[str] = []
        """What the user should know about how it went."""
        self._fitting = self.batch_size
        """Stretches that memory holds, as far as is known."""
        self._memory = threading.Condition()
        self._embedding = 0
        """Batches that have memory now."""
        self._own = threading.local()
        self._close = ExitStack()
        # What a worker sets, threads that come later would inherit.
        self._close.callback(torch.set_num_threads, torch.get_num_threads())
        # Here for all: workers that set and reset it one by one would do so under each other's feet.
        self._close.enter_context(encoder.engine.products())
        n_workers, threads = cpu_workers() if encoder.device.type == "cpu" else (GPU_WORKERS, 1)
        self._in_work = 2 * n_workers
        self._one_by_one = n_workers == 1
        """Whether a batch waits until no other is being embedded."""
        self._n_readers = n_readers(encoder.device)
        self._readers = self._pool(self._n_readers, "reader", partial(torch.set_num_threads, 1))
        self._workers = self._pool(n_workers, "worker", partial(self._begin_worker, threads))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is in work and let go of everything but the encoder."""
        self._close.close()

    def embed(
        self,
        clips: Sequence[tuple[int, Clip]],
        wanted: IsWanted | None = None,
        *,
        still_wanted: IsWanted | None = None,
    ) -> Iterator[Outcome]:
        """Read and embed clips.

        Parameters
        ----------
        clips : sequence of (row, Clip)
            Numbers are given back with the outcomes.
        wanted : callable, optional
            Told the key of a clip whose content has just been hashed, in a reader's thread, says whether it
            is to be embedded; all are by default.
        still_wanted : callable, optional
            Is asked again, in the caller's thread, right before what was read goes into a batch.

        Yields
        ------
        Outcome
            One for every clip, in about their order.

        Raises
        ------
        PlaceError
            If a remote place cannot be reached.
        EncoderError
            If memory does not hold a single stretch.
        """
        views, open_clips = self.recipe.views, dict[int, _Open]()
        pieces = read_clips(
            clips,
            self.cut,
            wanted,
            readers=self._readers,
            n_readers=self._n_readers,
            ahead=2 * self.batch_size // views,
        )

        def stretches() -> Iterator[tuple[tuple[_Open, int], Tensor | None]]:
            for read in pieces:
                piece, clip = read, open_clips.get(read.row)
                if clip is None:
                    clip = open_clips[piece.row] = _Open()
                    asked = still_wanted if piece.wanted and not piece.error else None
                    clip.dropped = asked is not None and not asked(piece.key)
                if clip.dropped:
                    piece = replace(read, stretches=(), wanted=False, error="")
                parts, first = () if piece.error else piece.stretches, len(clip.vectors)
                clip.vectors += [None] * len(parts)
                clip.left += len(parts)
                if piece.last:  # before its stretches: whoever is interrupted has its outcome all the same
                    del open_clips[piece.row]
                    clip.last = piece
                for number, waveform in enumerate(parts, start=first):
                    yield (clip, number), waveform
                if piece.last and not parts:
                    yield (clip, -1), None

        for (clip, number), vector in self.encode(stretches()):
            if vector is not None:
                clip.vectors[number] = vector
                clip.left -= 1
            if clip.last is not None and clip.left == 0:
                yield self._outcome(clip, clip.last)
                clip.left = -1  # told

    def _outcome(self, clip: _Open, last: Piece) -> Outcome:
        about = (last.row, last.content, last.key, last.state)
        if last.error or not last.wanted:
            return Outcome(*about, error=last.error, lasting=last.lasting)
        vectors = [vector for vector in clip.vectors if vector is not None]
        made = vectors[0][None] if len(vectors) == 1 else np.stack(vectors)
        if self.recipe.long == "mean":
            made = made.astype(np.float64).mean(axis=0, keepdims=True).astype(np.float32)
        if not isfinite(made.sum(dtype=np.float64)):  # no sum of float32 is beyond float64
            return Outcome(*about, error=NOT_FINITE)
        if len(made) < self.recipe.views:
            made = np.repeat(made, self.recipe.views, axis=0)
        return Outcome(*about, made, heard=last.heard)

    def encode(self, stretches: Iterable[tuple[T, Tensor | None]]) -> Iterator[tuple[T, Vectors | None]]:
        """Embed stretches in batches of one shape.

        Parameters
        ----------
        stretches : iterable of (tag, Tensor or None)
            Waveforms, (samples,) each; ``None`` is given back as it comes.

        Yields
        ------
        (tag, array or None)
            (dim,) of every stretch; in order among those with equally many windows.

        Raises
        ------
        EncoderError
            If memory does not hold a single stretch.
        """
        waiting: dict[int, list[tuple[T, Tensor]]] = {}
        in_work: deque[InWork[T]] = deque()
        try:
            for tag, waveform in stretches:
                if waveform is None:
                    yield tag, None
                    continue
                count = n_windows(waveform.shape[0], self.cut.window)  # len() of a tensor is slow
                alike = waiting.setdefault(count, [])
                alike.append((tag, waveform))
                if len(alike) == self.batch_size:
                    in_work.append(self._submit(waiting.pop(count)))
                while in_work and (len(in_work) >= self._in_work or in_work[0].future.done()):
                    yield from take(in_work)
            for alike in waiting.values():
                in_work.append(self._submit(alike))
                while len(in_work) >= self._in_work:
                    yield from take(in_work)
            while in_work:
                yield from take(in_work)
        except KeyboardInterrupt:
            # What is in work is nearly done, and would be lost.
            yield from rescue(in_work)
            raise
        finally:
            for batch in in_work:
                batch.future.cancel()

    def on_workers(self, call: Callable[[T], object], values: Sequence[T]) -> None:
        """Run something on the workers for every value, as batches are."""
        list(self._workers.map(self._beside(call), values))

    def _beside(self, call: Callable[[T], object]) -> Callable[[T], object]:
        def run(value: T) -> object:
            with self._stream():
                return call(value)

        return run

    def _submit(self, batch: Sequence[tuple[T, Tensor]]) -> InWork[T]:
        tags, waveforms = zip(*batch, strict=True)
        return InWork(tags, self._workers.submit(self._embed_batch, waveforms))

    def _embed_batch(self, waveforms: Sequence[Tensor]) -> Vectors:
        """Embed a batch, in parts where memory does not hold it whole, -> (stretches, dim)."""
        parts, start = [], 0
        with self._stream():
            while start < len(waveforms):
                part = self._try_batch(waveforms[start : start + self._fitting])
                if part is not None:
                    parts.append(part)
                    start += len(part)
        return np.concatenate(parts)

    def _try_batch(self, waveforms: Sequence[Tensor]) -> Vectors | None:
        """Embed what goes in at once; if memory runs out, be content with less and return ``None``.

        First with one batch at a time, then with half a batch.
        """
        device, size, batch = self.encoder.device, self._fitting, None
        try:
            with self._having_memory() as alone:
                if alone:  # what has been recorded holds memory
                    self._own.embed = self.encoder.embed_audio
                batch = self._batch(waveforms, size)
                vectors: Tensor = self._own.embed(batch)
            return vectors.numpy()[: len(waveforms)]
        except Exception as error:
            if not _is_out_of_memory(error):
                if batch is not None:
                    error.add_note(
                        f"The encoder {self.encoder.spec} raised this, given a batch of {size} clips."
                    )
                raise
            if size == 1 and alone:
                raise EncoderError(
                    f"encoder {self.encoder.spec}: out of memory on {device} with a single clip; "
                    "free some, or use another `device`"
                ) from error
        # Not in the handler: its traceback holds what the failed call had allocated.
        if device.type == "cuda":
            with RECORDING:
                torch.cuda.empty_cache()
        with self._memory:
            if not alone:
                self._one_by_one = True
            elif self._fitting > size // 2:
                self._fitting = size // 2
                self.notes.append(
                    f"out of memory on {device} with {size} clips at once; went on with {self._fitting} "
                    f"(next time: `batch_size` {self._fitting})"
                )
        return None

    def _batch(self, waveforms: Sequence[Tensor], size: int) -> Tensor:
        """Return (size, n_windows, samples), the last stretch repeated; for a GPU where it copies from."""
        window = self.cut.window
        shape = (size, n_windows(len(waveforms[0]), window), window.samples)
        batch = torch.empty(shape, pin_memory=self.encoder.device.type == "cuda")
        windows = batch.numpy()
        for row, waveform in enumerate(waveforms):
            fill_windows(windows[row], waveform.numpy(), window)
        windows[len(waveforms) :] = windows[len(waveforms) - 1]
        return batch

    @contextmanager
    def _having_memory(self) -> Iterator[bool]:
        """Be counted among the batches that have memory; gives whether this one has it all."""
        with self._memory:
            if alone := self._one_by_one:
                self._memory.wait_for(lambda: not self._embedding)
            self._embedding += 1
        try:
            yield alone
        finally:
            with self._memory:
                self._embedding -= 1
                self._memory.notify_all()

    def _pool(self, size: int, name: str, begin: partial[None]) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(size, name, initializer=begin)
        self._close.callback(pool.shutdown, cancel_futures=True)
        return pool

    def _begin_worker(self, threads: int) -> None:
        torch.set_num_threads(threads)
        device = self.encoder.device
        self._own.embed = (
            GraphedEncoder(self.encoder) if can_record(self.encoder) else self.encoder.embed_audio
        )
        if device.type == "cuda":
            with RECORDING:
                torch.cuda.synchronize(device)  # the weights are copied on the default stream
            self._own.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """Let this thread's work on a GPU run beside that of others."""
        stream = getattr(self._own, "stream", None)
        if stream is None:
            yield
            return
        with torch.cuda.device(self.encoder.device), torch.cuda.stream(stream):
            yield


def _is_out_of_memory(error: Exception) -> bool:
    """Recognise it on CUDA, in CUDA's libraries, in torch's CPU allocator and in Python."""
    told = r"out of memory|can't allocate memory|ALLOC_FAILED|bad.alloc"
    match = isinstance(error, RuntimeError) and re.search(told, str(error), re.IGNORECASE)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(match)
