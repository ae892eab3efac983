"""Which datasets are known by name, and how a name or a folder becomes a table of clips."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import cast

from palm_cache.errors import AbsentDatasetError, DataError, UnknownNameError
from palm_cache.extraction.datasets import (
    beijing_opera,
    crema_d,
    demo,
    esc50,
    esc50_actions,
    gt_music_genre,
    ns_instruments,
    palm_layout,
    ravdess,
    sesa,
    tut2017,
    urbansound8k,
    vocalsound,
)
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.check import Check, differences, missing_files
from palm_cache.store.layout import RAW
from palm_cache.store.places import place, reaching
from palm_cache.types import ClipTable, Place

CARDS: tuple[DatasetCard, ...] = (
    demo.CARD,
    beijing_opera.CARD,
    crema_d.CARD,
    esc50.CARD,
    esc50_actions.CARD,
    gt_music_genre.CARD,
    ns_instruments.CARD,
    ravdess.CARD,
    sesa.CARD,
    tut2017.CARD,
    urbansound8k.CARD,
    vocalsound.CARD,
)
"""Every dataset that is known by name: the demo, and the eleven of the paper."""


def find_card(name: str) -> DatasetCard | None:
    """Return the card of a known dataset, whatever the spelling, or ``None``."""
    wanted = name.lower()
    return next((card for card in CARDS if wanted in (card.name.lower(), *card.aliases)), None)


def require_card(name: str) -> DatasetCard:
    """Return the card of a known dataset, whatever the spelling.

    Raises
    ------
    UnknownNameError
        If there is none; the near matches are named.
    """
    card = find_card(name)
    if card is None:
        raise UnknownNameError.among("dataset", name, [card.name for card in CARDS])
    return card


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


def present_root(card: DatasetCard) -> Path | None:
    """Return the folder in which a known dataset lies, its own or one whose audio it shares, if any."""
    own = default_root(card)
    if own.is_dir() or card.shares_audio_with is None:
        return own if own.is_dir() else None
    shared = RAW / card.shares_audio_with
    return shared if shared.is_dir() else None


def read_dataset(name_or_folder: str, root: Place | None = None, *, strict: bool = False) -> ClipTable:
    """Read the tables of a dataset.

    Parameters
    ----------
    name_or_folder : str
        A known name, or a folder in the PALM layout; a URL is a folder too.
    root : Place, optional
        Where a known dataset lies; ``data/raw/<Name>`` by default.
    strict : bool
        What differs from the data card, and files that are missing, are errors instead of notes.

    Raises
    ------
    UnknownNameError
        If it is neither a known name nor a folder.
    AbsentDatasetError
        If it is not there.
    DataError
        If its tables are malformed, or, if ``strict``, it is not what it should be.
    """
    check = check_dataset(name_or_folder, root)
    problems = list(check.differences)
    if check.missing:
        problems.append(
            f"{len(check.missing):,} of {len(check.table.clips):,} files are missing or empty, "
            f"e.g. {check.missing[0]}; all of them: palm-cache datasets --check {name_or_folder}"
        )
    if strict and problems:
        raise DataError(
            f"{check.table.dataset} in {check.folder} is not as it should be: {'; '.join(problems)}"
        )
    return replace(check.table, notes=(*check.table.notes, *problems))


def check_dataset(name_or_folder: str, root: Place | None = None) -> Check:
    """Compare a local copy with its data card and its tables with the files that are there.

    Raises
    ------
    UnknownNameError
        If it is neither a known name nor a folder.
    AbsentDatasetError
        If it is not there.
    DataError
        If its tables are malformed.
    PlaceError
        If it is remote and cannot be reached.
    """
    with reaching(root or place(name_or_folder)):
        return _read(name_or_folder, root)


def _read(name_or_folder: str, root: Place | None) -> Check:
    card = find_card(name_or_folder)
    if card is None:
        if root is not None:
            raise DataError(f"--root goes with a dataset known by name; {name_or_folder} is a folder itself")
        folder = _folder(name_or_folder)
        table = palm_layout.read(folder)
        return Check(folder, table, (), missing_files(table, folder))
    # A remote folder has all of a path's methods that adapters use: joining, listing, opening.
    folder = cast("Path", root) or present_root(card) or default_root(card)
    if not folder.is_dir():
        raise AbsentDatasetError(
            f"{card.name} is not in {folder} ({card.size}, {card.licence}; {card.source}): "
            f"{card.how_to_get}; or say where it is with --root"
        )
    table = card.read(folder)
    return Check(folder, table, differences(card, table), missing_files(table, folder))


def _folder(name: str) -> Path:
    path = place(name)
    if path.is_dir():
        return cast("Path", path)
    if os.sep in name or name.startswith("."):
        raise DataError(f"{name}: no such folder; give a dataset's name or a folder in the PALM layout")
    raise UnknownNameError.among("dataset (and no such folder)", name, [card.name for card in CARDS])
