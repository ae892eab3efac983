"""The clips of a dataset, held by columns: a million take some dozen bytes each, not half a kilobyte."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from math import inf, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

from palm_cache.errors import DataError

if TYPE_CHECKING:
    from palm_cache.types import Place

T = TypeVar("T")

IN_A_PIECE = 1 << 12
"""Texts that are held together: a letter takes as many bytes as the widest beside it."""


class Made(Sequence[T]):
    """A sequence whose items are made when they are asked for."""

    __slots__ = ()

    @abstractmethod
    def _make(self, number: int) -> T:
        """Return one of them, counted from 0; raise IndexError behind the last."""

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, slice):
            return list(map(self._make, range(len(self))[number]))
        return self._make(number if number >= 0 else range(len(self))[number])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list's


class Texts(Made[str]):
    """Texts that are held one behind the other, some thousands in a piece."""

    __slots__ = ("_ends", "_pieces")

    def __init__(self, texts: Iterable[str]) -> None:
        self._pieces, self._ends, texts = list[str](), array("I"), iter(texts)
        while some := list(islice(texts, IN_A_PIECE)):
            self._pieces.append("".join(some))
            self._ends.extend(accumulate(map(len, some)))

    def __len__(self) -> int:
        return len(self._ends)

    def _make(self, number: int) -> str:
        start = self._ends[number - 1] if number % IN_A_PIECE else 0
        return self._pieces[number // IN_A_PIECE][start : self._ends[number]]

    def __iter__(self) -> Iterator[str]:
        for at, piece in zip(range(0, len(self), IN_A_PIECE), self._pieces, strict=True):
            ends = self._ends[at : at + IN_A_PIECE]
            yield from map(piece.__getitem__, map(slice, chain((0,), ends), ends))


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of a dataset: a stretch of sound, a whole file or a part of one, labelled or not."""

    file: Place
    """Where the file lies."""
    name: str
    """Its path inside the dataset, with forward slashes; what is not UTF-8 is percent-escaped."""
    label: int | None
    """Index into the dataset's class names; ``None`` is unlabelled."""
    start: float = 0.0
    """Seconds from the beginning of the file at which the stretch begins."""
    end: float | None = None
    """Seconds from the beginning of the file at which it ends; ``None`` is the end of the file."""

    def __post_init__(self) -> None:
        _check_stretch(self.name, self.start, self.end)


@dataclass(frozen=True, slots=True, eq=False)
class Clips(Made[Clip]):
    """All clips of a dataset, in order; a :class:`Clip` is made when it is asked for."""

    root: Place
    """The folder that ``paths`` are relative to."""
    names: Sequence[str]
    """Of every clip its path inside the dataset: see :class:`Clip`."""
    paths: Sequence[str]
    """Of every clip the path of its file below ``root``, mostly its name."""
    labels: array[int]
    """Of every clip, 64 bits each; -1 is unlabelled."""
    starts: array[float]
    ends: array[float]
    """Of every clip in seconds, 64 bits each; NaN is the end of the file."""

    def __post_init__(self) -> None:
        for row, (start, end) in enumerate(() if self.whole else zip(self.starts, self.ends, strict=True)):
            _check_stretch(self.names[row], start, None if isnan(end) else end)

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> Clips:
        """Hold clips whose files lie anywhere on this machine."""
        clips = list(clips)
        return cls(
            Path(),
            Texts(clip.name for clip in clips),
            Texts(str(clip.file) for clip in clips),
            array("q", (-1 if clip.label is None else clip.label for clip in clips)),
            array("d", (clip.start for clip in clips)),
            array("d", (nan if clip.end is None else clip.end for clip in clips)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def _make(self, number: int) -> Clip:
        label, end, name = self.labels[number], self.ends[number], self.names[number]
        return Clip(
            self.root / (name if self.paths is self.names else self.paths[number]),
            name,
            None if label < 0 else label,
            self.starts[number],
            None if isnan(end) else end,
        )

    @property
    def whole(self) -> bool:
        """Whether all are whole files: perhaps a million, for which it is worth knowing."""
        return not any(self.starts) and all(map(isnan, self.ends))

    def take(self, rows: Sequence[int]) -> Clips:
        """Return some of them."""
        names = Texts(self.names[row] for row in rows)
        return Clips(
            self.root,
            names,
            names if self.paths is self.names else Texts(self.paths[row] for row in rows),
            array("q", (self.labels[row] for row in rows)),
            array("d", (self.starts[row] for row in rows)),
            array("d", (self.ends[row] for row in rows)),
        )

    def numbered(self, rows: Sequence[int]) -> Sequence[tuple[int, Clip]]:
        """Return some of them, each with its row."""
        return _Numbered(self, rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Numbered(Made[tuple[int, Clip]]):
    clips: Clips
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def _make(self, number: int) -> tuple[int, Clip]:
        return self.rows[number], self.clips[self.rows[number]]


def _check_stretch(name: str, start: float, end: float | None) -> None:
    if not 0 <= start < (inf if end is None else end) or end == inf:
        raise DataError(
            f"{name}: a stretch from {start:g} s to {end} s; it must begin at 0 or later and end after that"
        )
