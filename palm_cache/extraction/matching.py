"""Which row of a store is which clip of a dataset, and what is gone of either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DamagedStoreError, DataError, counted
from palm_cache.extraction.known_files import KnownFiles
from palm_cache.params import Resources
from palm_cache.store.cache import Cache
from palm_cache.store.features import FeatureStore
from palm_cache.store.places import place
from palm_cache.store.writing import SMALL_ROWS
from palm_cache.types import Clip, ClipTable

MANY_MISSING = 0.5
"""Share of files above which unreadable ones are said first, and from which on none may be gone unasked."""

Row = tuple[str, float, float]
"""What a row of a store and a clip have in common: path, start and end; -1 is the end of the file."""


def stored_rows(store: FeatureStore) -> Iterator[Row]:
    """Return the rows of a store, one after the other."""
    for rows in store.spans(SMALL_ROWS):
        start, end = store.stretches(rows)
        until = np.nan_to_num(end, nan=-1.0)
        yield from zip(store.clip_names(rows), start.tolist(), until.tolist(), strict=True)


def row_of(clip: Clip) -> Row:
    """Return what the row of a clip is."""
    return clip.name, clip.start, -1.0 if clip.end is None else clip.end


def gone_names(store: FeatureStore, table: ClipTable) -> list[str]:
    """Return the name of every row of a store that a dataset has no more."""
    here = np.unique(_hashes(table.clips.names))  # a set of a million names would take 0.1 GB
    gone: list[str] = []
    for rows in store.spans(SMALL_ROWS):
        names = store.clip_names(rows)
        theirs = _hashes(names)
        at = np.minimum(np.searchsorted(here, theirs), len(here) - 1)
        gone += [names[row] for row in np.flatnonzero(here[at] != theirs).tolist()]
    return gone


def _hashes(names: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, names), np.int64, len(names))


def note_gone(store: FeatureStore | None, table: ClipTable, resources: Resources) -> list[str]:
    """Say which rows of the store are not in the dataset any more; refuse where a disk seems to be away."""
    if store is None or resources.limit or not table.source or store.header.source != table.source:
        return []
    try:
        held = store.n_clips
        gone = gone_names(store, table) if held > len(table.clips) else []
    except DamagedStoreError:  # is made anew
        return []
    source = place(table.source)
    away = [name for name in gone if not (source / name).exists()]
    if len(away) >= MANY_MISSING * held and not resources.prune:
        raise DataError(
            f"{store.path}: of its {counted(held, 'clip')} the files of {len(away)} are gone, "
            f"e.g. {away[0]}; is a disk not mounted? `prune` makes the store anew without them"
        )
    if gone:
        return [
            f"no more in the dataset: {counted(len(gone), 'clip')} that the store held, e.g. {gone[0]}; the "
            "cache keeps what it knows of them"
        ]
    if held > len(table.clips):
        return [
            f"this store held {counted(held, 'row')} and holds {len(table.clips):,} now, of the same files: "
            "they were cut into other stretches before (window, hop, annotations)"
        ]
    return []


def lost_labels(store: FeatureStore, table: ClipTable) -> str:
    """Say that a store has labels, and what is read of the same dataset has none; "" where that is not so.

    Then an option is missing by which its labels were read.
    """
    classes = store.header.class_names
    if not classes or table.class_names:
        return ""
    return (
        f"it has labels of {counted(len(classes), 'class', 'classes')}, and the dataset as it is read now "
        "has none (is an option missing by which they were read?)"
    )


def keep_unreadable(
    survey: KnownFiles, store: FeatureStore | None, audio: Cache, errors: dict[int, str]
) -> list[str]:
    """Keep what the store knows of files that cannot be read now; return a note of it."""
    if not survey.unread or store is None:
        return []
    try:
        wanted = {row_of(survey.clips[row]): row for row in survey.unread}
        stored = enumerate(stored_rows(store))
        old_row = {wanted[row]: number for number, row in stored if row in wanted}
        contents, failed = store.contents(), store.errors()
    except DamagedStoreError:  # is made anew
        return []
    kept = []
    for row, before in old_row.items():
        if before not in failed:
            survey.contents[row] = contents[before]
            kept.append(row)
    known, files = audio.look_up(survey.keys(np.array(kept, np.int64))).known, set()
    for row, is_known in zip(kept, known.tolist(), strict=True):
        if is_known:
            del survey.unread[row]
            del errors[row]
            files.add(survey.clips.names[row])
        else:
            survey.contents[row] = 0
    if not files:
        return []
    return [
        f"{counted(len(files), 'audio file')} cannot be read now; earlier embeddings are kept "
        "(`prune` drops them)"
    ]
