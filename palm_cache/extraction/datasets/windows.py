"""Rows as stretches of their recordings: those that leave them, and long ones cut into windows."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import inf, isnan, nan
from operator import itemgetter

import torch
from torch import Tensor

from palm_cache.errors import AudioError, counted
from palm_cache.extraction.audio.waveforms import duration, open_regular
from palm_cache.extraction.datasets.rows import Rows
from palm_cache.params import ReadingParams
from palm_cache.types import ClipTable, Fold, Place, Texts

ROUNDING = 0.05
"""Seconds by which an annotation may end after its recording without a word."""

SAME_END = 0.001
"""Seconds by which times are no other ones, as at the end of a file: they are written with few digits."""


def check_stretches(table: ClipTable, rows: Rows) -> ClipTable:
    """Compare stretches with the length of their files, and with one another.

    A stretch that ends after its file, or with it but for rounding, ends with it; one that begins after it
    stays as it is, for extraction to name among what cannot be read.

    Parameters
    ----------
    rows : Rows
        What the clips were read from.
    """
    if table.clips.whole:
        return table
    clips, lasts = table.clips, _lengths(table.clips.root)
    ends, cut, late = clips.ends[:], list[str](), list[str]()
    for row, (start, end) in enumerate(zip(clips.starts, clips.ends, strict=True)):
        length = lasts(clips.paths[row]) if start or not isnan(end) else None
        if length is None:
            continue
        if start >= length:
            late.append(f"{rows[row]}: at {start:g} s of {clips.names[row]}, which lasts {length:.2f} s")
            continue
        if end > length - SAME_END:
            ends[row] = nan
            if end > length + ROUNDING:
                cut.append(f"{clips.names[row]}, {end:g} s of {length:.2f}")
    notes = [*table.notes]
    if cut:
        notes.append(f"{counted(len(cut), 'row', 'rows')} cut at the end of the file, e.g. {cut[0]}")
    if late:
        notes.append(
            f"{counted(len(late), 'row begins', 'rows begin')} after the end of the file and cannot be read, "
            f"e.g. {late[0]}; mend them; if a table's columns are about something else: `columns` start=,end="
        )
    if overlap := _overlapping(table):
        notes.append(overlap)
    return replace(table, clips=replace(clips, ends=ends), notes=tuple(notes))


def cut_rows(table: ClipTable, reading: ReadingParams) -> ClipTable:
    """Cut rows that are longer than a window into windows, each with its row's label, fold and group.

    The last window is moved back to end with its row; a row that is not longer than a window stays as it is.
    One that ends with its file has no end of its own, as where a table names it: the cache knows both as one.
    """
    if not reading.window:
        return table
    clips, lasts = table.clips, _lengths(table.clips.root)
    starts, ends = array("d"), array("d")
    pieces: list[range] = []
    for row, (start, end) in enumerate(zip(clips.starts, clips.ends, strict=True)):
        until = lasts(clips.paths[row]) if isnan(end) else end
        cuts = [] if until is None else _starts(start, until, reading.window, reading.hop or reading.window)
        pieces.append(range(len(starts), len(starts) + max(len(cuts), 1)))
        starts.extend(cuts or [start])
        ends.extend(min(round(begin + reading.window, 6), until or begin) for begin in cuts[:-1])
        ends.append(end)
    row_of = [row for row, cuts in enumerate(pieces) for _ in cuts]

    def pieces_of(rows: Tensor) -> Tensor:
        return torch.tensor([piece for row in rows.tolist() for piece in pieces[row]], dtype=torch.int64)

    folds = tuple(Fold(pieces_of(fold.train), pieces_of(fold.test)) for fold in table.folds)
    groups = table.groups or clips.names
    cut = f"{counted(len(clips), 'row')} cut into {counted(len(starts), 'window')}"
    return replace(
        table,
        clips=replace(clips.take(row_of), starts=starts, ends=ends),
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


def _lengths(root: Place) -> Callable[[str], float | None]:
    """Return what tells a file's length in seconds, ``None`` where it cannot be read: extraction says why."""

    @cache
    def length(path: str) -> float | None:
        try:
            with open_regular(root / path) as opened:
                return duration(opened)
        except AudioError:
            return None

    return length


def _overlapping(table: ClipTable) -> str | None:
    """Say how many stretches overlap one of another class."""
    clips = table.clips
    by_file: dict[str, list[tuple[float, float, int]]] = {}
    for name, start, end, label in zip(clips.names, clips.starts, clips.ends, clips.labels, strict=True):
        if label >= 0:
            by_file.setdefault(name, []).append((start, inf if isnan(end) else end, label))
    count, example = 0, ""
    for name, stretches in by_file.items():
        furthest: dict[int, float] = {}
        for start, end, label in sorted(stretches, key=itemgetter(0)):
            if any(label != other and reach > start + SAME_END for other, reach in furthest.items()):
                count += 1
                example = example or f"{name} at {start:g} s ({table.class_names[label]})"
            furthest[label] = max(end, furthest.get(label, 0.0))
    if not count:
        return None
    overlapping = counted(count, "row overlaps", "rows overlap")
    return f"{overlapping} one of another class in their recording, e.g. {example}"
