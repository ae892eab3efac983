"""The root of a feature store: its header and the manifest of its files; read without torch and zarr."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from palm_cache.errors import AbsentStoreError, DamagedStoreError, OlderFormatError, StoreError, reason_of
from palm_cache.store.atomic import parse_json
from palm_cache.store.header import check_format, read_header, read_source
from palm_cache.store.layout import STORE_ROOT
from palm_cache.store.nearby import absent_store
from palm_cache.store.places import folder, place
from palm_cache.store.remedies import remedy_of_store
from palm_cache.types import AnyPlace, Place

UNFINISHED_MARK = "unfinished palm-cache feature store"
"""What a root says while the files that it names are being copied to an object store."""


REPLACED = "an extraction has replaced it while it was read; try again"


class StoreRoot:
    """What a feature store says of itself, without its arrays; opened by its constructor, from its folder.

    Raises
    ------
    PlaceError
        If it is remote and cannot be reached.
    AbsentStoreError, OlderFormatError, StoreError
        If there is none, its format is another version's, or it may not be read.
    DamagedStoreError
        If its metadata are damaged.
    """

    def __init__(self, path: AnyPlace) -> None:
        self.path = path = place(path)
        self.folder = folder(path)
        self._attributes: Mapping[str, Any] = {}
        self._opened = b""
        try:
            with self._readable():
                content = self.folder.read(STORE_ROOT)
            root = parse_json(content)
            if UNFINISHED_MARK in root:
                raise absent_store(path)
            self._attributes = attributes = dict(root["attributes"])
            check_format(attributes, path)
            header = read_header(attributes)
            self.header = replace(header, source=read_source(header.source, path.parent))
            self.manifest: dict[str, tuple[int, str]] = {
                str(name): (int(size), str(sha256)) for name, (size, sha256) in attributes["files"].items()
            }
            """Size and hash of every file but the root, by its path below the store's folder."""
            whole = attributes["sha256"] == root_hash(root)
        except (FileNotFoundError, NotADirectoryError):
            raise absent_store(path) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.damaged(f"not a readable feature store ({error})") from error
        if not whole:
            raise self.damaged(f"its {STORE_ROOT} is damaged")
        self._opened = content

    def damaged(self, what: str) -> DamagedStoreError:
        """Return the error that something of it is damaged, or not there any more, with what to do."""
        told = f"{what}; {self.remedy}" if self._is_steady() else REPLACED
        return DamagedStoreError(f"{self.path}: {told}")

    def check_steady(self) -> None:
        """Raise ``DamagedStoreError`` if the store has been replaced since it was opened."""
        if not self._is_steady():
            raise DamagedStoreError(f"{self.path}: {REPLACED}")

    def _is_steady(self) -> bool:
        try:
            with self._readable():
                return not self._opened or self.folder.read(STORE_ROOT) == self._opened
        except (FileNotFoundError, NotADirectoryError):  # gone
            return False

    @contextmanager
    def _readable(self, what: str = "") -> Iterator[None]:
        """Turn what is no damage into a line: no permission, a share that is gone, too many open files."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise StoreError(f"{self.path}: {what}cannot be read: {reason_of(error)}") from error

    @property
    def remade_by(self) -> str:
        """What makes the store anew, to be read after "by" or "with"; the command comes last."""
        source = read_source(str(self._attributes.get("source") or ""), self.path.parent)
        return remedy_of_store(self.path, {**self._attributes, "source": source})

    @property
    def remedy(self) -> str:
        """Say how the store is made anew."""
        return f"make it anew, from what the cache knows, with {self.remade_by}"

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn what reading a part of the store raises into a line: on the part, or on a disk that fails."""
        try:
            with self._readable(f"{what} "):
                yield
        except (ValueError, LookupError, TypeError, RuntimeError, OSError) as error:
            raise self.damaged(f"{what} is damaged ({reason_of(error)})") from error

    def file_problems(self, reads: Literal["nothing", "metadata", "everything"]) -> list[str]:
        """Hold the files of the store against its manifest; one line per problem.

        Beside which files there are, and their sizes, it reads the small ones that describe the others, or
        all.
        """
        with self._readable():
            sizes = self.folder.files()

        def problem(name: str) -> str:
            size, sha256 = self.manifest[name]
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != size:
                return f"{name} has {sizes[name]} bytes instead of {size}"
            if reads == "everything" or (reads == "metadata" and name.endswith(STORE_ROOT)):
                try:
                    with self._readable(f"{name} "):
                        return f"{name} is damaged" * (file_hash(self.folder.read(name)) != sha256)
                except FileNotFoundError:  # gone with a store that another process has replaced
                    return f"{name} is missing"
            return ""

        with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
            return [text for text in pool.map(problem, self.manifest) if text]

    @cached_property
    def n_clips(self) -> int:
        """Number of rows, embedded or not; known from one small file, which costs little far away, too."""
        name = f"audio/{STORE_ROOT}"
        with self._reading(name):
            content = self.folder.read(name)
            if file_hash(content) != self.manifest[name][1]:
                raise ValueError("it does not match its manifest")
            return int(parse_json(content)["shape"][0])


def exists(path: Place) -> bool:
    """Tell whether there is a feature store at a place, whole or not."""
    try:
        StoreRoot(path)
    except AbsentStoreError:
        return False
    except (DamagedStoreError, OlderFormatError):
        pass
    return True


def root_hash(root: Mapping[str, Any]) -> str:
    """Return the hash of a root's metadata, but for the place where it is kept."""
    attributes = {name: value for name, value in root["attributes"].items() if name != "sha256"}
    return file_hash(json.dumps({**root, "attributes": attributes}, sort_keys=True).encode())


def file_hash(content: bytes) -> str:
    """Return what the manifest holds of a file; a CRC-32C is the same for all that end with their own."""
    return hashlib.sha256(content).hexdigest()
