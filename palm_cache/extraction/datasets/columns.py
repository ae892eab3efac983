"""Which column of a table means what, by the names that people's tools give them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from palm_cache.errors import DataError, UnknownNameError
from palm_cache.extraction.datasets.rows import TableRow
from palm_cache.extraction.datasets.texts import TextTable
from palm_cache.params import COLUMN_FIELDS

USUAL: Mapping[str, Sequence[str]] = {
    field: " ".join(names.split()).split(", ")
    for field, names in {
        "path": """path, filepath, file path, filename, file name, file, audio path, audio file, audiofile,
            audio filename, audio filepath, audio, wav, wav file, wav path, fname, slice file name,
            recording path, recording file, recording, begin file, begin path, sound file, sound, clip path,
            clip, track, itemid, file id, in file""",
        "label": """classname, class name, label, labels, class, category, common name, species,
            scientific name, primary label, annotation, event label, scene label, sound class, tag,
            call type, sound type, emotion, genre, instrument, keyword, word, target, en, type, manual id""",
        "start": "start, start time, begin, begin time, onset, onset time, tmin, start offset, t0, xmin",
        "end": "end, end time, stop, stop time, offset, offset time, tmax, end offset, t1, xmax",
        "duration": "duration",
        "fold": "fold, folds, kfold, cv fold, fold id",
        "split": "split, subset, partition, set, usage, dataset split, data split",
    }.items()
}
"""Names that columns usually have, in lower case with plain spaces, the likeliest first."""

TIMES = ("start", "end", "duration")

PARTS = ("fold", "split")
"""Either says which part of the split a row is of."""

UNIT = re.compile(r"(?: in)? (m|milli)?(?:s|secs?|seconds?)$")
"""What may stand behind the usual name of a time."""

SECONDS = r"(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,9}(?:[.,]\d*)?|[.,]\d+)(?: ?s)?"


def understand(header: Sequence[str], given: Mapping[str, str], table: str) -> dict[str, str]:
    """Return the column of every field that a table has.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    given : mapping
        Columns that the user has named, by field; an empty name: there is no such column.
    table : str
        File name, for messages.

    Raises
    ------
    UnknownNameError
        If there is no column of a given name.
    """
    spoken = {_spoken(name): name for name in reversed(header) if name}
    without_units = {UNIT.sub("", said): name for said, name in spoken.items()}
    columns_of: dict[str, str] = {}
    for field in COLUMN_FIELDS:
        if field in given:
            if given[field] and given[field] not in header:
                raise UnknownNameError.among(f"column in {table}:", given[field], header)
            columns_of[field] = given[field]
            continue
        named = without_units if field in TIMES else spoken
        free = [name for name in USUAL[field] if named.get(name) not in (None, *columns_of.values())]
        if free:
            columns_of[field] = named[free[0]]
    ended = UNIT.sub("", _spoken(columns_of.get("end", "")))
    if ended == "offset" and "end" not in given and "start" not in columns_of and "duration" in columns_of:
        columns_of["start"] = columns_of.pop("end")  # as Kaleidoscope and NeMo have it
    # A duration is the end of a stretch that has a start; else it is the file's, and says nothing new.
    if "duration" not in given and ("start" not in columns_of or "end" in columns_of):
        columns_of.pop("duration", None)
    if "start" not in columns_of and "end" not in given:
        columns_of.pop("end", None)  # an "offset" or "stop" alone is something else
    if "slice file name" in spoken and not {*TIMES} & given.keys():
        # UrbanSound8K: a file is a slice, and the times are those of the recording that it was cut from.
        columns_of = {field: name for field, name in columns_of.items() if field not in TIMES}
    return {field: name for field, name in columns_of.items() if name}


def _spoken(column: str) -> str:
    return re.sub(r"[\s_().*[\]-]+", " ", column.casefold()).strip()


def units(columns: Mapping[str, str]) -> dict[str, int]:
    """Return how many of its unit make a second, for every time that has a column: by the column's name."""
    of_times = {field: UNIT.search(_spoken(columns[field])) for field in TIMES if field in columns}
    return {field: 1000 if unit and unit[1] else 1 for field, unit in of_times.items()}


def read_annotated(
    table: TextTable, columns: Mapping[str, str], group: str = "", *, labelled: bool = False
) -> Iterator[TableRow]:
    """Turn the records of a table into rows.

    Parameters
    ----------
    columns : mapping
        From :func:`understand`.
    group : str
        Name of the column that says what no split may tear apart.
    labelled : bool
        A row without a label is an error; else it is unlabelled.

    Raises
    ------
    DataError
        If a path, or a label that there must be, is empty, or times make no sense.
    """
    places = {field: table.place(name) for field, name in columns.items()}
    times = {field: places[field] for field in TIMES if field in places}
    part_place = next((places[field] for field in PARTS if field in places), None)
    path_place, label_place = places["path"], places.get("label")
    group_place, per_second = table.place(group) if group else None, units(columns)
    for line, fields in table.records:
        path, label = fields[path_place], "" if label_place is None else fields[label_place]
        if not path or (labelled and not label):
            where, what = f"{table.name}, row {line}", "class name" if path else "path"
            raise DataError(f"{where}: {what} is empty; every clip needs one (or remove the row)")
        start, end = 0.0, None
        if times:
            told = {field: fields[place] for field, place in times.items()}
            start, end = stretch(told, f"{table.name}, row {line}", per_second)
        part = "" if part_place is None else fields[part_place]
        together = "" if group_place is None else fields[group_place]
        yield TableRow(table.name, line, path, label or None, start, end, part, together)


def stretch(
    told: Mapping[str, str], where: str, per_second: Mapping[str, int] = MappingProxyType({})
) -> tuple[float, float | None]:
    """Return start and end of a row in seconds.

    Parameters
    ----------
    told : mapping
        Its times; what is absent or empty is not told.
    where : str
        The row, for messages.
    per_second : mapping
        From :func:`units`; by default all are seconds.

    Raises
    ------
    DataError
        If one of them is no time, or the end is not after the start.
    """
    start, end, duration = (
        seconds(told[field], where, field) / per_second.get(field, 1) if told.get(field) else None
        for field in TIMES
    )
    start = start or 0.0
    if duration is not None and end is None:
        end = start + duration
    if end is not None and end <= start:
        raise DataError(f"{where}: ends at {end:g} s, not after its start at {start:g} s; mend the row")
    return start, end


def seconds(text: str, where: str, what: str) -> float:
    """Return a time in seconds: ``62.5``, ``62,5`` or ``1:02.5``.

    Raises
    ------
    DataError
        If it is none.
    """
    match = re.fullmatch(SECONDS, text)
    if match is None and re.fullmatch(r"\d+(?:\.\d*)?e[+-]?\d{1,2}", text, re.IGNORECASE):
        return float(text)
    if match is None:
        raise DataError(f"{where}: {what} {text!r} is no time; write seconds, e.g. 62.5, or 1:02.5")
    hours, minutes, rest = match[1] or 0, match[2] or 0, match[3].replace(",", ".")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def in_words(columns: Mapping[str, str]) -> str:
    """Return which column was taken for what, as ``--columns`` takes it."""
    return ",".join(f"{field}={name}" for field, name in columns.items())
