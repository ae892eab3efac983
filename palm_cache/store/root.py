"""The root of a feature store: its header and the manifest of its files; read without torch and zarr."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from palm_cache.errors import AbsentStoreError, DamagedStoreError, OlderFormatError, StoreError, reason_of
from palm_cache.store.atomic import parse_json
from palm_cache.store.header import check_format, read_header, read_source
from palm_cache.store.layout import STORE_ROOT, command_of_store
from palm_cache.store.nearby import absent_store
from palm_cache.store.places import Folder, folder
from palm_cache.types import Place

UNFINISHED_MARK = "unfinished palm-cache feature store"
"""What a root says while the files that it names are being copied to an object store."""


class StoreRoot:
    """What a feature store says of itself, without its arrays; opened by its constructor.

    Parameters
    ----------
    path : Place
        The store's folder.

    Raises
    ------
    PlaceError
        If it is remote and cannot be reached.
    StoreError
        If it may not be read, or its format is not this version's: an ``AbsentStoreError`` if there is none,
        an ``OlderFormatError`` if it is an older one.
    DamagedStoreError
        If its metadata are damaged.
    """

    def __init__(self, path: Place) -> None:
        self.path, self._folder = path, folder(path)
        try:
            root = read_root(self._folder)
            if root is None:
                raise absent_store(path)
            attributes = root["attributes"]
            check_format(attributes, path)
            header = read_header(attributes)
            self.header = replace(header, source=read_source(header.source, path.parent))
            self._files: dict[str, tuple[int, str]] = {
                str(name): (int(size), str(sha256)) for name, (size, sha256) in attributes["files"].items()
            }
            whole = attributes["sha256"] == root_hash(root)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"not a readable feature store ({error})") from error
        except OSError as error:  # no permission, a share that is gone: no damage
            raise StoreError(f"{path}: cannot be read: {reason_of(error)}") from error
        if not whole:
            raise self._damaged(f"its {STORE_ROOT} is damaged")

    def _damaged(self, what: str) -> DamagedStoreError:
        command = command_of_store(self.path)
        return DamagedStoreError(
            f"{self.path}: {what}; make it anew, from what the cache knows, with: {command}"
        )

    def file_problems(self, reads: Literal["nothing", "metadata", "everything"]) -> list[str]:
        """Hold the files of the store against its manifest; one line per problem.

        Parameters
        ----------
        reads : str
            Beside which files there are, and their sizes: the content of the small ones that describe the
            others, or of all.
        """
        sizes = self._folder.files()

        def problem(name: str) -> str:
            size, sha256 = self._files[name]
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != size:
                return f"{name} has {sizes[name]} bytes instead of {size}"
            if reads == "everything" or (reads == "metadata" and name.endswith(STORE_ROOT)):
                return f"{name} is damaged" * (file_hash(self._folder.read(name)) != sha256)
            return ""

        with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
            return [text for text in pool.map(problem, self._files) if text]

    @property
    def manifest(self) -> Mapping[str, tuple[int, str]]:
        """Size and hash of every file but the root, by its path below the store's folder."""
        return self._files

    @property
    def file_names(self) -> list[str]:
        """Paths of all its files below its folder."""
        return [*self._files, STORE_ROOT]

    @property
    def is_near(self) -> bool:
        """Whether reading all of it costs little."""
        return self._folder.is_near

    @cached_property
    def n_clips(self) -> int:
        """Number of rows, embedded or not; known from one small file, which costs little far away, too."""
        name = f"audio/{STORE_ROOT}"
        try:
            content = self._folder.read(name)
            if file_hash(content) != self._files[name][1]:
                raise ValueError("it does not match its manifest")
            return int(parse_json(content)["shape"][0])
        except (ValueError, KeyError, TypeError, IndexError, FileNotFoundError) as error:
            raise self._damaged(f"{name} is damaged ({error})") from error


def exists(path: Place) -> bool:
    """Tell whether there is a feature store at a place, whole or not."""
    try:
        StoreRoot(path)
    except AbsentStoreError:
        return False
    except (DamagedStoreError, OlderFormatError):
        pass
    return True


def read_root(where: Folder) -> dict[str, Any] | None:
    """Return the root metadata of a store, ``None`` where there is none or it is unfinished.

    Raises
    ------
    ValueError
        If it is not JSON.
    OSError
        If it may not be read.
    """
    try:
        root = parse_json(where.read(STORE_ROOT))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(root, dict):
        raise ValueError("its root is not a group")
    return None if UNFINISHED_MARK in root else root


def root_hash(root: Mapping[str, Any]) -> str:
    """Return the hash of a root's metadata, but for the place where it is kept."""
    attributes = {name: value for name, value in root["attributes"].items() if name != "sha256"}
    return file_hash(json.dumps({**root, "attributes": attributes}, sort_keys=True).encode())


def file_hash(content: bytes) -> str:
    """Return what the manifest holds of a file.

    Not the checksum that chunks end with: that is the same for all that end with their own.
    """
    return hashlib.sha256(content).hexdigest()
