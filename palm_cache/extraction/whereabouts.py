"""Where the files of a feature store's rows lie now: on another day, another machine, another disk."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable
from pathlib import PureWindowsPath

from palm_cache.errors import PalmCacheError
from palm_cache.extraction.datasets.listing import find_files, is_folder
from palm_cache.extraction.datasets.members import members_root
from palm_cache.extraction.datasets.registry import default_root, find_card
from palm_cache.extraction.datasets.texts import as_written
from palm_cache.store.header import StoreHeader
from palm_cache.store.places import place
from palm_cache.types import Place


def roots_of(header: StoreHeader) -> list[Place]:
    """Return the folders below which a store's files may lie: its dataset's, or where it was unpacked."""
    card = find_card(header.dataset)
    if not header.source:
        return [default_root(card)] if card is not None else []
    source = place(header.source)
    # A single table or container; nothing is looked for beside a folder that is gone.
    alone = not is_folder(source) and source.is_file()
    return [source.parent if alone else source, members_root(header.source)]


def locate(header: StoreHeader, names: Iterable[str], root: Place | None = None) -> dict[str, Place]:
    """Find the files of some rows by their paths inside the dataset, in its ``root`` or where it lay.

    What is not there, or not inside the dataset, is left out.
    """
    written = {name: as_written(name) for name in names}
    missing = {name: path for name, path in written.items() if _stays_inside(path)}
    places: dict[str, Place] = {}
    for folder in [root] if root is not None else roots_of(header):
        try:
            if not missing or not is_folder(folder):
                continue
            found = find_files(folder, list(missing.values()))
            there = zip(missing, found.paths, ~(found.sizes < 0), strict=True)
            here = {name: folder / path for name, path, is_there in there if is_there}
        except (PalmCacheError, OSError):  # a disk or a network that is not there just now
            continue
        places |= here
        missing = {name: path for name, path in missing.items() if name not in here}
    return places


def first_below(
    header: StoreHeader, names: Collection[str], roots: Iterable[Place]
) -> tuple[Place | None, dict[str, Place]]:
    """Return the first of some folders in which files of rows lie, ``None`` where none do, and the files."""
    found = ((root, locate(header, names, root)) for root in roots)
    return next(((root, files) for root, files in found if files), (None, {}))


def _stays_inside(path: str) -> bool:
    """Tell whether a path leads nowhere but into the folder that it is relative to."""
    plain = posixpath.normpath(path.replace("\\", "/"))
    return not (posixpath.isabs(plain) or PureWindowsPath(path).drive or plain.split("/")[0] == "..")
