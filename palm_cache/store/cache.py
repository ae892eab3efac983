"""What a recipe knows: values of contents, by their hash, in immutable segments.

::

    CACHE/<kind>-<recipe>/recipe.json              what decides the values, in words
    CACHE/<kind>-<recipe>/<time>-<id>.safetensors  a segment

A segment (:mod:`palm_cache.store.segments`) appears whole or not at all, carries checksums and is never
changed. So any number of processes on any number of machines write without a lock; two that make the same
value do no harm; a segment that is damaged gives what is whole of it. Looking contents up costs the memory of
their hashes, not of their values.

There are three kinds: ``audio`` (a clip's embeddings), ``text`` (a prompt's) and ``files`` (the content hash
of a file whose path, size and times are known).
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from palm_cache.errors import StoreError
from palm_cache.store.atomic import clear_left_behind, write_errors
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.places import Folder, folder
from palm_cache.store.segments import (
    FORMAT,
    KEY_BYTES,
    SEGMENT,
    DamageError,
    Form,
    Keys,
    RecordedFailure,
    Segment,
    encode,
    join,
    new_name,
    parse,
)
from palm_cache.types import Place

RECIPE = "recipe.json"

SMALL_BYTES = 64 << 20
"""Segments below this are merged, into ones of about twice the size."""

RECENT_KEYS = 50_000
"""Keys that are kept in a set before they are sorted in: memory against time."""

BLOCKS_HELD = 32
"""Blocks that are kept in memory after reading: values that were made together are read together."""


def is_cache_file(name: str) -> bool:
    """Tell whether a file of a recipe's folder is called as one that is written here."""
    return name == RECIPE or SEGMENT.fullmatch(name) is not None


class UnknownContentError(StoreError):
    """A value is asked for that is not known, or no longer: another process has merged or dropped it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of some keys."""

    known: NDArray[np.bool_]
    """(n,) whether there is a value."""
    failures: dict[int, RecordedFailure]
    """By position: those that have none, for a reason."""


@dataclass(slots=True)
class Cache:
    """The values of one recipe.

    Parameters
    ----------
    root : Place
        The folder of all recipes.
    kind : str
        ``audio``, ``text`` or ``files``.
    recipe : mapping
        What decides the values; its hash names the folder.
    shape, dtype :
        Of one value.
    by : str
        What finds failures now: those that another version of it found count for nothing.
    retry : bool
        Whether all failures that are there now count for nothing.
    """

    root: Place
    kind: str
    recipe: Mapping[str, object]
    shape: tuple[int, ...]
    dtype: str = "float32"
    by: str = ""
    retry: bool = False
    folder: Folder = field(init=False)
    form: Form = field(init=False)
    _segments: dict[str, Segment | None] = field(init=False, default_factory=dict)
    """By name; ``None`` where the keys are damaged."""
    _blocks: dict[tuple[str, int], NDArray[Any]] = field(init=False, default_factory=dict)
    _prefixes: memoryview = field(init=False, default_factory=lambda: np.empty(0, np.uint64).data)
    """First 8 bytes of all keys, sorted, but for the recent ones."""
    _recent: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        hashed = fingerprint(self.recipe)
        self.folder = folder(self.root / f"{self.kind}-{hashed[:32]}")
        self.form = Form(hashed, self.shape, self.dtype)
        self.refresh()
        self.retry = False

    @property
    def n_keys(self) -> int:
        """How many values and failures there are, some perhaps twice."""
        return sum(len(segment.row) for segment in self._segments.values() if segment)

    @property
    def small(self) -> list[str]:
        """Names of the segments that are worth merging, if there are several."""
        return [name for name, segment in self._segments.items() if segment and segment.size < SMALL_BYTES]

    @property
    def damaged(self) -> list[str]:
        """Names of segments whose keys cannot be read: they give nothing."""
        return [name for name, segment in self._segments.items() if segment is None]

    def refresh(self) -> None:
        """Look which segments there are now."""
        sizes = self.folder.files()
        names = sorted(filter(SEGMENT.fullmatch, sizes))
        for gone in self._segments.keys() - set(names):
            del self._segments[gone]
        for name in names:
            if name not in self._segments:
                try:
                    self._keep(
                        parse(self.form, name, sizes[name], partial(self.folder.read, name), self._forgets)
                    )
                except DamageError:
                    self._segments[name] = None
                except FileNotFoundError:
                    continue  # merged by another process a moment ago

    def _keep(self, segment: Segment) -> None:
        self._segments[segment.name] = segment
        prefix = segment.prefix
        if segment.forgotten:
            prefix = prefix[~np.isin(segment.row, list(segment.forgotten))]
        if len(self._recent) + len(prefix) > RECENT_KEYS:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._prefixes = np.sort(np.concatenate([self._prefixes, recent, prefix])).data
            self._recent = set()
        else:
            self._recent.update(prefix.tolist())

    def holds(self, key: bytes) -> bool:
        """Tell quickly, in any thread, whether a key has a value or a failure; it goes by 8 bytes of it."""
        (prefix,) = struct.unpack_from("<Q", key)
        if prefix in self._recent:
            return True
        prefixes = self._prefixes
        at = bisect_left(prefixes, prefix)  # numpy's way waits for Python's lock
        return at < len(prefixes) and prefixes[at] == prefix

    def look_up(self, keys: Keys) -> Lookup:
        """Tell what is known of some keys."""
        _, known, failures = self._locate(keys)
        return Lookup(known >= 0, failures)

    def take(self, keys: Keys) -> NDArray[Any]:
        """Return the values of keys, shape (n, *shape).

        Raises
        ------
        UnknownContentError
            If one is not known, or what held it is damaged; what is damaged has been dropped by then.
        """
        for _ in range(3):  # another process may merge segments meanwhile
            try:
                return self._take(keys)
            except FileNotFoundError:
                self.refresh()
            except DamageError as damage:
                with suppress(FileNotFoundError):  # another process has found it too
                    self._merge([str(damage)])
                self.refresh()
        raise UnknownContentError(f"{self.folder.place}: other processes change it all the time; try again")

    def add(
        self, keys: Keys, values: NDArray[Any], failures: Mapping[int, RecordedFailure] | None = None
    ) -> None:
        """Write a segment.

        Parameters
        ----------
        keys : (n, 32) uint8
        values : (n, *shape)
        failures : mapping of int to RecordedFailure, optional
            By position; the values there are not looked at.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if not len(keys):
            return
        values = np.ascontiguousarray(values, self.dtype)
        blocks = (
            values[at : at + self.form.block_rows] for at in range(0, len(values), self.form.block_rows)
        )
        name, content = new_name(), b"".join(encode(self.form, keys, failures or {}, blocks))
        with write_errors(self.folder.place, "--cache"):
            self._describe()
            self.folder.write(name, content)
        self._keep(
            parse(self.form, name, len(content), lambda start, stop: content[start:stop], self._forgets)
        )

    def merge(self) -> None:
        """Make few large segments of many small ones, unless another process is at it.

        What processes that were killed have left of files is removed.

        Raises
        ------
        OutputError
            If that cannot be written; nothing is lost then.
        """
        clear_left_behind(self.folder, is_cache_file)
        if len(self.small) < 2:
            return
        with write_errors(self.folder.place, "--cache"), self.folder.alone("merge") as alone:
            if not alone:
                return
            self.refresh()  # another process may have merged a moment ago
            group: list[str] = []
            for name in [*self.small, ""]:
                segments = filter(None, map(self._segments.get, group))
                full = sum(segment.size for segment in segments) >= SMALL_BYTES
                if len(group) > 1 and (full or not name):
                    self._merge(group)
                if full:
                    group = []
                group.append(name)
        self.refresh()

    def entries(self) -> Iterator[tuple[Keys, dict[int, RecordedFailure], int]]:
        """Yield keys, failures by row and bytes of every segment."""
        for segment in self._segments.values():
            if segment is not None:
                yield segment.keys, segment.failures, segment.size

    def _forgets(self, failure: RecordedFailure) -> bool:
        return self.retry or failure.by != self.by

    def _locate(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, RecordedFailure]]:
        """Return the number of the segment and the row of every key, -1 where there is no value; failures."""
        parts = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, KEY_BYTES // 8)
        order = np.argsort(parts[:, 0])  # neighbours are looked for one after the other
        prefix, rest = parts[order, 0], parts[order, 1:]
        where, row = np.full(len(keys), -1, np.int64), np.full(len(keys), -1, np.int64)
        failures: dict[int, RecordedFailure] = {}
        open_ = np.arange(len(keys))
        for number, segment in reversed(list(enumerate(self._segments.values()))):  # the newest first
            if segment is None or not len(open_):
                continue
            positions = segment.find(prefix[open_], rest[open_])
            failed = np.isin(positions, list(segment.failures))
            for at in np.flatnonzero(failed):
                if int(positions[at]) not in segment.forgotten:
                    failures.setdefault(int(order[open_[at]]), segment.failures[int(positions[at])])
            here = (positions >= 0) & ~failed
            where[order[open_[here]]], row[order[open_[here]]] = number, positions[here]
            open_ = open_[~here]
        return where, row, {at: failure for at, failure in failures.items() if row[at] < 0}

    def _take(self, keys: Keys) -> NDArray[Any]:
        where, row, _ = self._locate(keys)
        if (row < 0).any():
            raise UnknownContentError(
                f"{self.folder.place}: {int((row < 0).sum())} contents are not known here"
            )
        values = np.empty((len(keys), *self.shape), self.dtype)
        segments = list(self._segments.values())
        for number in np.unique(where).tolist():
            segment = segments[number]
            assert segment is not None
            mine = np.flatnonzero(where == number)
            block = row[mine] // segment.block_rows
            for block_number in np.unique(block).tolist():
                at = mine[block == block_number]
                values[at] = self._block(segment, block_number)[row[at] % segment.block_rows]
        return values

    def _block(self, segment: Segment, number: int) -> NDArray[Any]:
        """Read a block of values, checked."""
        kept = self._blocks.get((segment.name, number))
        if kept is not None:
            return kept
        if segment.checksums is None:
            ends = segment.values_at + len(segment.row) * self.form.row_bytes
            count = ceil(len(segment.row) / segment.block_rows)
            content = self._bytes(segment, ends, ends + 4 * count)
            if len(content) != 4 * count:
                raise DamageError(segment.name)
            segment.checksums = np.frombuffer(content, np.uint32)
        start = number * segment.block_rows
        stop = min(start + segment.block_rows, len(segment.row))
        at = [segment.values_at + row * self.form.row_bytes for row in (start, stop)]
        content = self._bytes(segment, *at)
        if len(content) != at[1] - at[0] or crc32c(content) != segment.checksums[number]:
            raise DamageError(segment.name)
        block = np.frombuffer(content, self.dtype).reshape(-1, *self.shape)
        while len(self._blocks) >= BLOCKS_HELD:
            self._blocks.pop(next(iter(self._blocks)))
        self._blocks[segment.name, number] = block
        return block

    def _bytes(self, segment: Segment, start: int, stop: int) -> bytes:
        """Return bytes of a segment behind its keys, from memory if they were read with those."""
        if segment.tail:
            return segment.tail[start - segment.values_at : stop - segment.values_at]
        return self.folder.read(segment.name, start, stop)

    def _merge(self, names: Sequence[str]) -> None:
        """Put what is whole of some segments into a new one, and remove them.

        Of a content that is there twice the newest value is taken, and any value before a failure.
        """
        segments = [segment for name in names if (segment := self._segments.get(name))]
        intact: list[tuple[Segment, NDArray[np.int64]]] = []
        """Rows with a value that can be read, by segment, in their order."""
        for segment in segments:
            rows = np.setdiff1d(np.arange(len(segment.row)), list(segment.failures))
            whole = [
                number
                for number in np.unique(rows // segment.block_rows).tolist()
                if self._whole(segment, number)
            ]
            intact.append((segment, rows[np.isin(rows // segment.block_rows, whole)]))
        keys, failures, kept = join(intact, segments)
        if len(keys):
            with self.folder.replacing(new_name()) as merged, merged.open("wb") as file:
                file.writelines(encode(self.form, keys, failures, self._gather(kept, len(failures))))
        self.folder.remove([segment.name for segment in segments])

    def _whole(self, segment: Segment, number: int) -> bool:
        try:
            self._block(segment, number)
        except DamageError:
            return False
        return True

    def _gather(
        self, kept: Sequence[tuple[Segment, NDArray[np.int64]]], n_failed: int
    ) -> Iterator[NDArray[Any]]:
        """Yield the values of rows of segments in blocks, and zeros for those that have none."""
        waiting = np.empty((0, *self.shape), self.dtype)

        def pieces() -> Iterator[NDArray[Any]]:
            for segment, rows in kept:
                for number in np.unique(rows // segment.block_rows).tolist():
                    mine = rows[rows // segment.block_rows == number]
                    yield self._block(segment, number)[mine % segment.block_rows]
            for start in range(0, n_failed, self.form.block_rows):
                yield np.zeros((min(self.form.block_rows, n_failed - start), *self.shape), self.dtype)

        for piece in pieces():
            waiting = np.concatenate([waiting, piece])
            while len(waiting) >= self.form.block_rows:
                yield waiting[: self.form.block_rows]
                waiting = waiting[self.form.block_rows :]
        if len(waiting):
            yield waiting

    def _describe(self) -> None:
        """Say in words what the folder is for, once."""
        if not self._segments:
            with suppress(FileNotFoundError):
                self.folder.read(RECIPE)
                return
            words = {"palm_cache": FORMAT, "kind": self.kind, "recipe": dict(self.recipe)}
            self.folder.write(RECIPE, json.dumps(words, indent=2).encode())
