"""Any folder in the layout of the PALM authors' copies.

::

    <folder>/
    ├── audios/...                                     any container that soundfile reads
    ├── train.csv, test.csv                            columns path, classname
    └── csv_files/train_K.csv, csv_files/test_K.csv    instead, for K = 1, 2 ... folds
"""

from __future__ import annotations

import re
from pathlib import Path

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.tables import Row, build_table, read_rows
from palm_cache.types import ClipTable

COLUMNS = ("path", "classname")


def has_tables(root: Path) -> bool:
    """Tell whether the folder holds tables of this layout."""
    return (root / "train.csv").is_file() or (root / "csv_files").is_dir()


def read(root: Path, dataset: str | None = None) -> ClipTable:
    """Read a folder in the PALM layout.

    Parameters
    ----------
    root : Path
        The dataset's folder.
    dataset : str, optional
        Its name; the folder's own by default.

    Raises
    ------
    DataError
        If the tables are missing, incomplete or malformed.
    """
    return build_table(dataset or root.resolve().name, root, read_folds(root))


def read_folds(root: Path) -> list[tuple[list[Row], list[Row]]]:
    """Read the train and test rows of every fold of a folder in the PALM layout.

    Raises
    ------
    DataError
        If the tables are missing, incomplete or malformed.
    """
    # The authors switch folds by copying csv_files/train_K.csv over train.csv: the folder wins.
    pairs = _fold_tables(root / "csv_files") if (root / "csv_files").is_dir() else []
    if not pairs:
        pairs = [(root / "train.csv", root / "test.csv")]
    for table in (table for pair in pairs for table in pair):
        if not table.is_file():
            raise DataError(
                f"{table}: no such table; the folder needs train.csv and test.csv with columns "
                "path,classname (or csv_files/train_K.csv and test_K.csv)"
            )
    return [(_rows(train), _rows(test)) for train, test in pairs]


def _fold_tables(folder: Path) -> list[tuple[Path, Path]]:
    """Return the train and test table of every fold, fold 1 first."""
    matches = (re.fullmatch(r"(?:train|test)_(\d+)\.csv", file.name) for file in folder.iterdir())
    numbers = {int(match[1]) for match in matches if match}
    return [
        (folder / f"train_{number}.csv", folder / f"test_{number}.csv")
        for number in range(1, max(numbers, default=0) + 1)
    ]


def _rows(table: Path) -> list[Row]:
    records = read_rows(table, COLUMNS)
    rows = [Row(table.name, line, values["path"], values["classname"]) for line, values in records]
    if not rows:
        raise DataError(f"{table}: the table has no rows")
    return rows
