"""What an extraction has to do, and why: which clips are new, changed, gone or failed before.

Nothing here writes: ``extract`` acts on what is found, ``extract --dry-run`` shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from palm_cache.errors import AbsentStoreError, DamagedStoreError, OlderFormatError
from palm_cache.extraction.known_files import KnownFiles
from palm_cache.extraction.matching import Row, gone_names, row_of, stored_rows
from palm_cache.extraction.takeover import format1_header
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
class StoreState:
    """What lies at the place where a store is wanted."""

    store: FeatureStore | None = None
    format1: Mapping[str, object] | None = None
    """Attributes of a store of format 1."""
    problem: str = ""
    """Why there is no store to go on from, though there is one."""

    @property
    def whole(self) -> FeatureStore | None:
        """The store, if there is one to go on from."""
        return None if self.problem else self.store

    @classmethod
    def at(cls, out: Place) -> StoreState:
        """Look what is there.

        Raises
        ------
        StoreError
            If it may not be read, or a newer palm-cache wrote it.
        """
        try:
            store = FeatureStore(out)
            problems = store.file_problems("nothing")
        except AbsentStoreError:
            return cls()
        except OlderFormatError:
            return cls(format1=format1_header(out))
        except DamagedStoreError as error:
            return cls(problem=str(error).removeprefix(f"{out}: ").partition(";")[0])
        return cls(store, problem=problems[0] if problems else "")


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
    """Names of clips in the store that the dataset has no more."""
    other_text: str = ""
    """What of the text is other than in the store, "" if nothing is: text is embedded again, no clip is."""
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
    out: Place,
    table: ClipTable,
    store: FeatureStore | None,
    stale: str,
    survey: KnownFiles,
    cache: Cache,
    other_text: str,
    notes: Sequence[str],
) -> Plan:
    """Say what is to be done about a dataset whose files have all been looked at.

    Parameters
    ----------
    store, stale, other_text : FeatureStore or None, str, str
        What is at ``out``, and how its recipe and its text differ.
    """
    known, failed = survey.look_up(cache)
    groups: dict[Reason, list[str]] = {why: [] for why in Reason}
    unknown = np.flatnonzero(~known)
    rows = unknown.tolist()
    before: dict[Row, bytes] = {}
    gone: tuple[str, ...] = ()
    with suppress(DamagedStoreError):  # is made anew
        if store is not None:
            before = _contents(store, {row_of(survey.clips[row]) for row in rows})
            gone = tuple(dict.fromkeys(gone_names(store, table)))
    told: set[bytes] = set()
    for row, content in zip(rows, survey.keys(unknown), strict=True):
        key = content.tobytes()
        if row not in survey.unread and key in told:
            continue
        told.add(key)
        groups[_why(row, survey, failed, before, stale)].append(table.clips.names[row])
    groups_present = {why: tuple(clips) for why, clips in groups.items() if clips}
    return Plan(out, len(table.clips), stale, groups_present, gone, other_text, tuple(notes))


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
