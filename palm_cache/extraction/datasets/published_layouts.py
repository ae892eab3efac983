"""What adapters of published layouts share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path, PurePosixPath

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets import palm_layout
from palm_cache.extraction.datasets.card import Adapter
from palm_cache.extraction.datasets.columns import read_annotated
from palm_cache.extraction.datasets.listing import list_files
from palm_cache.extraction.datasets.splits import Split, held_out
from palm_cache.extraction.datasets.texts import read_table
from palm_cache.types import ClipTable

ORDER_NOTE = (
    "read as published: its rows come in another order than in the PALM authors' tables, "
    "so the few-shot draw is not theirs"
)


def palm_tables_first(read_published: Adapter) -> Adapter:
    """Return an adapter that reads a folder by its PALM tables if it has any, else in its published layout.

    The tables may lie beside a published tree: a clip is then found by its file name.
    """

    @wraps(read_published)
    def read(root: Path, dataset: str) -> ClipTable:
        if palm_layout.has_tables(root):
            return palm_layout.read(root, dataset)
        table = read_published(root, dataset)
        return replace(table, notes=(ORDER_NOTE, *table.notes))

    return read


def read_unsplit(class_of: Callable[[PurePosixPath], str | None], root: Path, dataset: str) -> ClipTable:
    """Read a dataset that is published without the split of the paper, which only the PALM tables hold.

    Parameters
    ----------
    class_of : callable
        Class by file name or folder; ``None`` where they do not tell. The tables decide, but what
        contradicts them is said.

    Raises
    ------
    DataError
        If there are no PALM tables.
    """
    if not palm_layout.has_tables(root):
        classes = Counter(filter(None, (class_of(PurePosixPath(path)) for path in list_files(root).audio)))
        raise DataError(
            f"{root}: {counted(classes.total(), 'clip')} of "
            f"{counted(len(classes), 'class', 'classes')}, but {dataset} is published "
            "without the paper's train/test split, which only the PALM authors' tables hold; put those "
            f"(train.csv and test.csv, or csv_files/) beside the audio, or: palm-cache download {dataset}"
        )
    table = palm_layout.read(root, dataset)
    contradictions = []
    for clip in table.clips:
        told, name = class_of(PurePosixPath(clip.name)), table.class_of(clip)
        if told not in (None, name):
            contradictions.append(f"{clip.name} is {name!r} in the tables, {told!r} by its name")
    if not contradictions:
        return table
    contradicting = counted(len(contradictions), "clip contradicts its", "clips contradict their")
    note = f"{contradicting} file name, e.g. {contradictions[0]}"
    return replace(table, notes=(*table.notes, note))


def cross_validation(file: Path, columns: tuple[str, str, str], place: Callable[[str, int], str]) -> Split:
    """Read metadata that gives every clip a fold; fold K tests on the clips of fold K.

    Parameters
    ----------
    file : Path
        A CSV.
    columns : tuple of str
        Names of the columns with file name, fold and class; underscores in classes become spaces.
    place : callable
        (file name, fold) -> path inside the dataset.

    Raises
    ------
    DataError
        If the metadata is missing, malformed or skips a fold.
    """
    if not file.is_file():  # Kaggle's copies have it at the top
        top = file.parents[1] / file.name
        file = top if top.is_file() else file
    table = read_table(file)
    absent = [name for name in columns if name not in table.header]
    if absent:
        raise DataError(
            f"{file}: no column {' or '.join(map(repr, absent))}; "
            f"it has {', '.join(map(repr, table.header)) or 'none'}, wanted {', '.join(columns)}"
        )
    rows, folds = [], []
    columns_of = dict(zip(("path", "fold", "label"), columns, strict=True))
    for row in read_annotated(table, columns_of, labelled=True):
        if not re.fullmatch(r"0*[1-9]\d{0,8}", row.part):
            raise DataError(f"{row}: fold {row.part!r} is not a whole number from 1")
        folds.append(int(row.part))
        class_name = str(row.class_name).replace("_", " ")
        rows.append(replace(row, path=place(row.path, folds[-1]), class_name=class_name))
    numbers = sorted(set(folds))
    if not rows:
        raise DataError(f"{file}: the table has no rows")
    if len(numbers) < 2:
        raise DataError(f"{file}: only fold {numbers[0]}; testing on one fold needs others to train on")
    skipped = sorted(set(range(1, min(numbers[-1], len(numbers) + 1) + 1)) - set(numbers))
    if skipped:
        raise DataError(f"{file}: no rows for fold {', '.join(map(str, skipped))}; complete the metadata")
    return [held_out(rows, folds, number) for number in numbers]


def of_classes(folds: Split, class_names: Sequence[str]) -> Split:
    """Return the rows of the given classes only."""
    return [
        (
            [row for row in train if row.class_name in class_names],
            [row for row in test if row.class_name in class_names],
        )
        for train, test in folds
    ]
