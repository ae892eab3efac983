"""How rows become a table of clips with folds, and what is said of them."""

from __future__ import annotations

import posixpath
import re
from array import array
from collections import defaultdict
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.class_names import clean, named, suspicious, unified, unstorable
from palm_cache.extraction.datasets.listing import find_files
from palm_cache.extraction.datasets.rows import Content, Numbers, Rows, Split, TableRow, Words, numbered
from palm_cache.extraction.datasets.splits import KnownContents, split, twins
from palm_cache.extraction.datasets.texts import is_legible, on_disk
from palm_cache.params import ReadingParams
from palm_cache.types import Clips, ClipTable, Fold, Place

PLAIN = re.compile(r"[^/\\:\0.][^/\\:\0]*+(?:/[^/\\:\0.][^/\\:\0]*+)*+")
"""Paths that are as they should be: most."""


def build_table(
    dataset: str,
    root: Place,
    content: Content,
    reading: ReadingParams,
    contents: KnownContents | None = None,
) -> ClipTable:
    """Find the files of what was read of a dataset, split it where it is not, and make a table of clips.

    Clips are numbered in the order in which they first appear; a row that repeats another of one table counts
    once, and a stretch with several labels has none. Classes are sorted by code point. Folds that
    are made tear no files of equal content apart; with ``contents`` those that are known are not read for it.

    Raises
    ------
    DataError
        If a path leaves the dataset's folder, a whole file carries two class names, a class name cannot be
        stored, a split makes no sense, or a table is empty.
    """
    content = content.in_order()
    rows, of_names = _unify(content.rows, root)
    numbers, first = rows.stretches
    rows, disagreeing = _of_one_class(rows, numbers, first, content.folds)
    repeated = _repeated(rows, numbers, content.folds)
    if content.folds is None:  # of tables that are the split, all rows count, as in the PALM authors' code
        kept = numbered(numbers, rows.class_name.codes, rows.part.codes, rows.group.codes)[1]
        rows, numbers, first = rows.take(kept), numbers[kept], np.searchsorted(kept, first)
    found = find_files(root, rows.path.texts)

    def alike(asked: NDArray[np.bool_]) -> Numbers:
        if not isinstance(root, Path):
            return np.arange(len(asked))  # far away nothing is read for it
        return twins(root, found.paths, np.where(asked, found.sizes, 0), contents)

    folds, of_split = split(rows, content.folds, reading, alike)
    odd = [*disagreeing, *repeated, *_unfair(rows, folds)]
    rows = rows.take(first)
    class_names = tuple(sorted(filter(None, rows.class_name.texts)))
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = np.array([label_of.get(name, -1) for name in rows.class_name.texts], np.int64)
    labels = labels[rows.class_name.codes]
    stored, located = rows.path, rows.path.spelled(found.paths)
    if not all(map(is_legible, stored.texts)):
        stored = stored.spelled([on_disk(path) for path in stored.texts])
    names = stored.held
    clips = Clips(
        root,
        names,
        names if located is stored else located.held,
        array("q", labels.tobytes()),
        array("d", rows.start.tobytes()),
        array("d", rows.end.tobytes()),
    )
    counts = dict(zip(class_names, np.bincount(labels[labels >= 0]).tolist(), strict=True))
    notes = (*content.notes, *of_names, *of_split, *found.notes, *suspicious(counts), *odd)
    table = ClipTable(
        dataset,
        class_names,
        clips,
        _folds(numbers, folds),
        notes,
        groups=rows.group.held if any(rows.group.texts) else None,
        missing=tuple(on_disk(rows.path.texts[file]) for file in np.flatnonzero(found.sizes <= 0).tolist()),
    )
    from palm_cache.extraction.datasets.windows import check_stretches  # torch, as _folds

    return check_stretches(table, rows)


def _unify(rows: Rows, root: Place) -> tuple[Rows, list[str]]:
    """Return rows with clean class names and plain relative paths, and notes of what was changed."""
    cleaned = [clean(name) for name in rows.class_name.texts]
    for number, name in enumerate(cleaned):
        if wrong := unstorable(name):
            row = rows[int(rows.class_name.first[number])]
            raise DataError(f"{row}: class name {name!r} {wrong}; mend the row")
    spellings = dict(zip(rows.class_name.texts, cleaned, strict=True))
    rows = replace(rows, class_name=rows.class_name.spelled(cleaned))
    if odd := [number for number, path in enumerate(rows.path.texts) if not PLAIN.fullmatch(path)]:
        first, here = rows.path.first, root.absolute().as_posix().rstrip("/") + "/"
        paths = [*rows.path.texts]
        for number in odd:
            row = rows[int(first[number])]
            paths[number] = inside(row._replace(path=row.path.removeprefix(here)))
        rows = replace(rows, path=rows.path.spelled(paths))
    return rows, unified(spellings)


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
        raise DataError(f"{row}: {row.path} leaves the dataset's folder; give one above that holds all clips")
    return path


def _without_anchor(path: str) -> str:
    if ":" in path:
        windows = PureWindowsPath(path)
        path = windows.as_posix().removeprefix(windows.drive) if windows.drive else path
    return posixpath.normpath(path.lstrip("/"))


def _folds(numbers: Numbers, folds: Split) -> tuple[Fold, ...]:
    """Return folds by the numbers of clips."""
    import torch  # takes a second; listing datasets does without

    return tuple(Fold(*(torch.from_numpy(numbers[part]) for part in fold)) for fold in folds)


def _of_one_class(
    rows: Rows, numbers: Numbers, first: Numbers, folds: Split | None
) -> tuple[Rows, list[str]]:
    """Return rows that have no label where those of a stretch of a file have several, and say so.

    Of a whole file, and in tables that are the split, that is an error.
    """
    codes = rows.class_name.codes
    other = np.flatnonzero(codes != codes[first][numbers])
    if not len(other):
        return rows, []
    whole = other[(rows.start[other] == 0) & np.isnan(rows.end[other])] if folds is None else other
    number = int((whole if len(whole) else other)[0])
    row, earlier = rows[number], rows[int(first[numbers[number]])]
    until = "its end" if row.end is None else f"{row.end:g} s"
    where = "" if row.end is None and not row.start else f" from {row.start:g} s to {until}"
    told = f"{row}: {row.path}{where} is {row.class_name!r} here but {earlier.class_name!r} in {earlier}"
    if len(whole):
        raise DataError(f"{told}; a clip has one class: mend one of the rows")
    apart = np.isin(numbers, numbers[other])
    labels = Words.of("" if one else name for one, name in zip(apart, rows.class_name, strict=True))
    count = counted(len(np.unique(numbers[other])), "stretch has", "stretches have")
    return replace(rows, class_name=labels), [f"{count} several labels and is left without one, e.g. {told}"]


def _repeated(rows: Rows, numbers: Numbers, folds: Split | None) -> list[str]:
    """Say which clips are on more than one row of what was read: of everything, or of a part of a fold."""
    parts = [np.arange(len(rows))] if folds is None else [part for fold in folds for part in fold]
    twice = []
    for part in parts:
        once = np.unique(numbers[part], return_index=True)[1]
        twice.append(np.delete(part, once))
    again = np.concatenate(twice)
    if not len(again):
        return []
    clips = counted(len(np.unique(numbers[again])), "clip")
    row = rows[int(again[0])]
    return [f"{clips} on more than one row, e.g. {row.path} ({row})"]


def _unfair(rows: Rows, folds: Split) -> list[str]:
    """Say what makes test scores say less than they seem to: a line for each kind of oddity."""
    shared: dict[str, list[int]] = defaultdict(list)
    never: dict[str, list[int]] = defaultdict(list)

    def there(column: Words, part: Numbers) -> NDArray[np.bool_]:
        return np.bincount(column.codes[part], minlength=len(column.texts)) > 0

    for number, (train, test) in enumerate(folds, start=1):
        for code in np.flatnonzero(there(rows.path, train) & there(rows.path, test)).tolist():
            shared[rows.path.texts[code]].append(number)
        classes = rows.class_name
        for code in np.flatnonzero(there(classes, test) & ~there(classes, train)).tolist():
            never[classes.texts[code]].append(number)
    notes = []
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
