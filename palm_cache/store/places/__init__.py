"""Where stores, caches and audio lie: in a folder of this machine, or wherever a URL of fsspec reaches.

A place is a ``pathlib.Path`` or, for a URL such as ``s3://bucket/features``, universal-pathlib's ``UPath``.
What is done there goes through a :data:`Folder`, of which there are two kinds, ``local`` and ``remote``:
nobody else asks which of them a place is. Credentials are never given to us: every file system takes its own
from the environment.
"""

from __future__ import annotations

import os
import traceback
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from palm_cache.errors import PalmCacheError, ParameterError, PlaceError, reason_of
from palm_cache.types import AnyPlace, Place

if TYPE_CHECKING:
    from palm_cache.store.places.local import LocalFile, LocalFolder
    from palm_cache.store.places.remote import FetchedFile, RemoteFolder

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extra of palm-cache that brings the file system of a scheme."""


REMOTE_LIBRARIES = {
    *("adlfs", "aiobotocore", "aiohttp", "asyncio", "azure", "botocore", "dropboxdrivefs", "fsspec", "gcsfs"),
    *("google", "hdfs", "http", "huggingface_hub", "ocifs", "ossfs", "paramiko", "pyarrow", "requests"),
    *("s3fs", "smbprotocol", "ssl", "upath", "urllib3", "webdav4", "yarl"),
}
"""Packages whose exceptions are a remote place's."""

SHORT_BYTES = 190
"""Of names up to here others can be made; of longer ones this much is taken, and a checksum."""

Folder: TypeAlias = "LocalFolder | RemoteFolder"
"""A folder at a place: its files by their paths below it, with forward slashes.

What its methods do, ``LocalFolder``'s say. Whatever goes wrong at a remote place is a ``PlaceError``; a local
folder raises ``OSError``.
"""

OpenedFile: TypeAlias = "LocalFile | FetchedFile"
"""A file that is open for reading, and its ``state`` when it was opened: see :func:`states`."""

Ours = Callable[[Folder], Collection[str]]
"""Says which files of a folder are ours."""


def folder(where: Place) -> Folder:
    """Return the folder at a place; it need not be there yet."""
    if isinstance(where, Path):
        from palm_cache.store.places.local import LocalFolder

        return LocalFolder(where)
    from palm_cache.store.places.remote import RemoteFolder

    return RemoteFolder(where)


def place(text: str | PathLike[str] | Place) -> Place:
    """Turn what a user wrote, a path or a URL, into a place.

    Raises ``ParameterError`` if the URL's kind is not known, its library is missing, or it names no folder.
    """
    if not isinstance(text, str):
        text = getattr(text, "store", text)  # of an open one, whose text lacks the options of a URL
        if hasattr(text, "fs"):
            return cast("Place", text)
        text = os.fspath(text)
    scheme, separator, rest = text.partition("://")
    if "\0" in text or (separator and not (scheme and rest)):
        raise ParameterError(f"{text!r} is no place; give a folder or a URL such as s3://bucket/folder")
    if not separator or len(scheme) == 1:  # a drive of Windows
        return Path(text)
    from upath import UPath

    if scheme == "file":
        return Path(UPath(text).path)
    try:
        # What another process has written since must be seen: no cached listings.
        remote = UPath(f"{scheme}://{rest.rstrip('/')}", use_listings_cache=False)
        remote.fs  # noqa: B018  # loads the library
    except ImportError as error:
        extra = f": pip install 'palm-cache[{EXTRAS[scheme]}]'" if scheme in EXTRAS else ""
        raise ParameterError(f"{text}: {str(error).lower()}{extra}") from error
    except (ValueError, TypeError, OSError) as error:
        raise ParameterError(
            f"{text}: {reason_of(error)}; give a folder or a URL such as s3://bucket/folder"
        ) from error
    if not remote.name:
        raise ParameterError(f"{text}: give a folder inside it, e.g. {scheme}://bucket/folder")
    return remote


def as_places(stores: AnyPlace | Iterable[AnyPlace]) -> list[Place]:
    """Return the places of one store or several; raise as :func:`place`, or if there is none."""
    one = isinstance(stores, str | PathLike) or hasattr(stores, "fs")
    several = [cast("AnyPlace", stores)] if one else list(cast("Iterable[AnyPlace]", stores))
    if not several:
        raise ParameterError("no feature store is named; name at least one")
    return [place(store) for store in several]


def opened(file: Place) -> OpenedFile:
    """Open a file for reading by descriptor; a remote one is fetched whole into an unnamed temporary file.

    Raises ``OSError`` if it cannot be opened, ``PlaceError`` if its place cannot be reached.
    """
    if isinstance(file, Path):
        from palm_cache.store.places.local import LocalFile

        return LocalFile(file)
    from palm_cache.store.places.remote import fetched

    return fetched(file)


def states(files: Sequence[Place | str]) -> list[bytes | None]:
    """Return, without reading any file, what changes when a file's content does, 32 bytes each.

    That is a hash of path, size, times and inode on this machine, where a path may be text, of size and ETag
    or time at a remote place. ``None`` where nothing reliable is known: the file is not there, was changed
    just now, or its place does not tell.
    """
    from palm_cache.store.places.local import state

    away = [(row, file) for row, file in enumerate(files) if not isinstance(file, str | Path)]
    known_states = [state(file) if isinstance(file, str | Path) else None for file in files]
    if away:
        from palm_cache.store.places.remote import listed_states

        for (row, _), known in zip(away, listed_states([file for _, file in away]), strict=True):
            known_states[row] = known
    return known_states


def clear_left_behind(where: Folder, ours: Callable[[str], object]) -> None:
    """Remove what killed writers left of files of ours, as far as it may be looked for and removed."""
    with suppress(OSError):
        for name in where.left_behind(ours):
            with suppress(OSError):
                where.remove([name])


def short(name: str) -> str:
    """Return a file's name, or one like it that leaves room for endings: no name has more than 255 bytes."""
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= SHORT_BYTES:
        return name
    return f"{encoded[:SHORT_BYTES].decode('utf-8', 'ignore')}-{zlib.crc32(encoded):08x}"


@contextmanager
def reaching(where: object, *passing: type[OSError]) -> Iterator[None]:
    """Turn what a remote file system raises into a ``PlaceError``; errors of this machine's own pass.

    So do ``passing`` ones, which are an answer, such as that a file is not there.
    """
    try:
        yield
    except Exception as error:
        if isinstance(where, Path) or isinstance(error, passing) or not _is_remote_failure(error):
            raise
        raise PlaceError(
            f"{where}: cannot be reached: {reason_of(error)}; check address and network, and the credentials "
            "in the environment"
        ) from error


def _is_remote_failure(error: Exception) -> bool:
    """Tell a failure of a remote file system from a defect of ours.

    Its library raises exceptions of its own, or what the system raises, or in its own code that it cannot do
    something, or that an address makes no sense.
    """
    if isinstance(error, PalmCacheError | OSError):
        return isinstance(error, OSError)
    modules = {type(error).__module__}
    if isinstance(error, NotImplementedError | ValueError):
        frames = traceback.walk_tb(error.__traceback__)
        modules |= {frame.f_globals.get("__name__", "") for frame, _ in frames}
    return not REMOTE_LIBRARIES.isdisjoint(module.partition(".")[0] for module in modules)
