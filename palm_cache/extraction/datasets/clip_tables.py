"""How rows become a table of clips with folds, and what is said of them."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from math import nan
from pathlib import Path

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.class_names import clean, named, suspicious, unified, unstorable
from palm_cache.extraction.datasets.listing import find_files
from palm_cache.extraction.datasets.splits import KnownContents, split, twins
from palm_cache.extraction.datasets.tables import Content, Split, TableRow, placed
from palm_cache.extraction.datasets.texts import on_disk
from palm_cache.params import ReadingParams
from palm_cache.types import Clips, ClipTable, Fold, Place, Texts


def build_table(
    dataset: str,
    root: Place,
    content: Content,
    reading: ReadingParams,
    contents: KnownContents | None = None,
) -> ClipTable:
    """Find the files of what was read of a dataset, split it where it is not, and make a table of clips.

    Clips are numbered in the order in which they first appear; classes are sorted by code point. Folds that
    are made tear no files of equal content apart; with ``contents`` those that are known are not read for it.

    Raises
    ------
    DataError
        If a path leaves the dataset's folder, a stretch carries two class names, a class name cannot be
        stored, a split makes no sense, or a table is empty.
    """
    content = _unify(content)
    rows = content.every_row
    files, told = find_files(root, dict.fromkeys(row.path for row in rows))

    def alike(paths: Iterable[str]) -> dict[str, str]:
        if not isinstance(root, Path):
            return {}  # far away nothing is read for it
        return twins({path: os.path.join(root, files.get(path, path)) for path in paths}, contents)  # noqa: PTH118

    folds, of_split = split(rows, content.folds, reading, alike)
    kept, numbered = _number(rows, folds)
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
    named_alike = suspicious(dict(sorted(counts.items())))
    notes = (*content.notes, *of_split, *told, *named_alike, *_repeated(content), *_unfair(folds))
    groups = Texts(row.group for row in kept) if any(row.group for row in kept) else None
    return ClipTable(dataset, class_names, clips, numbered, notes, groups=groups)


def _unify(content: Content) -> Content:
    """Return content with clean class names and plain relative paths, and notes of what was changed."""
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
    mended = {row: other for row in content.every_row if (other := unify(row)) is not row}
    content = replace(content, notes=(*content.notes, *unified(spellings)))
    if not mended:
        return content

    def now(some: Sequence[TableRow]) -> list[TableRow]:
        return [mended.get(row, row) for row in some]

    folds = content.folds and [(now(train), now(test)) for train, test in content.folds]
    return replace(content, rows=now(content.rows), folds=folds)


def _number(rows: Sequence[TableRow], folds: Split) -> tuple[list[TableRow], tuple[Fold, ...]]:
    """Return a row for every clip, and the folds by the numbers of clips."""
    import torch  # takes a second; listing datasets does without

    numbers: dict[object, int] = {}
    kept: list[TableRow] = []
    for row in rows:
        number = numbers.setdefault(row.stretch, len(kept))
        if number == len(kept):
            kept.append(row)
        _check_same_class(row, kept[number])

    def numbered(part: Sequence[TableRow]) -> torch.Tensor:
        return torch.tensor([numbers[row.stretch] for row in part], dtype=torch.int64)

    return kept, tuple(Fold(numbered(train), numbered(test)) for train, test in folds)


def _check_same_class(row: TableRow, earlier: TableRow) -> None:
    if row.class_name != earlier.class_name:
        until = "its end" if row.end is None else f"{row.end:g} s"
        where = "" if row.end is None and not row.start else f" from {row.start:g} s to {until}"
        raise DataError(
            f"{row}: {row.path}{where} is {row.class_name!r} here but {earlier.class_name!r} in {earlier}; "
            "a clip has one class: mend one of the rows"
        )


def _repeated(content: Content) -> list[str]:
    """Say which clips are on more than one row of what was read: of everything, or of a part of a fold."""
    twice: list[TableRow] = []
    for part in [content.rows] if content.rows else chain(*content.folds or ()):
        seen: set[object] = set()
        for row in part:
            if row.stretch in seen:
                twice.append(row)
            seen.add(row.stretch)
    clips = counted(len({row.path for row in twice}), "clip")
    return [f"{clips} on more than one row, e.g. {twice[0].path} ({twice[0]})"] if twice else []


def _unfair(folds: Split) -> list[str]:
    """Say what makes test scores say less than they seem to: a line for each kind of oddity."""
    shared: dict[str, list[int]] = {}
    never: dict[str, list[int]] = {}
    for number, (train, test) in enumerate(folds, start=1):
        for path in {row.path for row in train} & {row.path for row in test}:
            shared.setdefault(path, []).append(number)
        classes = {row.class_name or "" for row in test} - {row.class_name or "" for row in train}
        for name in sorted(classes):
            never.setdefault(name, []).append(number)
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
