"""Any folder in the layout of the PALM authors' copies.

::

    <folder>/
    ├── audios/...                                     any container that soundfile reads
    ├── train.csv, test.csv                            columns path, classname
    └── csv_files/train_K.csv, csv_files/test_K.csv    instead, for K = 1, 2 ... folds

A clip whose path is not there is found by its file name, so that tables may lie beside a published tree.
"""

from __future__ import annotations

import re

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.class_names import named
from palm_cache.extraction.datasets.clip_tables import build_table
from palm_cache.extraction.datasets.columns import PARTS, in_words, read_annotated, understand
from palm_cache.extraction.datasets.listing import folder_name, is_folder
from palm_cache.extraction.datasets.rows import Content, TableRow
from palm_cache.extraction.datasets.texts import read_table
from palm_cache.params import ReadingParams
from palm_cache.types import ClipTable, Place

COLUMNS = {"path": "path", "label": "classname"}


def has_tables(root: Place) -> bool:
    """Tell whether the folder holds tables of this layout."""
    return (root / "train.csv").is_file() or is_folder(root / "csv_files")


def read(
    root: Place,
    dataset: str | None = None,
    reading: ReadingParams = ReadingParams(),  # noqa: B008  # frozen
) -> ClipTable:
    """Read a folder in the PALM layout.

    Parameters
    ----------
    root : Place
        The dataset's folder.
    dataset : str, optional
        Its name; the folder's own by default.
    reading : ReadingParams
        What the columns are called, and whether there is to be a test.

    Raises
    ------
    DataError
        If the tables are missing, incomplete or malformed.
    """
    return build_table(dataset or folder_name(root), root, read_folds(root, reading), reading)


def read_folds(root: Place, reading: ReadingParams) -> Content:
    """Return the train and test rows of every fold, and which columns were read; see :func:`read`."""
    # The authors switch folds by copying csv_files/train_K.csv over train.csv: the folder wins.
    pairs = _fold_tables(root / "csv_files")
    if not pairs:
        pairs = [(root / "train.csv", root / "test.csv")]
    for table in (table for pair in pairs for table in pair):
        if not table.is_file():
            raise DataError(
                f"{table}: no such table; the folder needs train.csv and test.csv with columns "
                "path,classname (or csv_files/train_K.csv and test_K.csv); `layout` table reads one alone"
            )
    notes: dict[str, None] = {}
    folds = [(_rows(train, reading, notes), _rows(test, reading, notes)) for train, test in pairs]
    return Content.of_folds(folds, list(notes))


def _fold_tables(folder: Place) -> list[tuple[Place, Place]]:
    """Return the train and test table of every fold, fold 1 first."""
    numbers = fold_numbers(folder, r"(?:train|test)_(\d{1,9})\.csv")
    return [(folder / f"train_{number}.csv", folder / f"test_{number}.csv") for number in numbers]


def fold_numbers(folder: Place, pattern: str) -> range:
    """Return the numbers of folds that a folder has files of: up to the last, or to the first that is absent.

    Parameters
    ----------
    pattern : str
        Of the files' names, with the number as its group.
    """
    matches = (re.fullmatch(pattern, file.name) for file in folder.iterdir()) if is_folder(folder) else ()
    numbers = {int(match[1]) for match in matches if match}
    return range(1, min(max(numbers, default=0), len(numbers) + 1) + 1)


def _rows(file: Place, reading: ReadingParams, notes: dict[str, None]) -> list[TableRow]:
    table = read_table(file)
    columns = understand(table.header, reading.named_columns, table.name)
    absent = [COLUMNS[field] for field in COLUMNS if field not in columns]
    if absent:
        raise DataError(
            f"{file}: no column {' or '.join(map(repr, absent))}; it has "
            f"{', '.join(map(repr, table.header)) or 'none'}; say which are which with `columns`"
        )
    idle = [columns.pop(field) for field in PARTS if field in columns]
    if idle:
        notes[f"columns {', '.join(idle)} not used: the layout's own tables are the split"] = None
    more = [name for name in table.header if name and name not in (*columns.values(), *idle, reading.group)]
    if more:
        notes[f"columns not used: {named(more)}"] = None
    if columns != COLUMNS:
        notes[f"columns read as {in_words(columns)}"] = None
    rows = list(read_annotated(table, columns, reading.group, labelled=True))
    if not rows:
        raise DataError(f"{file}: the table has no rows")
    return rows
