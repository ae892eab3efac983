"""The files of the cache: what a segment holds and how its bytes lie.

A safetensors file of five tensors: ``prefix`` (n,) and ``rest`` (n, 3), the keys, sorted by their first 8
bytes; ``row`` (n,), where each one's value lies; ``values`` (n, ...), in the order in which they were made;
``checksums``, a CRC-32C of every block of values. Its metadata hold the failures, the rows of a block and a
checksum of all but the values.
"""

from __future__ import annotations

import json
import re
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from palm_cache.store.atomic import parse_json

FORMAT = "palm-cache segment 1"

SEGMENT = re.compile(r"\d{20}-[0-9a-f]{8}\.safetensors")
"""Name of a segment: when it was made, and something of its own."""

KEY_BYTES = 32

BLOCK_BYTES = 1 << 20
"""Bytes of values, about, that share a checksum and are read at once."""

Keys = NDArray[np.uint8]
"""(n, 32): hashes, one a row."""

HEAD_BYTES = 1 << 16
"""Read of a segment first: most hold their keys in it."""

DTYPES = {"float32": "F32", "uint8": "U8"}
"""safetensors' names."""


class DamageError(Exception):
    """Bytes of a segment fail their checksum."""


@dataclass(frozen=True, slots=True)
class RecordedFailure:
    """Why a content has no value."""

    reason: str
    by: str
    """What found that out: another version of it may succeed."""


@dataclass(slots=True)
class Segment:
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
    failures: dict[int, RecordedFailure]
    """By row: those have no value."""
    forgotten: set[int]
    """Rows of failures that count for nothing: they are to be tried again."""
    values_at: int
    """Byte at which the values begin."""
    block_rows: int
    tail: bytes = b""
    """Values and checksums of a small segment, which were read with the keys."""
    checksums: NDArray[np.uint32] | None = None
    """Of every block; read when a value is."""

    @property
    def keys(self) -> Keys:
        """All keys, in their order."""
        return np.column_stack([self.prefix, self.rest]).view(np.uint8)

    def find(self, prefix: NDArray[np.uint64], rest: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of every key, -1 where it is not here."""
        positions = np.full(len(prefix), -1, np.int64)
        if not len(self.prefix):
            return positions
        candidate = np.searchsorted(self.prefix, prefix)
        open_ = np.flatnonzero(self.prefix[np.minimum(candidate, len(self.prefix) - 1)] == prefix)
        while len(open_):
            at = candidate[open_]
            same = (self.rest[at] == rest[open_]).all(axis=1)
            positions[open_[same]] = self.row[at[same]]
            # Another key with the same 8 bytes: a miracle, but no reason to be wrong.
            open_ = open_[~same]
            candidate[open_] += 1
            open_ = open_[candidate[open_] < len(self.prefix)]
            open_ = open_[self.prefix[candidate[open_]] == prefix[open_]]
        return positions


@dataclass(frozen=True, slots=True)
class Form:
    """What the values of a recipe look like."""

    recipe: str
    """Hash of the recipe."""
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a value."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def block_rows(self) -> int:
        """Values that share a checksum."""
        return max(1, BLOCK_BYTES // self.row_bytes)


def encode(
    form: Form, keys: Keys, failures: Mapping[int, RecordedFailure], blocks: Iterator[NDArray[Any]]
) -> Iterator[bytes]:
    """Yield the bytes of a segment.

    Parameters
    ----------
    blocks : iterator of arrays
        The values, ``form.block_rows`` each, the last what is left.
    """
    n_rows = len(keys)
    parts = np.ascontiguousarray(keys).view("<u8").reshape(n_rows, KEY_BYTES // 8)
    row = np.argsort(parts[:, 0], kind="stable")
    index = b"".join(
        np.ascontiguousarray(part).tobytes() for part in (parts[row, 0], parts[row, 1:], row.astype("<u8"))
    )
    reasons = json.dumps({str(at): [failure.reason, failure.by] for at, failure in sorted(failures.items())})
    count = ceil(n_rows / form.block_rows)
    tensors = {
        "prefix": ("U64", (n_rows,), 8),
        "rest": ("U64", (n_rows, 3), 24),
        "row": ("U64", (n_rows,), 8),
        "values": (DTYPES[form.dtype], (n_rows, *form.shape), form.row_bytes),
        "checksums": ("U32", (count,), 4),
    }
    header: dict[str, object] = {
        "__metadata__": {
            "format": FORMAT,
            "recipe": form.recipe,
            "block_rows": str(form.block_rows),
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


def parse(
    form: Form,
    name: str,
    size: int,
    read: Callable[[int, int], bytes],
    forgets: Callable[[RecordedFailure], bool],
) -> Segment:
    """Read the head of a segment: everything but its values.

    Parameters
    ----------
    size : int
        Bytes of the file.
    read : callable
        From first and last byte to what is between.
    forgets : callable
        Says which failures count for nothing.

    Raises
    ------
    DamageError
        If it fails its checksum, or is not of this form.
    """
    head = read(0, HEAD_BYTES)
    try:
        (length,) = struct.unpack("<Q", head[:8])
        if length > size:
            raise DamageError(name)
        if len(head) < 8 + length:
            head = read(0, 8 + length)
        header = parse_json(head[8 : 8 + length])
        about = header["__metadata__"]
        values = header["values"]
        n_rows = int(values["shape"][0])
        index_bytes = n_rows * (KEY_BYTES + 8)
        wanted = [n_rows, *form.shape]
        if values["shape"] != wanted or values["dtype"] != DTYPES[form.dtype] or index_bytes > size:
            raise DamageError(name)
        start = 8 + length
        index = head[start : start + index_bytes]
        if len(index) < index_bytes:
            index += read(start + len(index), start + index_bytes)
        reasons, block_rows = about["failures"], int(about["block_rows"])
        if crc32c(reasons.encode() + index) != int(about["index_crc32c"]) or block_rows < 1:
            raise DamageError(name)
        failures = {int(at): RecordedFailure(*why) for at, why in parse_json(reasons).items()}
        forgotten = {at for at, failure in failures.items() if forgets(failure)}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise DamageError(name) from error
    tail = head[start + index_bytes :] if len(head) == size else b""
    numbers = np.frombuffer(index, "<u8")
    prefix, rest, row = numbers[:n_rows], numbers[n_rows : 4 * n_rows], numbers[4 * n_rows :]
    rest, values_at = rest.reshape(-1, 3), start + index_bytes
    return Segment(name, size, prefix, rest, row, failures, forgotten, values_at, block_rows, tail)


def join(
    intact: Sequence[tuple[Segment, NDArray[np.int64]]], segments: Sequence[Segment]
) -> tuple[Keys, dict[int, RecordedFailure], list[tuple[Segment, NDArray[np.int64]]]]:
    """Return the keys of segments once each, those that failed last, and which rows have a value."""
    by_row = {segment.name: segment.keys[np.argsort(segment.row)] for segment in segments}
    newest_first = [by_row[segment.name][rows] for segment, rows in reversed(intact)]
    together = np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *newest_first])
    _, first = np.unique(together.view(f"V{KEY_BYTES}").ravel(), return_index=True)
    fresh = np.zeros(len(together), bool)
    fresh[first] = True
    kept: list[tuple[Segment, NDArray[np.int64]]] = []
    for segment, rows in reversed(intact):
        mine, fresh = fresh[: len(rows)], fresh[len(rows) :]
        kept.insert(0, (segment, rows[mine]))
    keys = [by_row[segment.name][rows] for segment, rows in kept]
    known = {key.tobytes() for key in together} if any(segment.failures for segment in segments) else set()
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


def new_name() -> str:
    """Return the name of a segment that is made now."""
    return f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.safetensors"
