"""The files of the cache: what a segment holds and how its bytes lie.

A safetensors file of five tensors: ``prefix`` (n,) and ``rest`` (n, 3), the keys, sorted by their first 8
bytes; ``row`` (n,), where each one's value lies; ``values`` (n, ...), in the order in which they were made;
``checksums``, a CRC-32C of every block of values. Its metadata hold the failures, the rows of a block and a
checksum of all but the values.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil, prod
from typing import Any, BinaryIO

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from palm_cache.store.atomic import parse_json

FORMAT = "palm-cache segment 1"

SEGMENT = re.compile(r"\d{20}-[0-9a-f]{8}\.safetensors")
"""Name of a segment: when it was made, and something of its own."""

KEY_BYTES = 32

INDEX_BYTES = KEY_BYTES + 8
"""Of a key and its row."""

BLOCK_BYTES = 1 << 20
"""Bytes of values, about, that share a checksum and are read at once."""

DTYPES = {"float32": "F32", "uint8": "U8"}
"""What safetensors calls the types of values that there are."""

Keys = NDArray[np.uint8]
"""(n, 32): hashes, one a row."""

HEAD_BYTES = 1 << 16
"""Read of a segment first: most hold their keys in it."""

Read = Callable[[int, int], bytes]
"""From first and last byte of a segment to what is between."""


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
    read: Read
    prefix: NDArray[np.uint64]
    """(n,) first 8 bytes of every key, sorted."""
    second: NDArray[np.uint64]
    """(n,) the next 8: 16 bytes of a hash tell all contents apart that there will ever be."""
    row: NDArray[np.uint32]
    """(n,) where its value lies."""
    failures: dict[int, RecordedFailure]
    """By row: those have no value."""
    values_at: int
    """Byte at which the values begin."""
    checksums_at: int
    row_bytes: int
    """Of a value."""
    block_rows: int
    """Values that share a checksum."""
    forgotten: set[int] = field(default_factory=set)
    """Rows of failures that count for nothing: they are to be tried again."""
    checksums: NDArray[np.uint32] | None = None
    """Of every block; read when a value is."""

    def find(self, prefix: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of every key, -1 where it is not here."""
        positions = np.full(len(prefix), -1, np.int64)
        candidate = np.searchsorted(self.prefix, prefix)
        open_ = np.arange(len(prefix))
        while len(open_):
            open_ = open_[candidate[open_] < len(self.prefix)]
            open_ = open_[self.prefix[candidate[open_]] == prefix[open_]]
            same = self.second[candidate[open_]] == second[open_]
            positions[open_[same]] = self.row[candidate[open_[same]]]
            # Another key with the same 8 bytes: a miracle, but no reason to be wrong.
            open_ = open_[~same]
            candidate[open_] += 1
        return positions

    def block(self, number: int) -> bytes:
        """Read a block of values; raises ``DamageError`` if it fails its checksum."""
        if self.checksums is None:
            count = ceil(len(self.row) / self.block_rows)
            content = self.read(self.checksums_at, self.checksums_at + 4 * count)
            if len(content) != 4 * count:
                raise DamageError(self.name)
            self.checksums = np.frombuffer(content, "<u4")
        rows = number * self.block_rows, min((number + 1) * self.block_rows, len(self.row))
        content = self.read(*(self.values_at + row * self.row_bytes for row in rows))
        if crc32c(content) != self.checksums[number]:
            raise DamageError(self.name)
        return content


def write(
    file: BinaryIO,
    recipe: str,
    keys: Keys,
    values: Callable[[slice], NDArray[Any]],
    value: np.dtype[Any],
    failures: Mapping[int, RecordedFailure],
) -> bytes:
    """Write a segment, whose values are asked for block by block; return its head, all before its values.

    safetensors' own writer would hold them all, and a copy: 150 MB where segments are merged.

    Parameters
    ----------
    recipe : str
        Hash of the recipe.
    keys : (n, 32) uint8
        At least one.
    values, value : callable, dtype
        From some positions to their values; the type of one, its shape included.
    failures : mapping of int to RecordedFailure
        By position; the values there mean nothing.
    """
    count, block_rows = len(keys), max(1, BLOCK_BYTES // value.itemsize)
    blocks = [slice(at, min(at + block_rows, count)) for at in range(0, count, block_rows)]
    parts = np.ascontiguousarray(keys).view("<u8").reshape(-1, KEY_BYTES // 8)
    row = np.argsort(parts[:, 0], kind="stable")
    index = b"".join(part.tobytes() for part in (parts[row, 0], parts[row, 1:], row.astype("<u8")))
    reasons = json.dumps({str(at): [failure.reason, failure.by] for at, failure in sorted(failures.items())})
    about = {
        "format": FORMAT,
        "recipe": recipe,
        "block_rows": str(block_rows),
        "failures": reasons,
        "index_crc32c": str(crc32c(reasons.encode() + index)),
    }
    header: dict[str, object] = {"__metadata__": about}
    end = 0
    for name, dtype, shape in (
        ("prefix", "U64", [count]),
        ("rest", "U64", [count, 3]),
        ("row", "U64", [count]),
        ("values", DTYPES[value.base.name], [count, *value.shape]),
        ("checksums", "U32", [len(blocks)]),
    ):
        begin, end = end, end + prod(shape) * int(dtype[1:]) // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    words = json.dumps(header, separators=(",", ":")).encode()
    words = words.ljust(-(-len(words) // 8) * 8)
    head = len(words).to_bytes(8, "little") + words + index
    file.write(head)
    checksums = []
    for block in blocks:
        content = np.ascontiguousarray(values(block), value.base.newbyteorder("<")).tobytes()
        checksums.append(crc32c(content))
        file.write(content)
    file.write(np.array(checksums, "<u4").tobytes())
    return head


def parse(name: str, size: int, read: Read, head: bytes = b"") -> tuple[Segment, Keys]:
    """Read the head of a segment, everything but its values; also return its keys, in the order of ``row``.

    Of a file of ``size`` bytes ``head`` has been read already. Raises ``DamageError`` if it fails its
    checksum, or is no segment.
    """
    head = head or read(0, HEAD_BYTES)
    try:
        start = 8 + int.from_bytes(head[:8], "little")
        if start > size:
            raise ValueError("it ends in its header")
        if len(head) < start:
            head += read(len(head), start)
        header = parse_json(head[8:start])
        about, n_rows = header["__metadata__"], int(header["row"]["shape"][0])
        end = start + n_rows * INDEX_BYTES
        begins = {part: start + int(header[part]["data_offsets"][0]) for part in ("values", "checksums")}
        if not (start < end <= size and all(end <= at <= size for at in begins.values())):
            raise ValueError("it ends before what it holds")
        if len(head) < end:
            head += read(len(head), end)
        index, reasons, block_rows = head[start:end], about["failures"], int(about["block_rows"])
        if crc32c(reasons.encode() + index) != int(about["index_crc32c"]) or block_rows < 1:
            raise ValueError("its checksum fails")
        failures = {int(at): RecordedFailure(*why) for at, why in parse_json(reasons).items()}
        row_bytes = (start + int(header["values"]["data_offsets"][1]) - begins["values"]) // n_rows
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise DamageError(name) from error
    if len(head) >= size:  # all of it is here
        read = partial(_part, head)
    numbers = np.frombuffer(index, "<u8")
    prefix, rest = numbers[:n_rows], numbers[n_rows : 4 * n_rows].reshape(-1, 3)
    row = numbers[4 * n_rows :].astype(np.uint32)
    places = begins["values"], begins["checksums"]
    segment = Segment(
        name, size, read, prefix.copy(), rest[:, 0].copy(), row, failures, *places, row_bytes, block_rows
    )
    return segment, np.column_stack([prefix, rest]).view(np.uint8)


def _part(content: bytes, start: int, stop: int) -> bytes:
    return content[start:stop]


def new_name() -> str:
    """Return the name of a segment that is made now."""
    return f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.safetensors"
