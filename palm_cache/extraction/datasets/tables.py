"""What adapters share: rows of tables with their line numbers, and how rows become clips and folds."""

from __future__ import annotations

import posixpath
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import nan
from pathlib import PureWindowsPath

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.class_names import clean, named, suspicious, unified, unstorable
from palm_cache.extraction.datasets.listing import find_files
from palm_cache.extraction.datasets.texts import on_disk
from palm_cache.types import Clips, ClipTable, Fold, Place, Texts

Folds = Sequence[tuple[Sequence["TableRow"], Sequence["TableRow"]]]
"""The train and test rows of every fold."""


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


def build_table(
    dataset: str,
    root: Place,
    folds: Folds,
    notes: Iterable[str] = (),
    rows: Sequence[TableRow] = (),
    found: tuple[Mapping[str, str], Sequence[str]] | None = None,
) -> ClipTable:
    """Make a table of clips from the train and test rows of every fold, and find their files.

    Clips are numbered in the order in which they first appear; classes are sorted by code point.

    Parameters
    ----------
    rows : sequence of TableRow
        All rows, in a fold or not, in the order of their numbers; without it, those of the folds.
    found : (files, notes), optional
        From :func:`find_files`, if they have been looked for.

    Raises
    ------
    DataError
        If a path leaves the dataset's folder, a stretch carries two class names, a class name cannot be
        stored, or a table is empty.
    """
    folds, rows, said = _unify(folds, rows)
    kept, numbered = _number(folds, rows)
    files, told = found or find_files(root, dict.fromkeys(row.path for row in kept))
    class_names = tuple(sorted({row.class_name for row in kept if row.class_name is not None}))
    label_of = {name: label for label, name in enumerate(class_names)}
    names = Texts(on_disk(row.path) for row in kept)
    paths = Texts(files.get(row.path, row.path) for row in kept)
    clips = Clips(
        root,
        names,
        names if paths == names else paths,
        array("q", (-1 if row.class_name is None else label_of[row.class_name] for row in kept)),
        array("d", (row.start for row in kept)),
        array("d", (nan if row.end is None else row.end for row in kept)),
    )
    counts = Counter(row.class_name for row in kept if row.class_name is not None)
    said = (*notes, *said, *told, *suspicious(dict(sorted(counts.items()))), *_notes(folds))
    groups = Texts(row.group for row in kept) if any(row.group for row in kept) else None
    return ClipTable(dataset, class_names, clips, numbered, said, groups=groups)


def _number(folds: Folds, rows: Sequence[TableRow]) -> tuple[list[TableRow], tuple[Fold, ...]]:
    """Return a row for every clip, and the folds by the numbers of clips."""
    import torch  # takes a second; listing datasets does without

    numbers: dict[object, int] = {}
    kept: list[TableRow] = []
    for row in chain(rows, *chain.from_iterable(folds)):
        number = numbers.setdefault(row.stretch, len(kept))
        if number == len(kept):
            kept.append(row)
        _check_same_class(row, kept[number])

    def numbered(part: Sequence[TableRow]) -> torch.Tensor:
        return torch.tensor([numbers[row.stretch] for row in part], dtype=torch.int64)

    return kept, tuple(Fold(numbered(train), numbered(test)) for train, test in folds)


def _unify(folds: Folds, rows: Sequence[TableRow]) -> tuple[Folds, Sequence[TableRow], tuple[str, ...]]:
    """Return the rows with clean class names and plain relative paths, and what was changed."""
    spellings: dict[str, str] = {}

    def unify(row: TableRow) -> TableRow:
        name = row.class_name
        if name is not None:
            if name not in spellings:
                spellings[name] = clean(name)
                if wrong := unstorable(spellings[name]):
                    raise DataError(f"{row}: class name {spellings[name]!r} {wrong}; mend the row")
            name = spellings[name]
        row = placed(row)
        return row if name == row.class_name else replace(row, class_name=name)

    # Most rows are fine, and of a million a second one each would take 0.2 GB.
    # Of folds, which hold the same rows, each row once.
    everything = rows or {id(row): row for row in chain.from_iterable(chain.from_iterable(folds))}.values()
    mended = {row: other for row in everything if (other := unify(row)) is not row}
    if mended:

        def now(some: Sequence[TableRow]) -> list[TableRow]:
            return [mended.get(row, row) for row in some]

        folds, rows = [(now(train), now(test)) for train, test in folds], now(rows)
    return folds, rows, tuple(unified(spellings))


def _check_same_class(row: TableRow, earlier: TableRow) -> None:
    if row.class_name != earlier.class_name:
        until = "its end" if row.end is None else f"{row.end:g} s"
        where = "" if row.end is None and not row.start else f" from {row.start:g} s to {until}"
        raise DataError(
            f"{row}: {row.path}{where} is {row.class_name!r} here but {earlier.class_name!r} in {earlier}; "
            "a clip has one class: mend one of the rows"
        )


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


def _notes(folds: Folds) -> list[str]:
    """Return what the user should know about the tables: a line for each kind of oddity."""
    twice: list[TableRow] = []
    shared: dict[str, list[int]] = {}
    never: dict[str, list[int]] = {}
    for number, (train, test) in enumerate(folds, start=1):
        for part in (train, test):
            seen: set[object] = set()
            for row in part:
                if row.stretch in seen:
                    twice.append(row)
                seen.add(row.stretch)
        for path in {row.path for row in train} & {row.path for row in test}:
            shared.setdefault(path, []).append(number)
        classes = {row.class_name or "" for row in test} - {row.class_name or "" for row in train}
        for name in sorted(classes):
            never.setdefault(name, []).append(number)
    notes = []
    if twice:
        clips = len({row.path for row in twice})
        notes.append(f"{counted(clips, 'clip')} on more than one row, e.g. {twice[0].path} ({twice[0]})")
    if shared:
        first = min(shared)
        notes.append(
            f"{_in_folds(shared)}: {counted(len(shared), 'clip')} in both train and test, e.g. {first}; "
            "test scores will flatter"
        )
    if never:
        notes.append(f"{_in_folds(never)}: classes in test that train lacks: {named(sorted(never))}")
    return notes


def _in_folds(folds_of: dict[str, list[int]]) -> str:
    numbers = sorted({number for numbers in folds_of.values() for number in numbers})
    return f"fold{'s' * (len(numbers) > 1)} {named(list(map(str, numbers)))}"
