"""Where stores, caches and audio lie: in a folder of this machine, or wherever a URL of fsspec reaches.

A place is a ``pathlib.Path`` or, for a URL such as ``s3://bucket/features``, universal-pathlib's ``UPath``.
What is done there goes through a :class:`Folder`, of which there are two kinds, ``local`` and ``remote``:
nobody else asks which of them a place is. Credentials are never given to us: every file system takes its own
from the environment.
"""

from __future__ import annotations

import os
import traceback
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol, cast

from palm_cache.errors import PalmCacheError, ParameterError, PlaceError, reason_of
from palm_cache.types import Place

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extra of palm-cache that brings the file system of a scheme."""


REMOTE_LIBRARIES = {
    *("adlfs", "aiobotocore", "aiohttp", "asyncio", "azure", "botocore", "dropboxdrivefs", "fsspec", "gcsfs"),
    *(
        "google",
        "hdfs",
        "http",
        "huggingface_hub",
        "ocifs",
        "ossfs",
        "paramiko",
        "pyarrow",
        "requests",
        "s3fs",
    ),
    *("smbprotocol", "ssl", "upath", "urllib3", "webdav4", "yarl"),
}
"""Packages whose exceptions are a remote place's."""

SHORT_BYTES = 190
"""Of names up to here others can be made; of longer ones this much is taken, and a checksum."""

Ours = Callable[["Folder"], Collection[str]]
"""Says which files of a folder are ours."""


class Folder(Protocol):
    """A folder at a place: its files by their paths below it, with forward slashes.

    Whatever goes wrong at a remote place is a ``PlaceError``; a local folder raises ``OSError``.
    """

    @property
    def place(self) -> Place:
        """Where it is."""
        ...

    is_near: ClassVar[bool]
    """Whether reading everything in it costs little."""

    def files(self) -> dict[str, int]:
        """Return the size of every file below the folder; none where there is no folder."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the content of a file, or a part of it.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        ...

    def replacing(self, name: str) -> AbstractContextManager[Path]:
        """Give a place on this machine for a file that is put into the folder when the block succeeds."""
        ...

    def fetch(self, name: str, file: Path) -> None:
        """Copy a file of the folder to one of this machine."""
        ...

    def link(self, name: str, file: Path) -> None:
        """Give a file of the folder, which is never changed, a second place on this machine at least cost."""
        ...

    def remove(self, names: Collection[str]) -> None:
        """Remove files, as far as they are there, and the folders that are then empty."""
        ...

    def left_behind(self, ours: Callable[[str], object]) -> list[str]:
        """Return what processes that were killed while they wrote files have left of them.

        Parameters
        ----------
        ours : callable
            Says of the name of a file, which lies directly in the folder, whether we write it.
        """
        ...

    def workspace(self) -> AbstractContextManager[Path]:
        """Give a folder of this machine from which :meth:`publish` costs least."""
        ...

    def publish(self, built: Path, ours: Ours, root: str, claim: bytes) -> None:
        """Put the files of a folder of this machine in the place of those of this folder that are ours.

        Whoever looks meanwhile finds the old tree, none, or the new one, never a mixture of two.

        Parameters
        ----------
        built : Path
            The new tree, made in :meth:`workspace`; it is used up.
        ours : callable
            Says of a folder which files in it may go; all others stay. May raise: then nothing happens.
        root : str
            The file without which there is no tree: remotely it comes last.
        claim : bytes
            What stands there until then: that the files are ours, though there is no tree.
        """
        ...

    def alone(self, name: str) -> AbstractContextManager[bool]:
        """Tell, for the length of a block, whether no other process here is inside the same one."""
        ...

    def zarr(self) -> Any:
        """Return what zarr opens the folder by, to read it."""
        ...


def folder(where: Place) -> Folder:
    """Return the folder at a place; it need not be there yet."""
    if isinstance(where, Path):
        from palm_cache.store.places.local import LocalFolder

        return LocalFolder(where)
    from palm_cache.store.places.remote import RemoteFolder

    return RemoteFolder(where)


def place(text: str | PathLike[str] | Place) -> Place:
    """Turn what a user wrote, a path or a URL, into a place.

    Raises
    ------
    ParameterError
        If the URL's kind is not known, its library is not installed, or it names no folder.
    """
    if not isinstance(text, str):
        return cast("Place", text) if hasattr(text, "fs") else Path(text)
    scheme, separator, rest = text.partition("://")
    if "\0" in text or (separator and not (scheme and rest)):
        raise ParameterError(f"{text!r} is no place; give a folder or a URL such as s3://bucket/folder")
    if not separator:
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


def absolute(where: Place) -> Place:
    """Return the place as another process sees it, whatever folder that runs in."""
    return where.absolute() if isinstance(where, Path) else where


def opened(file: Place) -> BinaryIO:
    """Open a file for reading by descriptor; a remote one is fetched whole into an unnamed temporary file.

    Raises
    ------
    OSError
        If it cannot be opened.
    PlaceError
        If its place cannot be reached.
    """
    if isinstance(file, Path):
        from palm_cache.store.places.local import open_file

        return open_file(file)
    from palm_cache.store.places.remote import fetched

    return fetched(file)


def states(files: Sequence[Place]) -> list[bytes | None]:
    """Return, without reading any file, what changes when a file's content does.

    That is path, size, times and inode on this machine, size and ETag or time at a remote place.

    Returns
    -------
    list of bytes or None
        32 bytes per file. ``None`` where nothing reliable is known: the file is not there, was changed just
        now, or its place does not tell.
    """
    from palm_cache.store.places.local import state

    known_states: list[bytes | None] = [state(file) if isinstance(file, Path) else None for file in files]
    away = [(row, file) for row, file in enumerate(files) if not isinstance(file, Path)]
    if away:
        from palm_cache.store.places.remote import listed_states

        for (row, _), known in zip(away, listed_states([file for _, file in away]), strict=True):
            known_states[row] = known
    return known_states


def state_of_opened(path: Place, file: BinaryIO, status: os.stat_result) -> bytes | None:
    """Return the same of a file that :func:`opened` has just opened, of which a status is known."""
    if isinstance(path, Path):
        from palm_cache.store.places.local import state

        return state(path, status)
    from palm_cache.store.places.remote import FetchedFile

    return file.state if isinstance(file, FetchedFile) else None


def short(name: str) -> str:
    """Return a file's name, or one like it that leaves room for endings: no name has more than 255 bytes."""
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= SHORT_BYTES:
        return name
    return f"{encoded[:SHORT_BYTES].decode('utf-8', 'ignore')}-{zlib.crc32(encoded):08x}"


@contextmanager
def reaching(where: object, *passing: type[OSError]) -> Iterator[None]:
    """Turn what a remote file system raises into one line; errors of this machine's own pass.

    Parameters
    ----------
    *passing : type of OSError
        Errors that are an answer, such as that a file is not there.

    Raises
    ------
    PlaceError
        Naming the place and the reason.
    """
    try:
        yield
    except Exception as error:
        if isinstance(where, Path) or isinstance(error, passing) or not is_remote_failure(error):
            raise
        raise PlaceError(
            f"{where}: cannot be reached: {reason_of(error)}; check address and network, and the credentials "
            "in the environment"
        ) from error


def is_remote_failure(error: Exception) -> bool:
    """Tell a failure of a remote file system from a defect of ours.

    Its library raises exceptions of its own, or what the system raises, or in its own code that it cannot do
    something, or that an address makes no sense.
    """
    if isinstance(error, PalmCacheError):
        return False
    if isinstance(error, OSError) or _library(type(error).__module__) in REMOTE_LIBRARIES:
        return True
    frames = traceback.walk_tb(error.__traceback__)
    raised_by = {_library(frame.f_globals.get("__name__", "")) for frame, _ in frames}
    return isinstance(error, NotImplementedError | ValueError) and not raised_by.isdisjoint(REMOTE_LIBRARIES)


def _library(module: str) -> str:
    return module.partition(".")[0]
