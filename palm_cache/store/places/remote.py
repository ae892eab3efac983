"""Folders behind URLs: what fsspec's file systems can do, with as few requests as it takes.

Object stores cannot rename. An object is there whole or not at all; a tree of them is there as soon as one
file is, which is therefore written last and removed first.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from posixpath import commonpath
from typing import Any, ClassVar, cast

from upath import UPath
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from palm_cache.errors import OutputError, reason_of
from palm_cache.store.places import Ours, reaching

SMALL_FILES: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}}
"""Options of file systems, by scheme, that let a file be read by one request: S3's client would ask for its
size first, to fetch a large one in parts; none of ours has more than some megabytes."""

FETCHED_BYTES = 1 << 20
"""Bytes of a remote file that are fetched at once."""

FILES_AT_ONCE = 256
"""Files that are copied at once."""

FOLDERS_LISTED = 32
"""With more folders, all of them are listed from their common parent."""

STATE_KEYS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime", "updated", "last_modified")
"""What file systems call what changes with a file's content."""


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder behind a URL; see :class:`~palm_cache.store.places.local.LocalFolder`."""

    place: UPath

    is_near: ClassVar[bool] = False

    def files(self) -> dict[str, int]:
        """Return the size of every file below the folder."""
        with reaching(self.place):
            try:
                listed = self._fs.find(self.place.path, detail=True)
            except FileNotFoundError:
                return {}
        own = self.place.path.rstrip("/") + "/"
        return {path.removeprefix(own): int(info["size"] or 0) for path, info in listed.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the content of a file, or a part of it, by one request."""
        small = SMALL_FILES.get(self.place.protocol, {})
        options = small if start == 0 and stop is None else {"start": start, "end": stop}
        with reaching(self.place, FileNotFoundError):
            return cast(bytes, self._fs.cat_file(self._path(name), **options))

    def write(self, name: str, content: bytes) -> None:
        """Write a file by one request."""
        with reaching(self.place):
            self._fs.pipe_file(self._path(name), content)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Give a temporary file, which is copied to the folder when the block succeeds."""
        with self.workspace() as work:
            file = Path(work, name.rpartition("/")[2])
            yield file
            with reaching(self.place):
                self._fs.put_file(str(file), self._path(name))

    def fetch(self, name: str, file: Path) -> None:
        """Copy a file of the folder to one of this machine."""
        with reaching(self.place, FileNotFoundError):
            self._fs.get_file(self._path(name), str(file))

    link = fetch

    def remove(self, names: Collection[str], *, itself: bool = False) -> None:
        """Remove files, as far as they are there; a folder is nothing of its own."""
        if names:
            with reaching(self.place):
                present = self._fs.find(self.place.path)
                doomed = set(map(self._path, names)).intersection(present)
                if doomed:
                    self._fs.rm(sorted(doomed))

    def left_behind(self, ours: Callable[[str], object]) -> list[str]:
        """Return nothing: an object is there whole or not at all."""
        return []

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give a temporary folder."""
        with tempfile.TemporaryDirectory() as work:
            yield Path(work)

    def publish(self, built: Path, ours: Ours, root: str, claim: bytes) -> None:
        """Put a tree in this folder's place; in between there is none."""
        names = sorted(path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file())
        gone = set(ours(self)) - set(names)
        self.write(root, claim)
        self.remove(gone)
        others = [name for name in names if name != root]
        for start in range(0, len(others), FILES_AT_ONCE):
            self._put(built, others[start : start + FILES_AT_ONCE])
        self._put(built, [root])

    def _put(self, built: Path, names: Sequence[str]) -> None:
        with reaching(self.place):
            self._fs.put([str(built / name) for name in names], list(map(self._path, names)))

    @contextmanager
    def alone(self, name: str, seconds: float = 0) -> Iterator[bool]:
        """Nobody can tell; two may do the same."""
        yield True

    def zarr(self) -> FsspecStore:
        """Return what zarr opens the folder by, to read it."""
        options = {**self.place.storage_options, **SMALL_FILES.get(self.place.protocol, {})}
        return ReachingStore.from_url(str(self.place), storage_options=options, read_only=True)

    @property
    def _fs(self) -> Any:
        return self.place.fs

    def _path(self, name: str) -> str:
        return f"{self.place.path.rstrip('/')}/{name}"


class ReachingStore(FsspecStore):
    """A remote Zarr store that raises ``PlaceError`` where a file system's own would be taken for damage."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a value, or ``None`` if there is none."""
        with reaching(self.fs.unstrip_protocol(self.path)):
            return await super().get(key, prototype, byte_range)


class FetchedFile(io.BufferedReader):
    """A remote file, fetched whole into an unnamed temporary one.

    No writer: one that is closed seeks back to where it was read, wherever libsndfile has moved the
    descriptor.
    """

    state: bytes | None = None
    """Of the remote file as it was fetched: see ``places.states``."""


def fetched(file: UPath) -> FetchedFile:
    """Fetch a file; see :func:`palm_cache.store.places.opened`."""
    with ExitStack() as unless_fetched:
        unnamed = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by what buffers it
        writer = io.BufferedWriter(unnamed)
        copy = unless_fetched.enter_context(FetchedFile(unnamed))
        answers = FileNotFoundError, PermissionError, IsADirectoryError
        with reaching(file, *answers), file.open("rb") as content:
            # What opening has asked for, where the file system keeps it: no further request.
            copy.state = _state(file, getattr(content, "details", None))
            while block := content.read(FETCHED_BYTES):
                _keep(writer, block)
        writer.detach()
        copy.seek(0)
        unless_fetched.pop_all()
    return copy


def _keep(copy: Any, block: bytes) -> None:
    try:
        copy.write(block)
        copy.flush()
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: cannot write: {reason_of(error)}; set TMPDIR to another folder"
        ) from error


def listed_states(files: Sequence[UPath]) -> list[bytes | None]:
    """Return the states of files from as few listings as there are folders; see ``places.states``."""
    by_path: dict[str, dict[str, Any]] = {}
    parents = {file.parent.path.rstrip("/") for file in files}
    fs = files[0].fs
    with reaching(files[0].parent):
        try:
            if len(parents) > FOLDERS_LISTED:
                by_path.update(fs.find(commonpath(parents), detail=True))
            else:
                for parent in sorted(parents):
                    by_path.update({info["name"]: info for info in fs.ls(parent, detail=True)})
        except (FileNotFoundError, NotImplementedError):
            pass  # no such folder, or none that lists: every file is then asked for
    return [_state(file, by_path.get(file.path) or by_path.get(str(file))) for file in files]


def _state(file: UPath, info: dict[str, Any] | None) -> bytes | None:
    # The first alone: listings and answers about one file may round times differently.
    known = [f"{key}={info[key]}" for key in STATE_KEYS if info and info.get(key)][:1]
    if info is None or not known or info.get("size") is None:
        return None
    return hashlib.blake2b(f"{file}\0{info['size']}\0{known}".encode(), digest_size=32).digest()
