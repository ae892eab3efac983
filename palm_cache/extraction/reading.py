"""Clips on their way from disk to the encoder: read, cut and handed over by threads that run ahead.

Decoding and resampling leave Python's lock, so a few threads keep an encoder fed. They run ahead by a fixed
number of windows: memory is the same for ten clips and for ten million.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from math import nan
from threading import Lock
from typing import BinaryIO

import torch
from torch import Tensor

from palm_cache.errors import AudioError, ReadingError
from palm_cache.extraction.audio.downmix import SoundFacts
from palm_cache.extraction.audio.waveforms import content_hash, open_regular, read_views, slide
from palm_cache.extraction.encoders.base import Encoder, Window
from palm_cache.extraction.encoders.devices import n_readers
from palm_cache.params import Long, Recipe
from palm_cache.store.header import row_key
from palm_cache.types import Clip

STEP_FILES, STEP_STRETCHES = 16, 16
"""What a thread reads before it hands over: so many files, or so many stretches of long ones."""

QUICK_SECONDS = 0.001
"""Files that take less than this, one with another, are read by one thread at a time: see :class:`_Turns`."""

CUSTOMARY_SECONDS, LEFT_OUT_SHARE = 10.5, 0.1
"""Of a clip that is longer than those of most benchmarks it is said that it is cropped, if more than this
share is left out. Those clips are cropped as a matter of course by encoders that hear 5 or 7 s."""

IsWanted = Callable[[bytes], bool]
"""Told the key of a clip whose content has just been hashed, says whether it is to be embedded."""


@dataclass(frozen=True, slots=True)
class CuttingRule:
    """How clips are cut for an encoder."""

    sample_rate: int
    window: Window
    views: int
    long: Long

    @classmethod
    def of(cls, encoder: Encoder, recipe: Recipe) -> CuttingRule:
        """Return what an encoder and a recipe want."""
        return cls(encoder.sample_rate, encoder.window, recipe.views, recipe.long)

    def crops(self, seconds: float) -> bool:
        """Tell whether of a clip of this length so much is left out that it should be known."""
        embedded = self.views * self.window.stretch / self.sample_rate
        long = seconds > CUSTOMARY_SECONDS and embedded < (1 - LEFT_OUT_SHARE) * seconds
        return long and self.long == "crop"


@dataclass(frozen=True, slots=True)
class Piece:
    """What a reader hands over of a clip; most clips are one piece."""

    row: int
    """Number of the clip among those asked for."""
    content: bytes = b""
    """sha256 of the file; empty where it could not be read."""
    key: bytes = b""
    """What the cache knows the clip by."""
    state: bytes | None = None
    """Of the file before it was read: see :func:`palm_cache.store.places.states`."""
    stretches: tuple[Tensor, ...] = ()
    """(samples,) each, not cut into windows yet: one per view, or of a ``mean`` any number one after the
    other."""
    wanted: bool = True
    """False: hashed only."""
    error: str = ""
    lasting: bool = True
    """Whether the error is the content's, or may be gone the next time."""
    heard: SoundFacts = field(default_factory=SoundFacts)
    """What the sound was like; complete in the last piece."""
    last: bool = True


def hash_files(clips: Sequence[tuple[int, Clip]]) -> Iterator[Piece]:
    """Read the files of clips for their contents alone, and yield a piece of each clip; no encoder is needed.

    Raises ``PlaceError`` if a remote place cannot be reached.
    """
    count = n_readers(torch.device("cpu"))
    with ThreadPoolExecutor(count) as readers:
        yield from read_clips(clips, None, readers=readers, n_readers=count, ahead=STEP_FILES)


def read_clips(
    clips: Sequence[tuple[int, Clip]],
    cut: CuttingRule | None,
    wanted: IsWanted | None = None,
    *,
    readers: ThreadPoolExecutor,
    n_readers: int,
    ahead: int,
) -> Iterator[Piece]:
    """Read clips in threads, ahead of whoever takes them, and yield their pieces in order.

    Clips of one file that follow each other are read together: it is opened and hashed once.

    Parameters
    ----------
    clips : sequence of (row, Clip)
        A few are spread among all readers.
    cut : CuttingRule, optional
        Without one files are hashed only.
    ahead : int
        Clips that are read before they are asked for, at least.

    Raises
    ------
    PlaceError
        If a remote place cannot be reached.
    """
    # As text, which is needed anyway: to compare paths takes them apart first.
    by_file = (list(own) for _, own in groupby(clips, key=lambda numbered: str(numbered[1].file)))
    step = max(1, min(STEP_FILES, len(clips) // (4 * n_readers)))
    turns = _Turns()

    def begin() -> Iterator[tuple[Iterator[Piece], Future[tuple[list[Piece], bool]]]]:
        while files := list(islice(by_file, step)):
            reading = chain.from_iterable(read_file(own, cut, wanted) for own in files)
            yield reading, readers.submit(turns.advance, reading)

    waiting = begin()
    begun = deque(islice(waiting, n_readers + -(-ahead // step)))
    try:
        while begun:
            reading, future = begun.popleft()
            begun.extend(islice(waiting, 1))
            pieces, over = future.result()
            while not over:
                future = readers.submit(turns.advance, reading)  # always one step ahead
                yield from pieces
                pieces, over = future.result()
            yield from pieces
    finally:
        for _, future in begun:
            future.cancel()


class _Turns:
    """Lets readers go one after the other as long as files take next to no time.

    What a small file takes is mostly Python: readers side by side would hand its lock to and fro at every
    call of the system, and be slower than one alone. Files that take longer, wait for a disk or are hashed
    only are read side by side.
    """

    def __init__(self) -> None:
        self._lock, self._quick = Lock(), False

    def advance(self, reading: Iterator[Piece]) -> tuple[list[Piece], bool]:
        """Read on until there is enough to hand over; whether that was all."""
        with self._lock if self._quick else nullcontext():
            begun = time.monotonic()
            pieces, over = _advance(reading)
            quick = time.monotonic() - begun < QUICK_SECONDS * len(pieces)
            self._quick = quick and any(piece.wanted for piece in pieces)
        return pieces, over


def _advance(reading: Iterator[Piece]) -> tuple[list[Piece], bool]:
    pieces, stretches = [], 0
    for piece in reading:
        pieces.append(piece)
        stretches += len(piece.stretches)
        if stretches >= STEP_STRETCHES and not piece.last:
            return pieces, False
    return pieces, True


def read_file(
    clips: Sequence[tuple[int, Clip]], cut: CuttingRule | None, wanted: IsWanted | None = None
) -> Iterator[Piece]:
    """Read clips of one file piece by piece; one that cannot be read ends with a piece that says why."""
    path, left = clips[0][1].file, deque(clips)
    try:
        # One handle for hash and decoding: a file that is replaced meanwhile cannot mix the two.
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            content = bytes.fromhex(content_hash(file))
            for row, clip in clips:
                key = row_key(content, clip.start, nan if clip.end is None else clip.end)
                about = (row, content, key, file.state)
                if cut is None or (wanted is not None and not wanted(key)):
                    last = Piece(*about, wanted=False)
                else:
                    last = yield from _read_clip(file, clip, cut, about)
                    now = os.fstat(file.fileno())
                    if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                        raise ReadingError("changed while it was read; run the same command again")
                left.popleft()
                yield last
    except AudioError as error:
        for row, _ in left:
            yield Piece(row, error=str(error), lasting=False)


def _read_clip(
    file: BinaryIO, clip: Clip, cut: CuttingRule, about: tuple[int, bytes, bytes, bytes | None]
) -> Generator[Piece, None, Piece]:
    """Yield all pieces of a clip but the last, and return that."""
    try:
        return (yield from _decode(file, clip, cut, about))
    except ReadingError:
        raise
    except AudioError as error:
        return Piece(*about, error=str(error))


def _decode(
    file: BinaryIO, clip: Clip, cut: CuttingRule, about: tuple[int, bytes, bytes, bytes | None]
) -> Generator[Piece, None, Piece]:
    stretch = None if clip.end is None and not clip.start else (clip.start, clip.end)
    heard = SoundFacts()
    file.seek(0)
    if cut.long == "mean":
        parts = (
            waveform
            for _, waveform in slide(
                file,
                sample_rate=cut.sample_rate,
                samples=cut.window.stretch,
                hop=None,
                stretch=stretch,
                heard=heard,
            )
        )
        while stretches := tuple(islice(parts, STEP_STRETCHES)):
            yield Piece(*about, stretches=stretches, last=False)
        return Piece(*about, heard=heard)
    waveforms = read_views(
        file,
        sample_rate=cut.sample_rate,
        samples=cut.window.stretch,
        views=cut.views,
        content_sha256=about[1].hex(),
        stretch=stretch,
        heard=heard,
    )
    if waveforms[-1] is waveforms[0]:  # all views of a short clip are the whole of it
        waveforms = waveforms[:1]
    return Piece(*about, stretches=tuple(waveforms), heard=heard)
