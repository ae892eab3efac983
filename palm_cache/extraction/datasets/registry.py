"""Which datasets are known by name, and how a name or a folder becomes a table of clips."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from palm_cache.errors import AbsentDatasetError, DataError, UnknownNameError
from palm_cache.extraction.datasets import demo, palm_layout, urbansound8k
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.store.layout import RAW
from palm_cache.types import ClipTable

CARDS: tuple[DatasetCard, ...] = (demo.CARD, urbansound8k.CARD)
"""Every dataset that is known by name."""


def find_card(name: str) -> DatasetCard | None:
    """Return the card of a known dataset, whatever the spelling, or ``None``."""
    wanted = name.lower()
    return next((card for card in CARDS if wanted in (card.name.lower(), *card.aliases)), None)


def dataset_name(name_or_folder: str) -> str:
    """Return the name under which a dataset is stored.

    Raises
    ------
    UnknownNameError
        If it is neither a known name nor a folder.
    """
    card = find_card(name_or_folder)
    return card.name if card else _folder(name_or_folder).resolve().name


def default_root(card: DatasetCard) -> Path:
    """Return the folder in which a known dataset is looked for."""
    return RAW / card.name


def read_dataset(name_or_folder: str, root: Path | None = None) -> ClipTable:
    """Read the tables of a dataset.

    Parameters
    ----------
    name_or_folder : str
        A known name, or a folder in the PALM layout.
    root : Path, optional
        Where a known dataset lies; ``data/raw/<Name>`` by default.

    Raises
    ------
    UnknownNameError
        If it is neither a known name nor a folder.
    AbsentDatasetError
        If it is not there.
    DataError
        If its tables are malformed.
    """
    card = find_card(name_or_folder)
    if card is None:
        if root is not None:
            raise DataError(f"--root goes with a dataset known by name; {name_or_folder} is a folder itself")
        return palm_layout.read(_folder(name_or_folder))
    folder = root or default_root(card)
    if not folder.is_dir():
        raise AbsentDatasetError(
            f"{card.name} is not in {folder} ({card.size}, {card.licence}; {card.source}): "
            f"{card.how_to_get}; or say where it is with --root"
        )
    table = card.read(folder)
    return replace(table, notes=(*table.notes, *card.differences(table)))


def _folder(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        return path
    if os.sep in name or name.startswith("."):
        raise DataError(f"{name}: no such folder; give a dataset's name or a folder in the PALM layout")
    raise UnknownNameError.among("dataset (and no such folder)", name, [card.name for card in CARDS])
