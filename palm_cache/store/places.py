"""Where stores and audio lie: in a folder of this machine, or wherever a URL of fsspec reaches.

A place is a ``pathlib.Path`` or, for a URL such as ``s3://bucket/features``, universal-pathlib's ``UPath``,
which has the same methods: most code need not know which it has. What is not the same is here and in
``trees``. Credentials are never given to us: every file system takes its own from the environment.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from upath import UPath

from palm_cache.errors import PalmCacheError, ParameterError, PlaceError
from palm_cache.types import Place

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extra of palm-cache that brings the file system of a scheme."""


def place(text: str | PathLike[str] | Place) -> Place:
    """Turn what a user wrote, a path or a URL, into a place.

    Raises
    ------
    ParameterError
        If the URL's kind is not known, its library is not installed, or it names no folder.
    """
    if isinstance(text, UPath):
        return text
    if not isinstance(text, str):
        return Path(text)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if scheme == "file":
        return Path(UPath(text).path)
    try:
        # What another process has written since must be seen: no cached listings.
        found = UPath(f"{scheme}://{rest.rstrip('/')}", use_listings_cache=False)
        found.fs  # noqa: B018  # loads the library
    except ImportError as error:
        extra = f": pip install 'palm-cache[{EXTRAS[scheme]}]'" if scheme in EXTRAS else ""
        raise ParameterError(f"{text}: {str(error).lower()}{extra}") from error
    except (ValueError, TypeError, OSError) as error:
        raise ParameterError(
            f"{text}: {reason_of(error)}; give a folder or a URL such as s3://bucket/folder"
        ) from error
    if not found.name:
        raise ParameterError(f"{text}: give a folder inside it, e.g. {scheme}://bucket/folder")
    return found


def absolute(where: Place) -> Place:
    """Return the place as another process sees it, whatever folder that runs in."""
    return where.absolute() if isinstance(where, Path) else where


@contextmanager
def reaching(where: object) -> Iterator[None]:
    """Turn what a remote file system raises into one line; errors of this machine's own pass.

    Raises
    ------
    PlaceError
        Naming the place and the reason.
    """
    try:
        yield
    except Exception as error:
        if isinstance(where, Path) or not is_remote_failure(error):
            raise
        raise PlaceError(
            f"{where}: cannot be reached: {reason_of(error)}; check address and network, and the credentials "
            "in the environment"
        ) from error


def is_remote_failure(error: Exception) -> bool:
    """Tell a failure of a remote file system from a defect of ours.

    Its library raises exceptions of its own, or what the system raises, or that it cannot do something, or
    that an address makes no sense.
    """
    if isinstance(error, PalmCacheError):
        return False
    return (
        isinstance(error, OSError | NotImplementedError | ValueError) or type(error).__module__ != "builtins"
    )


def reason_of(error: Exception) -> str:
    """Return the reason that an exception gives, on one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def files_below(folder: Place) -> list[str]:
    """Return the paths of all files below a folder, relative to it, with forward slashes, sorted."""
    if isinstance(folder, Path):
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with reaching(folder):
        return sorted(path.removeprefix(folder.path).lstrip("/") for path in folder.fs.find(folder.path))


def copy_files(source: Place, target: Place, names: Sequence[str]) -> None:
    """Copy files from one folder to another, wherever the two are.

    Parameters
    ----------
    names : sequence of str
        Relative to both folders.

    Raises
    ------
    PlaceError
        If a remote place cannot be reached.
    OSError
        If one on this machine cannot be read or written.
    """
    sources = [_path_of(source / name) for name in names]
    targets = [_path_of(target / name) for name in names]
    if isinstance(source, Path):
        if isinstance(target, Path):
            for old, new in zip(sources, targets, strict=True):
                Path(new).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(old, new)
        else:
            with reaching(target):
                target.fs.put(sources, targets)
    elif isinstance(target, Path):
        with reaching(source):
            source.fs.get(sources, targets)
    elif source.fs == target.fs:
        with reaching(target):
            source.fs.copy(sources, targets)
    else:
        with tempfile.TemporaryDirectory() as between:
            copy_files(source, Path(between), names)
            copy_files(Path(between), target, names)


def _path_of(file: Place) -> str:
    """Return a file's path as its own file system writes it."""
    return str(file) if isinstance(file, Path) else str(file.path)
