"""Clips on their way from disk to the encoder: read, cut and handed over by threads that run ahead.

Decoding and resampling leave Python's lock, so a few threads keep an encoder fed. They run ahead by a fixed
number of clips and by one piece of each: memory is the same for ten clips and for ten million.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from palm_cache.errors import AudioError
from palm_cache.extraction.audio import content_hash, cut_windows, open_regular, read_views, slide
from palm_cache.extraction.encoders.base import Encoder, Window
from palm_cache.types import Clip, Place

PIECE_STRETCHES = 4
"""Stretches of a long clip that are handed over at once."""


class Known(Protocol):
    """Embeddings that need not be computed; asked from several threads at once."""

    store: Place
    """Where they are kept."""

    def get(self, content_sha256: str) -> NDArray[np.float32] | None:
        """Return the embedding (views, dim) of a content, if it is known."""
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """How an encoder wants clips read."""

    sample_rate: int
    window: Window
    views: int

    @classmethod
    def of(cls, encoder: Encoder, views: int) -> Cut:
        """Return what an encoder wants."""
        return cls(encoder.sample_rate, encoder.window, views)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a reader hands over of a clip: error, known embedding or windows; most clips are one piece."""

    content_sha256: str
    """"" where the file could not be opened or changed while it was read."""
    windows: tuple[tuple[int, Tensor], ...] = ()
    """(view, windows (n_windows, samples)) of every stretch; a view that has several is their mean."""
    known: tuple[NDArray[np.float32], Known] | None = None
    """A known embedding and where it came from."""
    error: str = ""
    last: bool = True


Reading = Generator[Piece, None, None]
"""A clip on its way: gives its pieces one by one."""


def read_pieces(clip: Clip, cut: Cut, known: Sequence[Known] = ()) -> Reading:
    """Read a clip piece by piece; a clip that cannot be read ends with a piece that says why."""
    sha = ""
    try:
        # One handle for hash and decoding: a file that is replaced meanwhile cannot mix the two.
        with open_regular(clip.file) as file:
            state = _state(file)
            sha = content_hash(file)
            for source in known:
                embedding = source.get(sha)
                if embedding is not None:
                    yield Piece(sha, known=(embedding, source))
                    return
            if cut.window.long == "mean":
                stretches = slide(file, sample_rate=cut.sample_rate, samples=cut.window.stretch, hop=None)
                parts = ((0, cut_windows(stretch, cut.window)) for _, stretch in stretches)
                while piece := tuple(islice(parts, PIECE_STRETCHES)):
                    yield Piece(sha, piece, last=False)
                last = Piece(sha)
            else:
                last = Piece(sha, _crops(file, cut, sha))
            if _state(file) != state:
                # Without a hash, so that the next run looks at it again.
                last = Piece("", error="changed while it was read; run the same command again")
        yield last
    except AudioError as error:
        yield Piece(sha, error=str(error))


def _crops(file: BinaryIO, cut: Cut, content_sha256: str) -> tuple[tuple[int, Tensor], ...]:
    waveforms = read_views(
        file,
        sample_rate=cut.sample_rate,
        samples=cut.window.stretch,
        views=cut.views,
        content_sha256=content_sha256,
    )
    return tuple((view, cut_windows(waveform, cut.window)) for view, waveform in enumerate(waveforms))


def _state(file: BinaryIO) -> tuple[int, int]:
    """Return what changes when a file is written to while it is open."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def read_ahead(
    readers: ThreadPoolExecutor, clips: Iterable[Reading], depth: int
) -> Iterator[Iterator[Piece]]:
    """Run readings in threads, ``depth`` clips ahead of whoever takes them.

    Parameters
    ----------
    readers : ThreadPoolExecutor
        Runs one step of a reading at a time.
    clips : iterable of generators
        One reading per clip; begun in order.
    depth : int
        Clips of which a piece is read before it is asked for.

    Yields
    ------
    iterator of Piece
        The pieces of one clip, in the order of ``clips``; while one is looked at, the next is read. An
        exception inside a reading comes out here as it is.
    """
    waiting = iter(clips)
    begun = deque((clip, readers.submit(next, clip)) for clip in islice(waiting, depth))
    while begun:
        clip, piece = begun.popleft()
        begun.extend((following, readers.submit(next, following)) for following in islice(waiting, 1))
        yield _drain(readers, clip, piece)


def _drain(readers: ThreadPoolExecutor, clip: Reading, ahead: Future[Piece]) -> Iterator[Piece]:
    """Hand over the pieces of a clip, always one ahead."""
    while not (piece := ahead.result()).last:
        ahead = readers.submit(next, clip)
        yield piece
    clip.close()  # and with it the file
    yield piece
