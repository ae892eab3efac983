"""UrbanSound8K as it is published: ten folds of urban sounds.

J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research",
ACM Multimedia 2014.
"""

from __future__ import annotations

from pathlib import Path

from palm_cache.errors import DataError
from palm_cache.extraction.datasets import palm_layout
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.tables import Row, build_table, read_rows
from palm_cache.types import ClipTable

METADATA = Path("metadata", "UrbanSound8K.csv")


def read_published(root: Path, dataset: str) -> ClipTable:
    """Read ``metadata/UrbanSound8K.csv`` and ``audio/foldN/``; fold K tests on ``foldK``.

    Folds and classes are what the metadata holds, so that stand-ins of any size can be read.

    Raises
    ------
    DataError
        If the metadata is missing, malformed or skips a fold.
    """
    file = root / METADATA
    by_fold: dict[int, list[Row]] = {}
    rows: list[tuple[int, Row]] = []
    for line, values in read_rows(file, ("slice_file_name", "fold", "class")):
        if not values["fold"].isdecimal() or int(values["fold"]) < 1:
            raise DataError(f"{file.name}, row {line}: fold {values['fold']!r} is not a whole number from 1")
        number = int(values["fold"])
        path = f"audio/fold{number}/{values['slice_file_name']}"
        row = Row(file.name, line, path, values["class"].replace("_", " "))
        by_fold.setdefault(number, []).append(row)
        rows.append((number, row))
    if not rows:
        raise DataError(f"{file}: the table has no rows")
    if len(by_fold) < 2:
        raise DataError(f"{file}: only fold {min(by_fold)}; testing on one fold needs others to train on")
    absent = sorted(set(range(1, max(by_fold) + 1)) - set(by_fold))
    if absent:
        raise DataError(f"{file}: no rows for fold {', '.join(map(str, absent))}; complete the metadata")
    folds = [([row for fold, row in rows if fold != number], by_fold[number]) for number in sorted(by_fold)]
    return build_table(dataset, root, folds)


def read(root: Path) -> ClipTable:
    """Read UrbanSound8K, published layout or the PALM authors' copy."""
    if palm_layout.has_tables(root):
        return palm_layout.read(root, CARD.name)
    return read_published(root, CARD.name)


CARD = DatasetCard(
    name="UrbanSound8K",
    aliases=("us8k", "urbansound", "urban-sound-8k", "urbansound-8k"),
    description="urban sounds of up to 4 s in ten predefined folds",
    source="https://urbansounddataset.weebly.com/urbansound8k.html",
    licence="CC BY-NC 3.0",
    size="6.0 GB packed, 6.8 GB unpacked",
    how_to_get="request it at the source and unpack it there, so that metadata/UrbanSound8K.csv lies below",
    n_classes=10,
    n_folds=10,
    n_clips=8732,
    read=read,
)
