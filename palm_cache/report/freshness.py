"""Whether scores are of the features that are there now: the store may have changed since, or be gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from palm_cache.errors import PalmCacheError
from palm_cache.extraction.recorded import notes_of_code
from palm_cache.report.content import Section
from palm_cache.report.evidence import Place
from palm_cache.store.features import FeatureStore
from palm_cache.store.heads import opened_heads
from palm_cache.store.join import joined_hash
from palm_cache.store.layout import heads_path

OUT_OF_DATE, UNKNOWN = "out of date", "perhaps out of date"
EDITED, LIMITED = "of code as it was before it was edited", "of some clips alone"


@dataclass(frozen=True, slots=True)
class Behind:
    """What is known now of the features behind the scores of a dataset and encoder."""

    store: FeatureStore | None = None
    """The store, of joined ones the first; ``None`` where the scores are not known to be of it."""
    mark: str = ""
    """:data:`OUT_OF_DATE`, :data:`UNKNOWN`, :data:`EDITED`, :data:`LIMITED`, or "" where nothing is to be
    said."""
    note: str = ""
    """What is the matter, and what to do; "" with no mark."""


def look_behind(scores: pd.DataFrame, heads: Path) -> dict[Place, Behind]:
    """Find the features behind the scores of every dataset and encoder.

    What is compared is the digest of the features that the heads were fitted on, which heads files record,
    with that of the store that lies there now. Where the heads are gone, nothing is known of either.

    Parameters
    ----------
    heads : Path
        The folder below which heads lie.
    """
    places = sorted(set(zip(scores["dataset"], scores["encoder"], strict=True)))
    return {place: _behind(place, heads) for place in places}


def _behind(place: Place, heads: Path) -> Behind:
    file = heads_path(heads, *place)
    try:
        with opened_heads(file) as opened:
            stores, digests = opened.stores(), opened.digests()
    except PalmCacheError:
        return Behind()
    try:
        there = [FeatureStore(store) for store in stores]
    except PalmCacheError as error:
        said = f"{', '.join(place)}: nothing tells whether these scores are current: {error}"
        return Behind(mark=UNKNOWN, note=said)
    if digests == {joined_hash([store.header.digest for store in there])}:
        limited = there[0].header.limited
        edited = [note for store in there for note in notes_of_code(store)]
        notes = [*edited, *([f"{', '.join(place)}: {stores[0]} {limited}"] if limited else [])]
        return Behind(there[0], EDITED if edited else LIMITED if limited else "", "; ".join(notes))
    with opened_heads(file) as opened:
        again = opened.fit_command()
    said = (
        f"{', '.join(place)}: {' and '.join(map(str, stores))} changed after these heads were "
        f"fitted: the scores are of what was there before. Fit and score again with: {again}"
    )
    return Behind(mark=OUT_OF_DATE, note=said)


def doubtful_sections(behind: Mapping[Place, Behind]) -> list[Section]:
    """Return the sections that say which scores are out of date, may be, or are of some clips alone."""
    marks = (OUT_OF_DATE, UNKNOWN, EDITED, LIMITED)
    marked = {mark: tuple(one.note for one in behind.values() if one.mark == mark) for mark in marks}
    return [Section(f"Scores that are {mark}", notes) for mark, notes in marked.items() if notes]
