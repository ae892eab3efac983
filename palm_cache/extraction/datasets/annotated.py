"""Annotations beside recordings: Audacity's label tracks, selection tables of Raven, BirdNET and others."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.class_names import named
from palm_cache.extraction.datasets.columns import stretch, understand, units
from palm_cache.extraction.datasets.folder import RAVEN_COLUMN, SELECTIONS_TAIL, Folder, predicted
from palm_cache.extraction.datasets.listing import Listing, by_name, candidates
from palm_cache.extraction.datasets.rows import Content, Rows, TableRow
from palm_cache.extraction.datasets.texts import decode, read_table
from palm_cache.params import ReadingParams

AUDACITY_TAIL = r"(?:\.BirdNET\.results)?(?:[ ._-]?labels?)?\.txt$"
"""What tools put behind a recording's name."""


def read_audacity(folder: Folder, reading: ReadingParams) -> Content:
    """Read a label track per recording; recordings without one are unlabelled rows, whole.

    Raises
    ------
    DataError
        If there is no label track, or a line is no label.
    """
    recordings = _Recordings(folder.listing)
    rows: list[TableRow] = []
    points = further = 0
    kinds = folder.kinds()
    _check_any(folder, kinds["audacity"], "Audacity label track", "start TAB end TAB label")
    for path in kinds["audacity"]:
        recording = recordings.of(path, AUDACITY_TAIL)
        if recording is None:
            continue
        for line, content in enumerate(decode(folder.at(path)).splitlines(), start=1):
            if not content.strip() or content.startswith("\\"):  # the latter: a range of frequencies
                continue
            begin, finish, label, *more = (field.strip() for field in (*content.split("\t"), "", ""))
            where = f"{path}, row {line}"
            if "\t" not in content:
                raise DataError(
                    f"{where}: {content!r} is no label; Audacity writes start, end and name with tabs"
                )
            further += any(more)
            if begin == finish:
                points += 1
                continue
            start, end = stretch({"start": begin, "end": finish}, where)
            rows.append(TableRow(path, line, recording, label or None, start, end))
    notes = [*recordings.notes, *predicted(kinds["answers"])]
    if further:
        notes.append(f"what stands behind the label is not used, on {counted(further, 'line')}")
    if points:
        notes.append(f"{counted(points, 'label')} at a point of time, not over a stretch, skipped")
    return _content("Audacity's labels", rows, recordings, notes)


def read_raven(folder: Folder, reading: ReadingParams) -> Content:
    """Read a selection table per recording, or Raven's tables that name their recordings.

    A selection has a row per view; one of them is read. Recordings without a selection are unlabelled rows.

    Raises
    ------
    DataError
        If there is no table, one is malformed, or it has no column of labels where one is named.
    """
    recordings = _Recordings(folder.listing)
    rows: dict[tuple[object, ...], TableRow] = {}
    nameless: list[str] = []
    found = [*folder.kinds()["raven"], *folder.selections(folder.text_tables)]
    looked_for = f"a column {RAVEN_COLUMN!r}, and for *.csv of starts and ends, called like a recording"
    _check_any(folder, found, "selection table", looked_for)
    for path in found:
        table = read_table(folder.at(path))
        columns = understand(table.header, reading.named_columns, path)
        per_second = units(columns)
        if "label" not in columns:
            nameless.append(path)
        for line, fields in table.records:
            where = f"{path}, row {line}"
            told = dict(zip(table.header, fields, strict=True))
            by_field = {field: told[column] for field, column in columns.items()}
            start, end = stretch(by_field, where, per_second)
            if told.get("File Offset (s)"):  # times count over several files; this one counts in its own
                offset = stretch({"start": told["File Offset (s)"]}, where)[0]
                start, end = offset, None if end is None else round(offset + end - start, 6)
            name = told.get("Begin Path") or told.get("Begin File") or ""
            from_here = posixpath.join(posixpath.dirname(path), name)  # of several that are called so
            recording = recordings.called(from_here, name) if name else recordings.of(path, SELECTIONS_TAIL)
            if recording is not None:
                label = by_field.get("label") or None
                row = TableRow(path, line, recording, label, start, end)
                rows.setdefault((path, recording, start, end, label), row)
    notes = [*recordings.notes]
    if nameless:
        notes.append(f"no column of labels in {named(nameless)}; `columns` label=NAME says which it is")
    return _content("selection tables", rows.values(), recordings, notes)


def _content(kind: str, rows: Iterable[TableRow], recordings: _Recordings, notes: Sequence[str]) -> Content:
    annotated, whole = list(rows), recordings.unlabelled()
    if not annotated and recordings.alone:
        raise DataError(
            f"read as {kind}: none belongs to a recording, e.g. {recordings.alone[0]}; they are to be called "
            "alike, or the table names them; `layout` flat leaves annotations out"
        )
    stretches = counted(sum(row.end is not None for row in annotated), "stretch", "stretches")
    files = counted(len({row.path for row in annotated if row.end is not None}), "recording")
    more = f", {counted(len(whole), 'recording')} without any" if whole else ""
    return Content(Rows.of([*annotated, *whole]), f"{kind}: {stretches} in {files}{more}", notes)


def _check_any(folder: Folder, found: Sequence[str], kind: str, content: str) -> None:
    """Raise where there are no annotations of a kind."""
    if not found:
        texts = folder.listing.ending_with(".txt")
        others = f"{named(texts)}: nothing of the kind" if texts else ""
        said = predicted(folder.kinds()["answers"]) or filter(None, [others])
        raise DataError(
            "; ".join([f"{folder.root}: no {kind} here or below: looked for *.txt with {content}", *said])
        )


class _Recordings:
    """Which recording an annotation file belongs to."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.annotated: set[str] = set()
        self.alone: list[str] = []
        self.by_name = by_name(listing.audio)

    def of(self, path: str, tail: str) -> str | None:
        """Return the recording that is named like an annotation file, beside it or anywhere."""
        return self.called(re.sub(tail, "", path, flags=re.IGNORECASE), path)

    def called(self, name: str, said: str = "") -> str | None:
        """Return the recording of a name or path, which may be one of another machine."""
        recordings = candidates(name, self.by_name)
        if len(recordings) != 1:
            self.alone.append(said or name)
            return None
        self.annotated.add(recordings[0])
        return recordings[0]

    def unlabelled(self) -> list[TableRow]:
        """Return the recordings that nothing annotates, whole."""
        rest = [path for path in self.listing.audio if path not in self.annotated]
        return [TableRow("the folder", number, path, None) for number, path in enumerate(rest, start=1)]

    @property
    def notes(self) -> list[str]:
        """What belongs to no recording."""
        alone = list(dict.fromkeys(self.alone))
        if not alone:
            return []
        return [f"no recording, or several, for {counted(len(alone), 'annotation')}: {named(alone)}"]
