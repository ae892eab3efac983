"""What an extraction has to do, and why: which clips are new, changed, missing or damaged.

What is compared is content, never time stamps: every file of a finished chunk is hashed again, and a
clip whose bytes are known keeps its embedding wherever it moved to. Nothing here writes: ``extract`` acts
on what is found, ``extract --dry-run`` shows it.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from palm_cache.errors import AudioError, DamagedStoreError, StoreError
from palm_cache.extraction.audio import content_hash, open_regular
from palm_cache.store import trees
from palm_cache.store.features import FeatureStore, StoreHeader
from palm_cache.types import Clip, ClipTable, Place, Progress, no_progress


class Why(StrEnum):
    """Why a clip has to be embedded, or why it cannot be."""

    NEW = "new"
    CHANGED = "changed content"
    STALE = "stale store"
    MISSING = "missing chunk"
    DAMAGED = "damaged chunk"
    RETRIED = "failed before"
    """Its content could not be embedded; a store that is laid out anew tries again."""
    KNOWN = "known under another name"
    """Its row has to be written, from the embedding of the same content, be it in another dataset's store."""
    UNREADABLE = "cannot be opened"
    """It will be recorded as failed."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A clip whose row a store does not hold, as far as can be told without decoding it."""

    clip: Clip
    why: Why


@dataclass(frozen=True, slots=True)
class Standing:
    """What lies at the place where a store is wanted."""

    state: Literal["absent", "fits", "changed", "stale"]
    """``changed``: encoder and options fit, so that embeddings can be kept, but not the layout."""
    store: FeatureStore | None = None
    reason: str = ""
    """Why a store is stale or has to be laid out anew."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an extraction would do; made by :func:`plan_extraction`."""

    store: Place
    n_clips: int
    stale: str
    """Why the store is stale, "" if it is not; only ``--on-stale rebuild`` then goes on."""
    groups: Mapping[Why, tuple[str, ...]]
    """Names of the clips that a finished store lacks, by reason."""

    @property
    def to_embed(self) -> int:
        """Clips that go through the encoder, unless they turn out to be undecodable."""
        return sum(len(names) for why, names in self.groups.items() if why is not Why.UNREADABLE)

    @property
    def kept(self) -> int:
        """Clips about which nothing is to be done."""
        return self.n_clips - sum(map(len, self.groups.values()))


def successor_of(out: Place) -> Place:
    """Return where the successor of a store is built, until it is complete."""
    return out.with_name(f".{out.name}.next")


def siblings_of(out: Place, header: StoreHeader) -> tuple[Place, ...]:
    """Return the other datasets' stores beside this one that were made by the same encoder in the same way.

    Some datasets share audio: ESC50-Actions is a part of ESC50.
    """
    found: list[Place] = []
    beside: list[Place] = [*out.parent.parent.glob(f"*/{glob.escape(out.name)}")]
    for path in sorted(beside, key=str):
        if path.resolve() == out.resolve():
            continue
        with suppress(StoreError):  # unreadable or of another format: of no use, and no harm
            theirs = FeatureStore(path).header
            if (theirs.fingerprint, theirs.views) == (header.fingerprint, header.views):
                found.append(path)
    return tuple(found)


def standing(out: Place, wanted: StoreHeader, table: ClipTable) -> Standing:
    """Find out how the store at a place compares with the one wanted."""
    if not trees.exists(out):
        return Standing("absent")
    try:
        store = FeatureStore(out)
    except StoreError as error:
        return Standing("stale", None, str(error))
    difference = store.header.difference(wanted)
    if difference is not None:
        return Standing("stale", store, difference)
    try:
        if store.holds(table):
            return Standing("fits", store)
        return Standing("changed", store, "the dataset has changed")
    except DamagedStoreError:
        return Standing("changed", store, "its prompts or tables were damaged")


def find_doubts(
    store: FeatureStore, clips: Sequence[Clip], progress: Progress = no_progress
) -> dict[int, list[Doubt]]:
    """Compare a store with the files that it was laid out for.

    Parameters
    ----------
    clips : sequence of Clip
        In the order of the store's rows.

    Returns
    -------
    dict of int to list of Doubt
        For every chunk that is missing, damaged, or holds a clip whose file has changed, in order: the
        clips in question.
    """
    committed = store.committed()
    doubts: dict[int, list[Doubt]] = {}
    total = sum(len(clips[store.rows(chunk)]) for chunk in committed)
    checked = 0
    for chunk in range(store.n_chunks):
        rows = clips[store.rows(chunk)]
        if chunk not in committed:
            doubts[chunk] = [Doubt(clip, Why.MISSING) for clip in rows]
            continue
        found = _chunk_doubts(store, chunk, rows)
        if found:
            doubts[chunk] = found
        checked += len(rows)
        progress("checking", checked, total)
    return doubts


def _chunk_doubts(store: FeatureStore, chunk: int, clips: Sequence[Clip]) -> list[Doubt]:
    try:
        hashes, errors = store.hashes_and_errors(chunk)
        store.read_chunk(chunk)
    except DamagedStoreError:
        return [Doubt(clip, Why.DAMAGED) for clip in clips]
    known = {sha for sha, error in zip(hashes, errors, strict=True) if not error}
    doubts = []
    for clip, recorded in zip(clips, hashes, strict=True):
        sha = hash_file(clip)
        if sha != recorded:
            doubts.append(Doubt(clip, Why.KNOWN if sha in known else Why.CHANGED))
    return doubts


def hash_file(clip: Clip) -> str:
    """Return the content hash of a clip's file as a store records it: "" if it cannot be opened."""
    try:
        with open_regular(clip.file) as file:
            return content_hash(file)
    except AudioError:
        return ""


def plan_extraction(
    out: Place, wanted: StoreHeader, table: ClipTable, progress: Progress = no_progress
) -> Plan:
    """Find out what an extraction would do, and write nothing.

    Parameters
    ----------
    out : Place
        The store's folder.
    wanted : StoreHeader
        The header of the store that dataset, encoder and options make.

    Returns
    -------
    Plan
        Whether a clip can be decoded is not tried: the extraction may record more failures.
    """
    found = standing(out, wanted, table)
    if found.state == "absent":  # killed between two renames: the successor is the store
        found = standing(successor_of(out), wanted, table)
    filled = found if found.state == "fits" else standing(successor_of(out), wanted, table)
    if filled.state == "fits" and filled.store is not None:
        by_chunk = find_doubts(filled.store, table.clips, progress)
        doubts = [doubt for of_chunk in by_chunk.values() for doubt in of_chunk]
    else:
        doubts = [Doubt(clip, Why.MISSING) for clip in table.clips]
    if found.state == "changed" and found.store is not None:
        doubts = _unknown_to(found.store, doubts, progress)
    elif found.state in ("absent", "stale"):
        why = Why.NEW if found.state == "absent" else Why.STALE
        doubts = [replace(doubt, why=why) if doubt.why is Why.MISSING else doubt for doubt in doubts]
    for sibling in siblings_of(out, wanted) if doubts else ():
        doubts = _unshared(FeatureStore(sibling), doubts)
    stale = found.reason if found.state == "stale" else ""
    return Plan(out, len(table.clips), stale, _grouped(doubts))


def _unshared(sibling: FeatureStore, doubts: Sequence[Doubt]) -> list[Doubt]:
    """Drop the clips whose content another dataset's store knows."""
    known: set[str] = set()
    for chunk in sorted(sibling.committed()):
        with suppress(DamagedStoreError):
            hashes, errors = sibling.hashes_and_errors(chunk)
            sibling.read_chunk(chunk)
            known.update(sha for sha, error in zip(hashes, errors, strict=True) if not error)
    return [doubt for doubt in doubts if hash_file(doubt.clip) not in known]


def _unknown_to(old: FeatureStore, doubts: Sequence[Doubt], progress: Progress) -> list[Doubt]:
    """Drop the clips whose content an older store of the same encoder knows; say what the others are."""
    known: set[str] = set()
    failed: set[str] = set()
    try:
        all_names = old.clip_names()
    except DamagedStoreError:
        all_names = [""] * old.n_clips
    why_of = dict.fromkeys(all_names, Why.MISSING)
    for chunk in sorted(old.committed()):
        names = all_names[old.rows(chunk)]
        try:
            hashes, errors = old.hashes_and_errors(chunk)
            old.read_chunk(chunk)
        except DamagedStoreError:
            why_of.update(dict.fromkeys(names, Why.DAMAGED))
            continue
        why_of.update(dict.fromkeys(names, Why.CHANGED))
        for sha, error in zip(hashes, errors, strict=True):
            (failed if error else known).add(sha)
    unknown = []
    for number, doubt in enumerate(doubts, start=1):
        sha = hash_file(doubt.clip)
        if sha in failed - known:
            unknown.append(replace(doubt, why=Why.RETRIED if sha else Why.UNREADABLE))
        elif sha not in known:
            unknown.append(replace(doubt, why=why_of.get(doubt.clip.name, Why.NEW)))
        progress("comparing", number, len(doubts))
    return unknown


def _grouped(doubts: Sequence[Doubt]) -> dict[Why, tuple[str, ...]]:
    """Group the names of clips without a known embedding by reason, in the order of :class:`Why`."""
    groups: dict[Why, list[str]] = {why: [] for why in Why}
    for doubt in doubts:
        groups[doubt.why if _opens(doubt.clip) else Why.UNREADABLE].append(doubt.clip.name)
    return {why: tuple(names) for why, names in groups.items() if names and why is not Why.KNOWN}


def _opens(clip: Clip) -> bool:
    try:
        with open_regular(clip.file):
            return True
    except AudioError:
        return False
