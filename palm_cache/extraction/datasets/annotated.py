"""Annotations beside recordings: Audacity's label tracks, selection tables of Raven, BirdNET and others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path, PurePosixPath
from typing import cast

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.class_names import named
from palm_cache.extraction.datasets.columns import stretch, understand
from palm_cache.extraction.datasets.listing import Listing, below, by_name, folded
from palm_cache.extraction.datasets.rows import Content, Rows, TableRow
from palm_cache.extraction.datasets.texts import decode, read_header, read_table
from palm_cache.params import ReadingParams
from palm_cache.store.outputs import LABEL_TRACK
from palm_cache.types import Place

RAVEN_COLUMN = "Begin Time (s)"
FILES_TRIED = 20
"""Text files whose content is looked at, to recognise annotations."""

AUDACITY_TAIL = r"(?:\.BirdNET\.results)?(?:[ ._-]?labels?)?\.txt$"
SELECTIONS_TAIL = (
    r"(?:\.Table\.\d+)?(?P<birdnet>\.BirdNET)?(?:\.results(?:\.r|\.kaleidoscope)?)?(?:\.selections?)?(?:\.table)?"
    r"\.(?:txt|csv|tsv)$"
)
"""What tools put behind a recording's name."""


def is_audacity(file: Place) -> bool:
    """Tell whether a text file is a label track: its first line is times, and perhaps a label, with tabs.

    One that ``predict`` wrote and nobody has exported since is none: no head learns from answers unasked.
    """
    return _is_track(file) and not _is_own(file)


def _is_track(file: Place) -> bool:
    first = decode(file).lstrip("\r\n").partition("\n")[0]
    return re.match(r"\d+[.,]?\d*\t\d+[.,]?\d*(\t|\r?$)", first) is not None


def _is_own(track: Place) -> bool:
    return LABEL_TRACK.is_one(cast("Path", track))  # a remote one is opened alike


def tracks(root: Place, paths: Iterable[str], others: float = inf) -> Iterator[tuple[str, bool]]:
    """Yield the label tracks among text files, and whether ``predict`` wrote them.

    After so many ``others``, which are none, no more are looked for. Those of ``predict`` do not count: of as
    many as there are recordings, the last alone may have been corrected.
    """
    for path in paths:
        file = below(root, path)
        if _is_track(file):
            yield path, _is_own(file)
        elif (others := others - 1) <= 0:
            return


def predicted(found: Iterable[tuple[str, bool]]) -> list[str]:
    """Say which of :func:`tracks` are those of ``predict``."""
    own = [path for path, is_own in found if is_own]
    told = f"not read, as predict wrote it: {named(own)}; exported from Audacity it is yours"
    return [told] if own else []


def is_raven(file: Place) -> bool:
    """Tell whether a text file is a selection table."""
    lines = decode(file).splitlines()
    return bool(lines) and RAVEN_COLUMN in lines[0].split("\t")


def texts(listing: Listing) -> list[str]:
    """Return the text files of a folder."""
    return listing.ending_with(".txt")


def tables(listing: Listing) -> list[str]:
    """Return the files of a folder that are tables in text by their endings."""
    return listing.ending_with(".csv", ".tsv")


def tables_beside(
    root: Place, listing: Listing, paths: Iterable[str], given: Mapping[str, str]
) -> dict[str, bool]:
    """Return which tables are of starts and ends and called like recordings, and whether each holds labels.

    One that names its recordings itself can be read alone; of BirdNET's, each names its own.
    """
    named_like = dict[str, tuple[str, bool]]()
    for path in paths:
        name = PurePosixPath(path).name
        tail = re.search(SELECTIONS_TAIL, name, re.IGNORECASE)
        columns = dict[str, str]()
        with suppress(DataError):  # what cannot be read is none
            columns = understand(read_header(below(root, path)), given, path)
        timed = "start" in columns and not {"end", "duration"}.isdisjoint(columns)
        if tail and timed and (tail["birdnet"] or "path" not in columns):
            named_like[path] = folded(name[: tail.start()]), "label" in columns
    recordings = by_name(listing.audio) if named_like else {}  # of a million it takes seconds
    return {path: labelled for path, (name, labelled) in named_like.items() if name in recordings}


def read_audacity(root: Place, listing: Listing, reading: ReadingParams) -> Content:
    """Read a label track per recording; recordings without one are unlabelled rows, whole.

    Raises
    ------
    DataError
        If there is no label track, or a line is no label.
    """
    recordings = _Recordings(listing)
    rows: list[TableRow] = []
    points = further = 0
    found = [path for path in texts(listing) if is_audacity(below(root, path))]
    _check_any(root, listing, found, "Audacity label track", "start TAB end TAB label")
    for path in found:
        file = below(root, path)
        recording = recordings.of(path, AUDACITY_TAIL)
        if recording is None:
            continue
        for line, content in enumerate(decode(file).splitlines(), start=1):
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
    others = sorted(set(texts(listing)).difference(found))
    notes = [*recordings.notes, *predicted(tracks(root, others))]
    if further:
        notes.append(f"what stands behind the label is not used, on {counted(further, 'line')}")
    if points:
        notes.append(f"{counted(points, 'label')} at a point of time, not over a stretch, skipped")
    return _content("Audacity's labels", rows, recordings, notes)


def read_raven(root: Place, listing: Listing, reading: ReadingParams) -> Content:
    """Read a selection table per recording, or Raven's tables that name their recordings.

    A selection has a row per view; one of them is read. Recordings without a selection are unlabelled rows.

    Raises
    ------
    DataError
        If there is no table, one is malformed, or it has no column of labels where one is named.
    """
    recordings = _Recordings(listing)
    rows: dict[tuple[object, ...], TableRow] = {}
    nameless: list[str] = []
    found = [path for path in texts(listing) if is_raven(below(root, path))]
    found += tables_beside(root, listing, tables(listing), reading.named_columns)
    looked_for = f"a column {RAVEN_COLUMN!r}, and for *.csv of starts and ends, called like a recording"
    _check_any(root, listing, found, "selection table", looked_for)
    for path in found:
        table = read_table(below(root, path))
        columns = understand(table.header, reading.named_columns, path)
        if "label" not in columns:
            nameless.append(path)
        for line, fields in table.records:
            where = f"{path}, row {line}"
            told = dict(zip(table.header, fields, strict=True))
            by_field = {field: told[column] for field, column in columns.items()}
            start, end = stretch(by_field, where)
            if told.get("File Offset (s)"):  # times count over several files; this one counts in its own
                offset = stretch({"start": told["File Offset (s)"]}, where)[0]
                start, end = offset, None if end is None else round(offset + end - start, 6)
            name = told.get("Begin File") or told.get("Begin Path") or ""
            recording = recordings.called(name) if name else recordings.of(path, SELECTIONS_TAIL)
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


def _check_any(root: Place, listing: Listing, found: Sequence[str], kind: str, content: str) -> None:
    """Raise where there are no annotations of a kind."""
    if not found:
        looked_at = texts(listing)
        others = f"; {named(looked_at)}: nothing of the kind" if looked_at else ""
        others = "".join(f"; {note}" for note in predicted(tracks(root, looked_at))) or others
        raise DataError(f"{root}: no {kind} here or below: looked for *.txt with {content}{others}")


class _Recordings:
    """Which recording an annotation file belongs to."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.annotated: set[str] = set()
        self.alone: list[str] = []
        self.by_name = by_name(listing.audio)

    def of(self, path: str, tail: str) -> str | None:
        """Return the recording that is named like an annotation file, beside it or anywhere."""
        return self._find(re.sub(tail, "", PurePosixPath(path).name, flags=re.IGNORECASE), path)

    def called(self, name: str) -> str | None:
        """Return the recording of a name."""
        return self._find(PurePosixPath(name.replace("\\", "/")).name, name)

    def _find(self, name: str, said: str) -> str | None:
        recordings = self.by_name.get(folded(name), [])
        beside = [path for path in recordings if PurePosixPath(path).parent == PurePosixPath(said).parent]
        recordings = beside or recordings
        if len(recordings) != 1:
            self.alone.append(said)
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
