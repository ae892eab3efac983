"""HDF5 files that appear whole or not at all, carry a seal, and are not trusted when they are read.

The seal is the hash of a file's bytes, in the block before them that HDF5 leaves to its users: it tells any
change before HDF5 looks at it. Files are made and read in memory, or through one of Python's, because HDF5
itself does not survive a full disk, and waits for ever at a pipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO, FileIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from palm_cache.store.atomic import replacing

if TYPE_CHECKING:
    from torch import Tensor

DAMAGE = (
    *(OSError, LookupError, ValueError, TypeError, AttributeError),
    *(RuntimeError, ArithmeticError, MemoryError),
)
"""What reading raises where bytes are not what they were, or never were what they should be."""

DIGEST = "sha256"
"""The attribute that holds a group's own hash; see :func:`digest`."""

_NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
"""Types of arrays that are read; h5py keeps bool as an enumeration."""

_BLOCK = 512
"""Bytes before HDF5's own."""

_SEAL = b"palm-cache, sha256 of all behind this block: "


@contextmanager
def writing(path: Path, *, edit: bool = False) -> Iterator[h5py.File]:
    """Give an HDF5 file in memory and write it, sealed, when the block succeeds.

    With ``edit`` it is the file that is there, to be changed: one that bears no seal gets none, and an
    ``OSError`` says that it cannot be read. An ``OutputError`` says that it cannot be written.
    """
    buffer = BytesIO(_content(path) if edit else b"")
    # Of this format on HDF5 keeps checksums of what holds a file together.
    new: dict[str, Any] = {"userblock_size": _BLOCK, "libver": ("v110", "v110")}
    with h5py.File(buffer, "r+") if edit else h5py.File(buffer, "w", **new) as file:
        start = file.userblock_size
        yield file
    body = buffer.getbuffer()[start:]
    with replacing(path, "" if edit else "out") as temporary, temporary.open("wb") as target:
        target.write(_sealed(body)[:start])
        target.write(body)


class _Unfailing(FileIO):
    """A file that HDF5 writes into: the first error is kept, and what is written from then on is dropped."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write, or pretend to."""
        left = memoryview(content)
        try:
            while left and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        """Cut off or lengthen, or pretend to."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def growing(path: Path) -> Iterator[h5py.File]:
    """Give an HDF5 file that is written as it is filled: for what is too large for memory.

    Where it cannot be written, that is an ``OSError``: HDF5 itself would end the process.
    """
    with _Unfailing(path, "w+") as target:
        try:
            with h5py.File(target, "w") as opened:
                yield opened
        except Exception as error:
            raise (target.error or error) from error
        if target.error:
            raise target.error


@contextmanager
def reading(path: Path) -> Iterator[tuple[h5py.File, bool]]:
    """Open an HDF5 file, and tell whether it bears a seal that holds; raises ``OSError``."""
    content = _content(path)
    intact = content[:_BLOCK] == _sealed(memoryview(content)[_BLOCK:])
    with h5py.File(BytesIO(content)) as file:
        yield file, intact


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise OSError("it is not a file")
    return path.read_bytes()


def members(group: h5py.Group) -> dict[str, h5py.Group | h5py.Dataset]:
    """Return what lies in a group; raises ``ValueError`` if something there points elsewhere."""
    links, names = group.id.links, list(group)
    for name in names:
        if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{name} is a link")
    return {name: group[name] for name in names}


def attributes(group: h5py.Group) -> dict[str, Any]:
    """Return a group's attributes, numbers as Python's own."""
    return {
        name: value.item() if isinstance(value, np.generic) else value for name, value in group.attrs.items()
    }


def tensor(member: h5py.Group | h5py.Dataset) -> Tensor:
    """Return the numbers of a dataset; raises ``ValueError`` if not all are finite."""
    values = array(member)
    if not np.isfinite(values).all():  # torch would ask all its threads
        raise ValueError(f"{member.name} holds NaN or infinity")
    import torch  # takes a second, and names of runs are read without

    return torch.from_numpy(values)


def array(member: h5py.Group | h5py.Dataset) -> NDArray[Any]:
    """Return the numbers of a dataset.

    Raises ``ValueError`` if it is no plain array in this file, or claims to be larger than what is stored.
    """
    kind = member.id.get_type() if isinstance(member, h5py.Dataset) else None
    if kind is None or kind.get_class() not in _NUMBERS:
        raise ValueError(f"{member.name} is not an array of numbers")
    n_bytes = member.size * kind.get_size()  # member.dtype takes longer than reading
    if member.chunks or member.external or member.is_virtual or member.id.get_storage_size() != n_bytes:
        raise ValueError(f"{member.name} is not stored in one piece")
    return np.asarray(member[()])


def fill(
    group: h5py.Group,
    about: Mapping[str, object],
    arrays: Mapping[str, NDArray[np.generic]] = MappingProxyType({}),
) -> None:
    """Write a group's attributes and arrays, and their hash as :data:`DIGEST`."""
    for name, values in arrays.items():
        group.create_dataset(name, data=values)
    for name, value in about.items():
        group.attrs[name] = value
    group.attrs[DIGEST] = _digest(about, arrays)


def digest(group: h5py.Group) -> str:
    """Return the hash of a group's attributes and arrays, without what lies in groups below it."""
    inside = members(group).items()
    arrays = {name: array(member) for name, member in inside if isinstance(member, h5py.Dataset)}
    return _digest(group.attrs, arrays)


def _digest(about: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> str:
    hashed = hashlib.sha256()
    attached = {name: np.asarray(value).tolist() for name, value in about.items() if name != DIGEST}
    hashed.update(json.dumps(attached, sort_keys=True).encode())
    for name, values in sorted(arrays.items()):
        hashed.update(f"\n{name} {values.dtype.str} {values.shape}\n".encode())
        hashed.update(values.tobytes())
    return hashed.hexdigest()


def _sealed(body: memoryview) -> bytes:
    return (_SEAL + hashlib.sha256(body).hexdigest().encode() + b"\n").ljust(_BLOCK, b"\0")
