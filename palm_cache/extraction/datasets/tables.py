"""What adapters share: reading a table with row numbers, and turning rows into clips and folds."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote_from_bytes

from palm_cache.errors import DataError
from palm_cache.types import Clip, ClipTable, Fold


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled file as a table names it."""

    table: str
    """File name of the table, for messages."""
    line: int
    """Line of the table, counted from 1, the header included."""
    path: str
    """Relative to the dataset's folder; bytes that are not UTF-8 as surrogates (PEP 383)."""
    class_name: str

    def __str__(self) -> str:
        return f"{self.table}, row {self.line}"


def read_rows(file: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read the named columns of a CSV with their line numbers; BOM and CRLF are fine.

    Raises
    ------
    DataError
        If the file cannot be read, or a column or a field is missing.
    """
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
            reader = csv.DictReader(handle)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            absent = [name for name in columns if name not in header]
            if absent:
                raise DataError(
                    f"{file}: no column {' or '.join(map(repr, absent))}; "
                    f"it has {', '.join(map(repr, header)) or 'none'}, wanted {', '.join(columns)}"
                )
            rows = []
            for record in reader:
                values = {name: (record[name] or "").strip() for name in columns}
                _check_fields(values, f"{file.name}, row {reader.line_num}")
                rows.append((reader.line_num, values))
            return rows
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{file}: cannot read the table: {reason}") from error


def read_json(file: Path) -> object:
    """Read a JSON file.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot read the list: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file}: not JSON: {error}; get the file again") from error


def build_table(
    dataset: str, root: Path, folds: Sequence[tuple[Sequence[Row], Sequence[Row]]], notes: Iterable[str] = ()
) -> ClipTable:
    """Make a table of clips from the train and test rows of every fold.

    Clips are numbered in the order in which they first appear; classes are sorted by code point.

    Raises
    ------
    DataError
        If a path leaves the dataset's folder or carries two class names, or a table is empty.
    """
    import torch  # takes a second; listing datasets does without

    rows = [row for train, test in folds for row in (*train, *test)]
    class_names = tuple(sorted({row.class_name for row in rows}))
    number_of: dict[str, int] = {}
    clips: list[Clip] = []
    first_seen: dict[str, Row] = {}
    for row in rows:
        earlier = first_seen.setdefault(row.path, row)
        if row.path not in number_of:
            number_of[row.path] = len(clips)
            file = root / _inside(row)
            clips.append(Clip(file, _storable(row.path), class_names.index(row.class_name)))
        elif earlier.class_name != row.class_name:
            raise DataError(
                f"{row}: {row.path} is {row.class_name!r} here but {earlier.class_name!r} in {earlier}; "
                "a clip has one class: mend one of the rows"
            )
    numbered = tuple(
        Fold(*(torch.tensor([number_of[row.path] for row in part], dtype=torch.int64) for part in fold))
        for fold in folds
    )
    said = [note for number, fold in enumerate(folds, start=1) for note in _notes(number, *fold)]
    return ClipTable(dataset, class_names, tuple(clips), numbered, (*notes, *said))


def _check_fields(values: dict[str, str], where: str) -> None:
    for name, value in values.items():
        if not value or value.lower() == "nan":
            what = "class name" if name in ("classname", "class") else name
            raise DataError(f"{where}: {what} is empty; every clip needs one (or remove the row)")


def _inside(row: Row) -> PurePosixPath:
    """Return the row's path after making sure that it stays in the dataset's folder."""
    path = PurePosixPath(row.path)
    if path.is_absolute() or PureWindowsPath(row.path).is_absolute():
        raise DataError(f"{row}: {row.path} is an absolute path; give it relative to the dataset's folder")
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise DataError(f"{row}: {row.path} leaves the dataset's folder; clips must lie inside it")
    if "\0" in row.path:
        raise DataError(f"{row}: the path holds a NUL character")
    return path


def _storable(path: str) -> str:
    """Return the path as UTF-8 text; one that is not UTF-8 on disk is percent-escaped."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return quote_from_bytes(os.fsencode(path), safe="/ ")
    return path


def _notes(number: int, train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Return what the user should know about the tables of one fold."""
    notes = []
    for part in (train, test):
        twice = [path for path, count in Counter(row.path for row in part).items() if count > 1]
        if twice:
            last = next(row for row in reversed(part) if row.path == twice[0])
            notes.append(
                f"{last.table}: {len(twice)} clip(s) on more than one row, e.g. {last.path} ({last})"
            )
    shared = {row.path for row in train} & {row.path for row in test}
    if shared:
        notes.append(
            f"fold {number}: {len(shared)} clip(s) in both train and test, e.g. {min(shared)}; "
            "test scores will flatter"
        )
    never = sorted({row.class_name for row in test} - {row.class_name for row in train})
    if never:
        notes.append(f"fold {number}: class(es) in test that train lacks: {', '.join(never)}")
    return notes
