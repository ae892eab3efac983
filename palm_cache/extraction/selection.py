"""Which clips of a dataset an extraction takes, and what a store loses where these are fewer than before."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from palm_cache.errors import DamagedStoreError, counted
from palm_cache.extraction.matching import gone_names
from palm_cache.extraction.plan import StoreState
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


def note_fewer(present: StoreState, header: StoreHeader, table: ClipTable) -> list[str]:
    """Say that a store is to hold some clips of its dataset alone, or fewer rows of the same files.

    Parameters
    ----------
    header : StoreHeader
        Of the store that takes the place of the present one.
    table : ClipTable
        What that store holds.
    """
    held, same_files = 0, False
    before = None if present.problem else present.store
    with suppress(DamagedStoreError):  # is made anew
        if before is not None and before.header.source == header.source:
            held = before.n_clips
            same_files = held > len(table.clips) and not header.limit and not gone_names(before, table)
    if header.limit:
        fewer = held > len(table.clips)
        kept = f"; it held {held:,} before, of which the cache keeps what it knows" if fewer else ""
        return [f"this store {header.limited}{kept}"]
    if same_files:
        return [
            f"this store held {counted(held, 'row')} and holds {len(table.clips):,} now, of the same files: "
            "they were cut into other stretches before (window, hop, annotations)"
        ]
    return []
