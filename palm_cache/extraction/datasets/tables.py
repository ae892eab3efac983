"""What readers of datasets share: rows of tables with their line numbers."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import PureWindowsPath

from palm_cache.errors import DataError
from palm_cache.types import Place


@dataclass(frozen=True, slots=True)
class TableRow:
    """One stretch of one file as a table names it."""

    table: str
    """File name of the table, for messages."""
    line: int
    """Line of the table, counted from 1, the header included."""
    path: str
    """Relative to the dataset's folder; bytes that are not UTF-8 as surrogates (PEP 383)."""
    class_name: str | None
    """``None`` is unlabelled."""
    start: float = 0.0
    """Seconds from the beginning of the file."""
    end: float | None = None
    """Seconds from the beginning of the file; ``None`` is its end."""
    part: str = ""
    """What the table says of the split: the name of a fold, or train, test ..."""
    group: str = ""
    """What no split may tear apart."""

    @property
    def stretch(self) -> object:
        """What is equal for rows that mean the same stretch."""
        return self.path if not self.start and self.end is None else (self.path, self.start, self.end)

    def __str__(self) -> str:
        return f"{self.table}, row {self.line}"


Split = list[tuple[list[TableRow], list[TableRow]]]
"""The train and test rows of every fold."""


@dataclass(frozen=True, slots=True)
class Content:
    """What was read of a dataset."""

    rows: Sequence[TableRow] = ()
    """In the order of their numbers; without any, those of the folds."""
    told: str = ""
    """How it was understood, on one line."""
    notes: Sequence[str] = ()
    folds: Split | None = None
    """Where the layout itself is the split."""
    root: Place | None = None
    """Where the files lie, if not in the dataset's own folder."""

    @property
    def every_row(self) -> Sequence[TableRow]:
        """The rows; of folds, which hold the same ones, each once."""
        in_folds = chain.from_iterable(chain.from_iterable(self.folds or ()))
        return self.rows or list({id(row): row for row in in_folds}.values())


def placed(row: TableRow) -> TableRow:
    """Return a row with its path as :func:`inside` gives it."""
    path = inside(row)
    return row if path == row.path else replace(row, path=path)


def inside(row: TableRow) -> str:
    """Return the row's path, normalised, after making sure that it stays in the dataset's folder.

    One that is absolute comes from another place: it is looked for below the folder, without its anchor.
    """
    if "\0" in row.path:
        raise DataError(f"{row}: the path holds a NUL character")
    path = row.path
    while (below := _without_anchor(path)) != path:  # what one anchor hid may be another
        path = below
    if posixpath.normpath(path.replace("\\", "/")).split("/")[0] == "..":
        raise DataError(f"{row}: {row.path} leaves the dataset's folder; clips must lie inside it")
    return path


def _without_anchor(path: str) -> str:
    if ":" in path:
        windows = PureWindowsPath(path)
        path = windows.as_posix().removeprefix(windows.drive) if windows.drive else path
    return posixpath.normpath(path.lstrip("/"))
