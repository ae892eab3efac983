"""What an extraction has to do, and why: which clips are new, changed, gone or failed before.

Nothing here writes: ``extract`` acts on what is found, ``extract --dry-run`` shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from palm_cache.errors import DamagedStoreError
from palm_cache.extraction.known_files import KnownFiles
from palm_cache.extraction.matching import Row, gone_names, row_of, stored_rows
from palm_cache.extraction.target import Target
from palm_cache.store.cache import Cache
from palm_cache.store.features import FeatureStore
from palm_cache.types import ClipTable, Place


class Reason(StrEnum):
    """Why a clip is to be embedded, or has no embedding."""

    NEW = "new"
    CHANGED = "changed content"
    STALE = "by another recipe"
    LOST = "known to the store, not to the cache"
    FAILED = "could not be decoded before (`retry_failed` tries again)"
    UNREADABLE = "cannot be opened"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an extraction would do; made by :func:`make_plan`."""

    store: Place
    n_clips: int
    stale: str
    """How the recipe of the store there differs, "" if it does not; else ``--on-stale rebuild`` is needed."""
    groups: Mapping[Reason, tuple[str, ...]]
    """Names of the clips without a known embedding, by reason; of a content that is there twice the first."""
    gone: tuple[str, ...]
    """Names of clips in the store that the dataset has no more; none where not all of it is wanted."""
    other_text: str = ""
    """What of the text is other than in the store, "" if nothing is: text is embedded again."""
    notes: tuple[str, ...] = ()

    @property
    def to_embed(self) -> int:
        """Clips that go through the encoder, unless they turn out to be undecodable."""
        unknown = (Reason.NEW, Reason.CHANGED, Reason.STALE, Reason.LOST)
        return sum(len(self.groups.get(why, ())) for why in unknown)

    @property
    def kept(self) -> int:
        """Clips whose embedding is known."""
        return self.n_clips - sum(map(len, self.groups.values()))


def make_plan(
    target: Target, table: ClipTable, survey: KnownFiles, cache: Cache, notes: Sequence[str]
) -> Plan:
    """Say what is to be done about a dataset whose files have all been looked at."""
    store = target.present.store
    known, failed = survey.look_up(cache)
    groups: dict[Reason, list[str]] = {why: [] for why in Reason}
    unknown = np.flatnonzero(~known)
    rows = unknown.tolist()
    before: dict[Row, bytes] = {}
    gone: tuple[str, ...] = ()
    with suppress(DamagedStoreError):  # is made anew
        if store is not None:
            before = _contents(store, {row_of(survey.clips[row]) for row in rows})
            gone = () if target.header.limit else tuple(dict.fromkeys(gone_names(store, table)))
    told: set[bytes] = set()
    for row, content in zip(rows, survey.keys(unknown), strict=True):
        key = content.tobytes()
        if row not in survey.unread and key in told:
            continue
        told.add(key)
        groups[_why(row, survey, failed, before, target.stale)].append(table.clips.names[row])
    return Plan(
        store=target.out,
        n_clips=len(table.clips),
        stale=target.stale,
        groups={why: tuple(clips) for why, clips in groups.items() if clips},
        gone=gone,
        other_text=target.other_text,
        notes=(*notes, *target.note_fewer(len(table.clips))),
    )


def _why(
    row: int, survey: KnownFiles, failed: Collection[int], before: Mapping[Row, bytes], stale: str
) -> Reason:
    if row in survey.unread:
        return Reason.UNREADABLE
    if row in failed:
        return Reason.FAILED
    content = before.get(row_of(survey.clips[row]))
    if content is None:
        return Reason.NEW
    if content != survey.contents[row].tobytes():
        return Reason.CHANGED
    return Reason.STALE if stale else Reason.LOST


def _contents(store: FeatureStore, wanted: Collection[Row]) -> dict[Row, bytes]:
    """Return the content of some rows of a store."""
    found = {number: row for number, row in enumerate(stored_rows(store)) if row in wanted}
    return dict(zip(found.values(), map(bytes, store.contents()[list(found)]), strict=True))
