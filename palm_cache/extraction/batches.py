"""A chunk while it is made: clips into batches, embeddings into rows.

Batches are filled across the clips of a chunk and never cross its border. What goes into them follows from
the chunk alone, so an interrupted extraction, finished later, gives the same bits as one that ran through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from palm_cache.extraction.reading import Known, Piece
from palm_cache.types import Clip

Slot = tuple[int, int]
"""Row in its chunk, and view, that a stretch is for."""


@dataclass(frozen=True, slots=True)
class ChunkJob:
    """A chunk that is to be embedded."""

    number: int
    clips: Sequence[Clip]
    """In the order of the chunk's rows."""
    known: Sequence[Known] = ()
    """Where embeddings may be found that need not be computed."""


@dataclass(frozen=True, slots=True)
class FinishedChunk:
    """A chunk that is to be written."""

    number: int
    audio: NDArray[np.float32]
    """(clips, views, dim); zeros where there is an error."""
    hashes: list[str]
    errors: list[str]
    kept: list[Known]
    """Where known embeddings came from, one entry per clip that had one."""
    notes: list[str]
    """What the user should know about how it was made."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Stretches of one chunk, with equally many windows, that go through the encoder together."""

    chunk: OpenChunk
    number: int
    """Counted within the chunk."""
    slots: tuple[Slot, ...]
    windows: tuple[Tensor, ...]
    """(n_windows, samples) of each stretch."""


@dataclass(slots=True)
class OpenChunk:
    """A chunk while it is made."""

    job: ChunkJob
    hashes: list[str]
    errors: list[str]
    known: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    kept: list[Known] = field(default_factory=list)
    waiting: dict[int, list[tuple[Slot, Tensor]]] = field(default_factory=dict)
    """Per number of windows: (slot, windows) of the stretches that are in no batch yet."""
    made: int = 0
    """How many batches were made."""
    embedded: dict[int, tuple[tuple[Slot, ...], NDArray[np.float32]]] = field(default_factory=dict)
    """Per batch number: slots and embeddings."""
    row: int = 0
    """The clip that is being read, one further than the last when all are."""

    @property
    def read(self) -> bool:
        """Whether all its clips have been read."""
        return self.row == len(self.errors)

    @property
    def complete(self) -> bool:
        """Whether all its clips have been embedded."""
        return self.read and not self.waiting and len(self.embedded) == self.made

    @classmethod
    def begin(cls, job: ChunkJob) -> Self:
        """Make a chunk of which nothing has been read."""
        return cls(job, [""] * len(job.clips), [""] * len(job.clips))

    def take(self, piece: Piece) -> None:
        """Take in what a reader hands over of the next clip."""
        self.hashes[self.row], self.errors[self.row] = piece.content_sha256, piece.error
        if piece.known is not None:
            self.known[self.row], source = piece.known
            self.kept.append(source)
        for view, windows in piece.windows:
            self.waiting.setdefault(len(windows), []).append(((self.row, view), windows))
        self.row += piece.last

    def batches(self, size: int) -> list[Batch]:
        """Make batches of what waits: full ones, and once all is read the rest."""
        made = []
        for n_windows, alike in list(self.waiting.items()):
            while len(alike) >= size or (self.read and alike):
                slots, windows = zip(*alike[:size], strict=True)
                del alike[:size]
                made.append(Batch(self, self.made, slots, windows))
                self.made += 1
            if not alike:
                del self.waiting[n_windows]
        return made

    def finish(self, views: int, dim: int, notes: list[str]) -> FinishedChunk:
        """Put the rows together: every view is the mean of its stretches, most have one."""
        sums = np.zeros((len(self.errors), views, dim))
        counts = np.zeros((len(self.errors), views, 1))
        # In the order of the batches, whichever worker came first: sums depend on it in the last bit.
        for number in sorted(self.embedded):
            for (row, view), embedding in zip(*self.embedded[number], strict=True):
                sums[row, view] += embedding
                counts[row, view] += 1
        audio = (sums / np.maximum(counts, 1)).astype(np.float32)
        for row, embedding in self.known.items():
            audio[row] = embedding
        for row in np.flatnonzero(~np.isfinite(audio).all(axis=(1, 2))).tolist():
            self.errors[row] = self.errors[row] or "the encoder returned NaN or infinity"
        audio[[row for row, error in enumerate(self.errors) if error]] = 0
        return FinishedChunk(self.job.number, audio, self.hashes, self.errors, self.kept, notes)
