"""Rows as stretches of their recordings: those that leave them, and long ones cut into windows."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import isnan, nan

import torch
from torch import Tensor

from palm_cache.errors import AudioError, DataError, counted
from palm_cache.extraction.audio import duration, open_regular
from palm_cache.params import ReadingParams
from palm_cache.types import Clip, ClipTable, Fold, Place, Texts

ROUNDING = 0.05
"""Seconds by which an annotation may end after its recording without a word."""

SAME_END = 0.001
"""Seconds before the end of a file from which a stretch ends with it: times are written with few digits."""


def check_stretches(table: ClipTable) -> ClipTable:
    """Compare stretches with the length of their files, and with one another.

    A stretch that ends after its file, or with it but for rounding, ends with it.

    Raises
    ------
    DataError
        If one begins after its file's end.
    """
    lasts = _lengths()
    ends, cut = table.clips.ends[:], []
    for row in _stretches(table):
        clip = table.clips[row]
        length = lasts(clip.file)
        if length is None:
            continue
        if clip.start >= length:
            raise DataError(
                f"{table.dataset}: {clip.name} lasts {length:.2f} s, but a row begins at {clip.start:g} s; "
                "mend it, or, if the columns are about something else: `columns` start=,end="
            )
        if clip.end is not None and clip.end > length - SAME_END:
            ends[row] = nan
            if clip.end > length + ROUNDING:
                cut.append(f"{clip.name}, {clip.end:g} s of {length:.2f}")
    notes = [*table.notes]
    if cut:
        notes.append(
            f"{counted(len(cut), 'row ends', 'rows end')} after their file: they end with it, e.g. {cut[0]}"
        )
    if overlap := _overlapping(table):
        notes.append(overlap)
    return replace(table, clips=replace(table.clips, ends=ends), notes=tuple(notes))


def cut_rows(table: ClipTable, reading: ReadingParams) -> ClipTable:
    """Cut rows that are longer than a window into windows, each with its row's label, fold and group.

    The last window is moved back to end with its row; a row that is not longer than a window stays as it is.
    One that ends with its file has no end of its own, as where a table names it: the cache knows both as one.
    """
    if not reading.window:
        return table
    lasts = _lengths()
    starts, ends = array("d"), array("d")
    pieces: list[range] = []
    for clip in table.clips:
        end = lasts(clip.file) if clip.end is None else clip.end
        cuts = [] if end is None else _starts(clip.start, end, reading.window, reading.hop or reading.window)
        pieces.append(range(len(starts), len(starts) + max(len(cuts), 1)))
        starts.extend(cuts or [clip.start])
        ends.extend(min(round(start + reading.window, 6), end or start) for start in cuts[:-1])
        ends.append(nan if clip.end is None else clip.end)
    row_of = [row for row, cuts in enumerate(pieces) for _ in cuts]

    def pieces_of(rows: Tensor) -> Tensor:
        return torch.tensor([piece for row in rows.tolist() for piece in pieces[row]], dtype=torch.int64)

    folds = tuple(Fold(pieces_of(fold.train), pieces_of(fold.test)) for fold in table.folds)
    groups = table.groups or table.clips.names
    cut = f"{counted(len(table.clips), 'row')} cut into {counted(len(starts), 'window')}"
    return replace(
        table,
        clips=replace(table.clips.take(row_of), starts=starts, ends=ends),
        folds=folds,
        notes=(*table.notes, f"{cut} of {reading.window:g} s"),
        groups=Texts(groups[row] for row in row_of),
    )


def _starts(start: float, end: float, window: float, hop: float) -> list[float]:
    """Return where windows of a stretch begin; none if it is not longer than one."""
    room = end - start - window
    if room <= SAME_END:
        return []
    starts = [round(start + number * hop, 6) for number in range(int(room / hop + 1e-9) + 1)]
    return starts if end - starts[-1] - window <= SAME_END else [*starts, round(end - window, 6)]


def _lengths() -> Callable[[Place], float | None]:
    """Return what tells a file's length in seconds, ``None`` where it cannot be read: extraction says why."""

    @cache
    def length(file: Place) -> float | None:
        try:
            with open_regular(file) as opened:
                return duration(opened)
        except AudioError:
            return None

    return length


def _stretches(table: ClipTable) -> list[int]:
    """Return the rows that are not whole files."""
    borders = zip(table.clips.starts, table.clips.ends, strict=True)
    return [row for row, (start, end) in enumerate(borders) if start or not isnan(end)]


def _overlapping(table: ClipTable) -> str | None:
    """Say how many stretches overlap one of another class."""
    if not _stretches(table):
        return None
    by_file: dict[str, list[Clip]] = {}
    for clip in table.clips:
        if clip.label is not None:
            by_file.setdefault(clip.name, []).append(clip)
    count, example = 0, ""
    for name, clips in by_file.items():
        furthest: dict[int | None, float] = {}
        for clip in sorted(clips, key=lambda clip: clip.start):
            end = float("inf") if clip.end is None else clip.end
            if any(label != clip.label and reach > clip.start for label, reach in furthest.items()):
                count += 1
                example = example or f"{name} at {clip.start:g} s ({table.class_of(clip)})"
            furthest[clip.label] = max(end, furthest.get(clip.label, 0.0))
    if not count:
        return None
    overlapping = counted(count, "row overlaps", "rows overlap")
    return f"{overlapping} one of another class in their recording, e.g. {example}"
