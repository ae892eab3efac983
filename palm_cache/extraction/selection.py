"""The first clips of every class, where an extraction takes no more."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from palm_cache.errors import DamagedStoreError
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import StoreHeader
from palm_cache.types import ClipTable


def first_clips(table: ClipTable, limit: int) -> ClipTable:
    """Take the first clips of every class only, for training and for testing; all where ``limit`` is 0."""
    if not limit:
        return table
    test = set(table.folds[0].test.tolist()) if table.folds else set()
    seen: Counter[object] = Counter()
    rows = []
    for row, label in enumerate(table.clips.labels):
        seen[label, row in test] += 1
        if seen[label, row in test] <= limit:
            rows.append(row)
    return table.subset(rows)


def note_fewer(store: FeatureStore | None, header: StoreHeader, table: ClipTable) -> list[str]:
    """Say that a store, of this header and table, is to hold some clips of its dataset alone."""
    if not header.limit:
        return []
    held = 0
    with suppress(DamagedStoreError):  # is made anew
        if store is not None and store.header.source == header.source:
            held = store.n_clips
    fewer = held > len(table.clips)
    kept = f"; it held {held:,} before, of which the cache keeps what it knows" if fewer else ""
    return [f"this store {header.limited}{kept}"]
