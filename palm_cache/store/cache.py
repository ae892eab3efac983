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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import PlaceError, StoreError
from palm_cache.store.atomic import write_errors
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.places import Folder, clear_left_behind, folder
from palm_cache.store.seen_keys import SeenKeys
from palm_cache.store.segments import (
    FORMAT,
    INDEX_BYTES,
    KEY_BYTES,
    SEGMENT,
    DamageError,
    Keys,
    RecordedFailure,
    Segment,
    new_name,
    parse,
    write,
)
from palm_cache.types import Place

RECIPE = "recipe.json"

SMALL_BYTES, SMALL_KEYS = 64 << 20, 1 << 16
"""Segments below both are merged, into ones of about twice the size: it takes a hundred bytes of memory a
key, and more."""

MOST_CHANGES = 3
"""How often other processes may take segments away before values are given up."""

BLOCKS_HELD = 16
"""Blocks that are kept in memory after reading: values that were made together are read together."""


def recipe_folder(kind: str, recipe: Mapping[str, object]) -> str:
    """Return the name of a recipe's folder."""
    return f"{kind}-{fingerprint(recipe)[:32]}"


def is_cache_file(name: str) -> bool:
    """Tell whether a file of a recipe's folder is called as one that is written here."""
    return name == RECIPE or SEGMENT.fullmatch(name) is not None


class UnknownContentError(StoreError):
    """A value is asked for that is not known, or no longer: another process has merged or dropped it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of some keys."""

    segment: NDArray[np.int64]
    """(n,) number of the segment that holds the value, -1 where there is none."""
    row: NDArray[np.int64]
    """(n,) where it lies there."""
    failures: dict[int, RecordedFailure]
    """By position: those that have none, for a reason."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) whether there is a value."""
        return self.segment >= 0


@dataclass(slots=True)
class Cache:
    """The values of one recipe.

    Parameters
    ----------
    root, kind : Place, str
        The folder of all recipes; ``audio``, ``text`` or ``files``.
    recipe : mapping
        What decides the values; its hash names the folder.
    shape, dtype :
        Of one value.
    by, retry : str, bool
        What finds failures now: of another version they count for nothing, with ``retry`` of any.
    ignored : sequence of str
        Names of segments that another process has found to be damaged.
    """

    root: Place
    kind: str
    recipe: Mapping[str, object]
    shape: tuple[int, ...]
    dtype: str = "float32"
    by: str = ""
    retry: bool = False
    ignored: Sequence[str] = ()
    hashed: str = field(init=False)
    """Hash of the recipe."""
    folder: Folder = field(init=False)
    _sizes: dict[str, int] = field(init=False)
    """Of all segments in bytes, by name, as far as is known."""
    _segments: dict[str, Segment | None] = field(init=False)
    """By name; ``None`` where the keys are damaged."""
    _blocks: dict[tuple[str, int], NDArray[Any]] = field(init=False)
    _seen: SeenKeys = field(init=False)

    def __post_init__(self) -> None:
        self.hashed = fingerprint(self.recipe)
        self.folder = folder(self.root / recipe_folder(self.kind, self.recipe))
        self._segments = dict.fromkeys(self.ignored)
        self.forget()
        self.refresh()
        self.retry = False

    def forget(self) -> None:
        """Let go of what is in memory, but for what is damaged; :meth:`refresh` looks again."""
        self._segments, self._blocks, self._seen = dict.fromkeys(self.damaged), {}, SeenKeys()

    @property
    def value(self) -> np.dtype[Any]:
        """Type of one value, its shape included."""
        return np.dtype((self.dtype, self.shape))

    @property
    def n_keys(self) -> int:
        """How many values and failures there are, some perhaps twice."""
        return sum(len(segment.row) for segment in self._segments.values() if segment)

    @property
    def _words(self) -> bytes:
        """What the folder says of itself."""
        words = {"palm_cache": FORMAT, "kind": self.kind, "recipe": dict(self.recipe)}
        return json.dumps(words, indent=2).encode()

    @property
    def small(self) -> list[str]:
        """Names of the segments that are worth merging, if there are several."""
        damaged = self.damaged  # of which nothing can be merged
        return [name for name, size in self._sizes.items() if size < self._large and name not in damaged]

    @property
    def _large(self) -> int:
        """Bytes from which on a segment is merged no further."""
        return min(SMALL_BYTES, SMALL_KEYS * (INDEX_BYTES + self.value.itemsize))

    @property
    def damaged(self) -> list[str]:
        """Names of segments whose keys cannot be read: they give nothing."""
        return [name for name, segment in self._segments.items() if segment is None]

    def refresh(self) -> None:
        """Look which segments there are now."""
        sizes = self._files()
        for gone in self._segments.keys() - sizes.keys():
            del self._segments[gone]
        for name, size in sizes.items():
            if name not in self._segments:
                try:
                    self._keep(self._parse(name, size)[0])
                except DamageError:
                    self._segments[name] = None
                except FileNotFoundError:
                    continue  # merged by another process a moment ago

    def _files(self) -> dict[str, int]:
        """Return names and sizes of all segments that there are now, in the order in which they were made."""
        files = sorted(self.folder.files().items())
        self._sizes = {name: size for name, size in files if SEGMENT.fullmatch(name)}
        return self._sizes

    def _parse(self, name: str, size: int, head: bytes = b"") -> tuple[Segment, Keys]:
        return parse(name, size, partial(self.folder.read, name), head)

    def _keep(self, segment: Segment) -> None:
        self._segments[segment.name] = segment
        failed = segment.failures.items()
        segment.forgotten = {row for row, failure in failed if self.retry or failure.by != self.by}
        prefix = segment.prefix
        if segment.forgotten:
            prefix = prefix[~np.isin(segment.row, list(segment.forgotten))]
        self._seen.add(prefix)

    def holds(self, key: bytes) -> bool:
        """Tell quickly, in any thread, whether a key has a value or a failure; it goes by 8 bytes of it."""
        return key in self._seen

    def look_up(self, keys: Keys) -> Lookup:
        """Tell what is known of some keys."""
        parts = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, KEY_BYTES // 8)
        order = np.argsort(parts[:, 0])  # neighbours are looked for one after the other
        prefix, second = parts[order, 0], parts[order, 1]
        where, row = np.full(len(keys), -1, np.int64), np.full(len(keys), -1, np.int64)
        failures: dict[int, RecordedFailure] = {}
        open_ = np.arange(len(keys))
        for number, segment in reversed(list(enumerate(self._segments.values()))):  # the newest first
            if segment is None or not len(open_):
                continue
            positions = segment.find(prefix[open_], second[open_])
            failed = np.isin(positions, list(segment.failures))
            for at in np.flatnonzero(failed):
                if int(positions[at]) not in segment.forgotten:
                    failures.setdefault(int(order[open_[at]]), segment.failures[int(positions[at])])
            here = (positions >= 0) & ~failed
            where[order[open_[here]]], row[order[open_[here]]] = number, positions[here]
            open_ = open_[~here]
        return Lookup(where, row, {at: failure for at, failure in failures.items() if row[at] < 0})

    def take(self, keys: Keys) -> NDArray[Any]:
        """Return the values of keys, shape (n, *shape).

        Raises ``UnknownContentError`` if one is not known, or what held it is damaged and has been dropped.
        """
        known, values = self.take_known(keys)
        if unknown := int((~known).sum()):
            raise UnknownContentError(f"{self.folder.place}: {unknown} contents are not known here")
        return values

    def take_known(self, keys: Keys) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Tell which keys have a value, (n,), and return the values, (n, *shape), zeros where there is none.

        What is damaged is dropped. Raises ``UnknownContentError`` if other processes change everything all
        the time.
        """
        changes = 0
        while changes < MOST_CHANGES:
            found = self.look_up(keys)
            try:
                return found.known, self._values(list(self._segments.values()), found.segment, found.row)
            except FileNotFoundError:  # another process has merged it
                changes += 1
            except DamageError as damage:
                self._drop(str(damage))
            self.refresh()
        raise UnknownContentError(f"{self.folder.place}: other processes change it all the time; try again")

    def _drop(self, name: str) -> None:
        """Keep of a segment with damaged values what is whole, as far as that can be written."""
        with suppress(OSError, PlaceError):  # gone, another user's, or a disk that is full or read-only
            self._merge({name: self._sizes.get(name, 0)})
        self._segments[name] = None  # if it is still there

    def add(
        self, keys: Keys, values: NDArray[Any], failures: Mapping[int, RecordedFailure] | None = None
    ) -> None:
        """Write a segment; raises ``OutputError``.

        Parameters
        ----------
        keys, values : arrays, (n, 32) uint8 and (n, *shape)
        failures : mapping of int to RecordedFailure, optional
            By position; the values there are not looked at.
        """
        if not len(keys):
            return
        with write_errors(self.folder.place, "cache"):
            if not self._sizes:  # or none yet that is known of: the words are the same
                self.folder.write(RECIPE, self._words)
            self._keep(self._write(keys, np.asarray(values).__getitem__, failures or {}))

    def merge(self) -> None:
        """Make few large segments of many small ones, unless another process is at it.

        What processes that were killed have left of files is removed, and a damaged ``recipe.json`` mended.
        All this is tidying up: where nothing can be written, everything stays as it is.
        """
        clear_left_behind(self.folder, is_cache_file)
        if self._sizes and self.folder.is_near:  # far away it would be one more request
            with suppress(OSError):
                self._mend_words()
        if len(self.small) > 1:
            with suppress(OSError, PlaceError), self.folder.alone("merge") as alone:
                if alone:
                    self._merge_small()
            if self._segments:
                self.refresh()

    def _merge_small(self) -> None:
        self._files()  # others may have merged by now
        group: dict[str, int] = {}
        for name in self.small:
            group[name] = self._sizes[name]
            if sum(group.values()) >= self._large:
                self._merge(group)
                group = {}
        if len(group) > 1:
            self._merge(group)

    def _mend_words(self) -> None:
        try:
            whole = self.folder.read(RECIPE) == self._words
        except FileNotFoundError:
            whole = False
        if not whole:
            self.folder.write(RECIPE, self._words)

    def _write(
        self, keys: Keys, values: Callable[[slice], NDArray[Any]], failures: Mapping[int, RecordedFailure]
    ) -> Segment:
        name = new_name()
        with self.folder.replacing(name) as path, path.open("wb") as file:
            head = write(file, self.hashed, keys, values, self.value, failures)
            self._sizes[name] = size = file.tell()
        return self._parse(name, size, head)[0]

    def _values(
        self, segments: Sequence[Segment | None], number: NDArray[np.int64], row: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return the values in rows of segments, (n, *shape); zeros where the number of the segment is -1."""
        values = np.zeros((len(row), *self.shape), self.dtype)
        for each in np.unique(number[number >= 0]).tolist():
            segment = segments[each]
            assert segment is not None
            mine = np.flatnonzero(number == each)
            blocks = row[mine] // segment.block_rows
            for block in np.unique(blocks).tolist():
                at = mine[blocks == block]
                values[at] = self._block(segment, block)[row[at] % segment.block_rows]
        return values

    def _block(self, segment: Segment, number: int) -> NDArray[Any]:
        """Read a block of values, checked."""
        block = self._blocks.get((segment.name, number))
        if block is None:
            if segment.row_bytes != self.value.itemsize:
                raise DamageError(segment.name)
            block = np.frombuffer(segment.block(number), self.dtype).reshape(-1, *self.shape)
            while len(self._blocks) >= BLOCKS_HELD:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[segment.name, number] = block
        return block

    def _merge(self, sizes: dict[str, int]) -> None:
        """Put what is whole of some segments into a new one, and remove them.

        Of a content that is there twice the newest value is taken, and any value before a failure.
        """
        segments: list[Segment] = []
        reasons: list[RecordedFailure] = []
        valued, failed = [], []
        for name in reversed(sizes):
            try:
                segment, keys = self._parse(name, sizes[name])
            except (DamageError, FileNotFoundError):
                continue
            by_row = keys[np.argsort(segment.row)]
            whole, without = self._whole_rows(segment), np.array(list(segment.failures), np.int64)
            valued.append((by_row[whole], np.full(len(whole), len(segments)), whole))
            failed.append((by_row[without], np.full(len(without), -1), without))
            reasons += segment.failures.values()
            segments.append(segment)
        if not segments:
            return
        keys, number, row = (np.concatenate(parts) for parts in zip(*valued, *failed, strict=True))
        _, first = np.unique(keys.view(f"V{KEY_BYTES}").ravel(), return_index=True)
        first.sort()  # values as they were made, and behind them what has failed
        n_values = len(row) - len(reasons)
        failures = {at: reasons[one - n_values] for at, one in enumerate(first.tolist()) if one >= n_values}
        keys, number, row = keys[first], number[first], row[first]
        if len(first):
            self._write(keys, lambda some: self._values(segments, number[some], row[some]), failures)
        self.folder.remove([segment.name for segment in segments])

    def _whole_rows(self, segment: Segment) -> NDArray[np.int64]:
        """Return the rows of a segment that have a value which can be read, in their order."""
        rows = np.setdiff1d(np.arange(len(segment.row)), list(segment.failures))
        whole = []
        for number in np.unique(rows // segment.block_rows).tolist():
            with suppress(DamageError):
                self._block(segment, number)
                whole.append(number)
        return rows[np.isin(rows // segment.block_rows, whole)]
