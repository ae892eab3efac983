"""What a recipe knows: values of contents, by their hash, in immutable segments.

::

    CACHE/<kind>-<recipe>/recipe.json              what decides the values, in words
    CACHE/<kind>-<recipe>/<time>-<id>.safetensors  a segment

A segment is a safetensors file: the hashes of its contents, sorted, where each one's value lies, and the
values in the order in which they were made. It appears whole or not at all, carries checksums and is never
changed. So any number of processes on any number of machines write without a lock; two that make the same
value do no harm; a segment that is damaged gives what is whole of it. Looking contents up costs the memory of
their hashes, not of their values.

There are three kinds: ``audio`` (a clip's embeddings), ``text`` (a prompt's) and ``files`` (the content hash
of a file whose path, size and times are known).
"""

from __future__ import annotations

import json
import re
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from palm_cache.errors import StoreError
from palm_cache.store.files import write_errors
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.places import Folder, folder
from palm_cache.types import Place

FORMAT = "palm-cache segment 1"

RECIPE = "recipe.json"

SEGMENT = re.compile(r"\d{20}-[0-9a-f]{8}\.safetensors")
"""Name of a segment: when it was made, and something of its own."""

KEY_BYTES = 32

BLOCK_BYTES = 1 << 20
"""Bytes of values, about, that share a checksum and are read at once."""

SMALL_BYTES = 64 << 20
"""Segments below this are merged, into ones of about twice the size."""

RECENT_KEYS = 50_000
"""Keys that are kept in a set before they are sorted in: memory against time."""

BLOCKS_HELD = 32
"""Blocks that are kept in memory after reading: values that were made together are read together."""

Keys = NDArray[np.uint8]
"""(n, 32): hashes, one a row."""


class UnknownContentError(StoreError):
    """A value is asked for that is not known, or no longer: another process has merged or dropped it."""


class _DamageError(Exception):
    """Bytes of a segment fail their checksum."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a content has no value."""

    reason: str
    by: str
    """What found that out: another version of it may succeed."""


@dataclass(slots=True)
class _Segment:
    """What is in memory of a segment."""

    name: str
    size: int
    """Bytes of the file."""
    prefix: NDArray[np.uint64]
    """(n,) first 8 bytes of every key, sorted."""
    rest: NDArray[np.uint64]
    """(n, 3) the others."""
    row: NDArray[np.uint64]
    """(n,) where its value lies."""
    failures: dict[int, Failure]
    """By row: those have no value."""
    forgotten: set[int]
    """Rows of failures that count for nothing: they are to be tried again."""
    values_at: int
    """Byte at which the values begin."""
    block_rows: int
    checksums: NDArray[np.uint32] | None = None
    """Of every block; read when a value is."""

    @property
    def keys(self) -> Keys:
        """All keys, in their order."""
        return np.column_stack([self.prefix, self.rest]).view(np.uint8)

    def find(self, prefix: NDArray[np.uint64], rest: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of every key, -1 where it is not here."""
        found = np.full(len(prefix), -1, np.int64)
        if not len(self.prefix):
            return found
        place = np.searchsorted(self.prefix, prefix)
        open_ = np.flatnonzero(self.prefix[np.minimum(place, len(self.prefix) - 1)] == prefix)
        while len(open_):
            at = place[open_]
            same = (self.rest[at] == rest[open_]).all(axis=1)
            found[open_[same]] = self.row[at[same]]
            # Another key with the same 8 bytes: a miracle, but no reason to be wrong.
            open_ = open_[~same]
            place[open_] += 1
            open_ = open_[place[open_] < len(self.prefix)]
            open_ = open_[self.prefix[place[open_]] == prefix[open_]]
        return found


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of some keys."""

    known: NDArray[np.bool_]
    """(n,) whether there is a value."""
    failures: dict[int, Failure]
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
    _segments: dict[str, _Segment | None] = field(init=False, default_factory=dict)
    """By name; ``None`` where the keys are damaged."""
    _blocks: dict[tuple[str, int], NDArray[Any]] = field(init=False, default_factory=dict)
    _prefixes: NDArray[np.uint64] = field(init=False, default_factory=lambda: np.empty(0, np.uint64))
    """First 8 bytes of all keys, sorted, but for the recent ones."""
    _recent: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.folder = folder(self.root / f"{self.kind}-{fingerprint(self.recipe)[:32]}")
        self.refresh()
        self.retry = False

    @property
    def n_small(self) -> int:
        """How many segments are worth merging."""
        return sum(1 for one in self._segments.values() if one and one.size < SMALL_BYTES)

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
                    self._keep(self._parse(name, sizes[name], partial(self.folder.read, name)))
                except _DamageError:
                    self._segments[name] = None
                except FileNotFoundError:
                    continue  # merged by another process a moment ago

    def _keep(self, segment: _Segment) -> None:
        self._segments[segment.name] = segment
        prefix = segment.prefix
        if segment.forgotten:
            prefix = prefix[~np.isin(segment.row, list(segment.forgotten))]
        self._recent.update(prefix.tolist())
        if len(self._recent) > RECENT_KEYS:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._prefixes = np.sort(np.concatenate([self._prefixes, recent]))
            self._recent = set()

    def holds(self, key: bytes) -> bool:
        """Tell quickly, in any thread, whether a key has a value or a failure; it goes by 8 bytes of it."""
        (prefix,) = struct.unpack_from("<Q", key)
        if prefix in self._recent:
            return True
        prefixes = self._prefixes
        at = prefixes.searchsorted(np.uint64(prefix))
        return bool(at < len(prefixes) and prefixes[at] == prefix)

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
            except _DamageError as damage:
                with suppress(FileNotFoundError):  # another process has found it too
                    self._merge([str(damage)])
                self.refresh()
        raise UnknownContentError(f"{self.folder.place}: other processes change it all the time; try again")

    def add(self, keys: Keys, values: NDArray[Any], failures: Mapping[int, Failure] | None = None) -> None:
        """Write a segment.

        Parameters
        ----------
        keys : (n, 32) uint8
        values : (n, *shape)
        failures : mapping of int to Failure, optional
            By position; the values there are not looked at.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if not len(keys):
            return
        values = np.ascontiguousarray(values, self.dtype)
        blocks = (values[at : at + self._block_rows] for at in range(0, len(values), self._block_rows))
        name, content = _new_name(), b"".join(self._encode(keys, failures or {}, blocks))
        with write_errors(self.folder.place, "--cache"):
            self._describe()
            self.folder.write(name, content)
        self._keep(self._parse(name, len(content), lambda start, stop: content[start:stop]))

    def merge(self) -> None:
        """Make few large segments of many small ones, unless another process is at it.

        Raises
        ------
        OutputError
            If that cannot be written; nothing is lost then.
        """
        if self.n_small < 2:
            return
        with write_errors(self.folder.place, "--cache"), self.folder.alone("merge") as alone:
            if not alone:
                return
            self.refresh()  # another process may have merged a moment ago
            small = [name for name, one in self._segments.items() if one and one.size < SMALL_BYTES]
            group: list[str] = []
            for name in [*small, ""]:
                full = sum(self._sizes(group)) >= SMALL_BYTES
                if len(group) > 1 and (full or not name):
                    self._merge(group)
                if full:
                    group = []
                group.append(name)
        self.refresh()

    def entries(self) -> Iterator[tuple[Keys, dict[int, Failure], int]]:
        """Yield keys, failures by row and bytes of every segment."""
        for segment in self._segments.values():
            if segment is not None:
                yield segment.keys, segment.failures, segment.size

    @property
    def _block_rows(self) -> int:
        return max(1, BLOCK_BYTES // self._row_bytes)

    @property
    def _row_bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def _sizes(self, names: Sequence[str]) -> list[int]:
        return [segment.size for name in names if (segment := self._segments.get(name))]

    def _locate(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, Failure]]:
        """Return the number of the segment and the row of every key, -1 where there is no value; failures."""
        parts = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, KEY_BYTES // 8)
        order = np.argsort(parts[:, 0])  # neighbours are looked for one after the other
        prefix, rest = parts[order, 0], parts[order, 1:]
        where, row = np.full(len(keys), -1, np.int64), np.full(len(keys), -1, np.int64)
        failures: dict[int, Failure] = {}
        open_ = np.arange(len(keys))
        for number, segment in reversed(list(enumerate(self._segments.values()))):  # the newest first
            if segment is None or not len(open_):
                continue
            found = segment.find(prefix[open_], rest[open_])
            failed = (
                np.isin(found, list(segment.failures)) if segment.failures else np.zeros(len(found), bool)
            )
            for at in np.flatnonzero(failed):
                if int(found[at]) not in segment.forgotten:
                    failures.setdefault(int(order[open_[at]]), segment.failures[int(found[at])])
            here = (found >= 0) & ~failed
            where[order[open_[here]]], row[order[open_[here]]] = number, found[here]
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
            for one in np.unique(block).tolist():
                at = mine[block == one]
                values[at] = self._block(segment, one)[row[at] % segment.block_rows]
        return values

    def _block(self, segment: _Segment, number: int) -> NDArray[Any]:
        """Read a block of values, checked."""
        kept = self._blocks.get((segment.name, number))
        if kept is not None:
            return kept
        if segment.checksums is None:
            ends = segment.values_at + len(segment.row) * self._row_bytes
            count = ceil(len(segment.row) / segment.block_rows)
            content = self.folder.read(segment.name, ends, ends + 4 * count)
            if len(content) != 4 * count:
                raise _DamageError(segment.name)
            segment.checksums = np.frombuffer(content, np.uint32)
        start = number * segment.block_rows
        stop = min(start + segment.block_rows, len(segment.row))
        at = [segment.values_at + row * self._row_bytes for row in (start, stop)]
        content = self.folder.read(segment.name, *at)
        if len(content) != at[1] - at[0] or crc32c(content) != segment.checksums[number]:
            raise _DamageError(segment.name)
        block = np.frombuffer(content, self.dtype).reshape(-1, *self.shape)
        while len(self._blocks) >= BLOCKS_HELD:
            self._blocks.pop(next(iter(self._blocks)))
        self._blocks[segment.name, number] = block
        return block

    def _merge(self, names: Sequence[str]) -> None:
        """Put what is whole of some segments into a new one, and remove them.

        Of a content that is there twice the newest value is taken, and any value before a failure.
        """
        segments = [segment for name in names if (segment := self._segments.get(name))]
        intact: list[tuple[_Segment, NDArray[np.int64]]] = []
        """Rows with a value that can be read, by segment, in their order."""
        for segment in segments:
            rows = np.setdiff1d(np.arange(len(segment.row)), list(segment.failures))
            whole = [
                number
                for number in np.unique(rows // segment.block_rows).tolist()
                if self._whole(segment, number)
            ]
            intact.append((segment, rows[np.isin(rows // segment.block_rows, whole)]))
        keys, failures, kept = _join(intact, segments)
        with self.folder.workspace() as work:
            built = Path(work, "merged")
            with built.open("wb") as file:
                file.writelines(self._encode(keys, failures, self._gather(kept, len(failures))))
            if len(keys):
                self.folder.put(_new_name(), built)
        self.folder.remove([segment.name for segment in segments])

    def _whole(self, segment: _Segment, number: int) -> bool:
        try:
            self._block(segment, number)
        except _DamageError:
            return False
        return True

    def _gather(
        self, kept: Sequence[tuple[_Segment, NDArray[np.int64]]], n_failed: int
    ) -> Iterator[NDArray[Any]]:
        """Yield the values of rows of segments in blocks, and zeros for those that have none."""
        waiting = np.empty((0, *self.shape), self.dtype)

        def pieces() -> Iterator[NDArray[Any]]:
            for segment, rows in kept:
                for number in np.unique(rows // segment.block_rows).tolist():
                    mine = rows[rows // segment.block_rows == number]
                    yield self._block(segment, number)[mine % segment.block_rows]
            for start in range(0, n_failed, self._block_rows):
                yield np.zeros((min(self._block_rows, n_failed - start), *self.shape), self.dtype)

        for piece in pieces():
            waiting = np.concatenate([waiting, piece])
            while len(waiting) >= self._block_rows:
                yield waiting[: self._block_rows]
                waiting = waiting[self._block_rows :]
        if len(waiting):
            yield waiting

    def _encode(
        self, keys: Keys, failures: Mapping[int, Failure], blocks: Iterator[NDArray[Any]]
    ) -> Iterator[bytes]:
        """Yield the bytes of a segment; values are given block by block."""
        n_rows = len(keys)
        parts = np.ascontiguousarray(keys).view("<u8").reshape(n_rows, KEY_BYTES // 8)
        row = np.argsort(parts[:, 0], kind="stable")
        index = b"".join(
            np.ascontiguousarray(part).tobytes()
            for part in (parts[row, 0], parts[row, 1:], row.astype("<u8"))
        )
        reasons = json.dumps({str(at): [one.reason, one.by] for at, one in sorted(failures.items())})
        count = ceil(n_rows / self._block_rows)
        tensors = {
            "prefix": ("U64", (n_rows,), 8),
            "rest": ("U64", (n_rows, 3), 24),
            "row": ("U64", (n_rows,), 8),
            "values": (_DTYPES[self.dtype], (n_rows, *self.shape), self._row_bytes),
            "checksums": ("U32", (count,), 4),
        }
        header: dict[str, object] = {
            "__metadata__": {
                "format": FORMAT,
                "recipe": fingerprint(self.recipe),
                "block_rows": str(self._block_rows),
                "failures": reasons,
                "index_crc32c": str(crc32c(reasons.encode() + index)),
            }
        }
        at = 0
        for name, (dtype, shape, row_bytes) in tensors.items():
            size = shape[0] * row_bytes
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        content = json.dumps(header).encode()
        content += b" " * (-len(content) % 8)
        yield struct.pack("<Q", len(content)) + content + index
        checksums = []
        for block in blocks:
            checksums.append(crc32c(block.tobytes()))
            yield block.tobytes()
        yield np.array(checksums, "<u4").tobytes()

    def _parse(self, name: str, size: int, read: Callable[[int, int], bytes]) -> _Segment:
        """Read the head of a segment, everything but its values, by a function from first to last byte."""
        head = read(0, HEAD_BYTES)
        try:
            (length,) = struct.unpack("<Q", head[:8])
            if length > size:
                raise _DamageError(name)
            if len(head) < 8 + length:
                head = read(0, 8 + length)
            header = json.loads(head[8 : 8 + length])
            about = header["__metadata__"]
            values = header["values"]
            n_rows = int(values["shape"][0])
            index_bytes = n_rows * (KEY_BYTES + 8)
            wanted = [n_rows, *self.shape]
            if values["shape"] != wanted or values["dtype"] != _DTYPES[self.dtype] or index_bytes > size:
                raise _DamageError(name)
            start = 8 + length
            index = head[start : start + index_bytes]
            if len(index) < index_bytes:
                index += read(start + len(index), start + index_bytes)
            reasons, block_rows = about["failures"], int(about["block_rows"])
            if crc32c(reasons.encode() + index) != int(about["index_crc32c"]) or block_rows < 1:
                raise _DamageError(name)
            failures = {int(at): Failure(*why) for at, why in json.loads(reasons).items()}
            forgotten = {at for at, one in failures.items() if self.retry or one.by != self.by}
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise _DamageError(name) from error
        numbers = np.frombuffer(index, "<u8")
        prefix, rest, row = numbers[:n_rows], numbers[n_rows : 4 * n_rows], numbers[4 * n_rows :]
        return _Segment(
            name, size, prefix, rest.reshape(-1, 3), row, failures, forgotten, start + index_bytes, block_rows
        )

    def _describe(self) -> None:
        """Say in words what the folder is for, once."""
        if not self._segments:
            with suppress(FileNotFoundError):
                self.folder.read(RECIPE)
                return
            words = {"palm_cache": FORMAT, "kind": self.kind, "recipe": dict(self.recipe)}
            self.folder.write(RECIPE, json.dumps(words, indent=2).encode())


HEAD_BYTES = 1 << 16
"""Read of a segment first: most hold their keys in it."""

_DTYPES = {"float32": "F32", "uint8": "U8"}
"""safetensors' names."""


def _new_name() -> str:
    return f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.safetensors"


def _join(
    intact: Sequence[tuple[_Segment, NDArray[np.int64]]], segments: Sequence[_Segment]
) -> tuple[Keys, dict[int, Failure], list[tuple[_Segment, NDArray[np.int64]]]]:
    """Return the keys of segments once each, those that failed last, and which rows have a value."""
    by_row = {segment.name: segment.keys[np.argsort(segment.row)] for segment in segments}
    newest_first = [by_row[segment.name][rows] for segment, rows in reversed(intact)]
    together = np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *newest_first])
    _, first = np.unique(together.view(f"V{KEY_BYTES}").ravel(), return_index=True)
    fresh = np.zeros(len(together), bool)
    fresh[first] = True
    kept: list[tuple[_Segment, NDArray[np.int64]]] = []
    for segment, rows in reversed(intact):
        mine, fresh = fresh[: len(rows)], fresh[len(rows) :]
        kept.insert(0, (segment, rows[mine]))
    keys = [by_row[segment.name][rows] for segment, rows in kept]
    known = {key.tobytes() for key in together} if any(one.failures for one in segments) else set()
    failed = {
        key: failure
        for segment in segments
        for row, failure in segment.failures.items()
        if (key := by_row[segment.name][row].tobytes()) not in known
    }
    n_values = len(first)
    failures = {n_values + at: failure for at, failure in enumerate(failed.values())}
    failed_keys = np.frombuffer(b"".join(failed), np.uint8).reshape(-1, KEY_BYTES)
    return np.concatenate([together[:0], *keys, failed_keys]), failures, kept
