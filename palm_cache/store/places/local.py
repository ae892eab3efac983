"""Folders of this machine: files are written under another name and renamed, so that they are whole."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import socket
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from filelock import FileLock, Timeout

from palm_cache.store.places import clear_left_behind, short

if TYPE_CHECKING:
    from palm_cache.store.places import Ours

BUFFERED_BYTES = 1 << 16
"""Of a file that is opened: a smaller one is read at once."""

RACY_NS = 2_000_000_000
"""Age in ns below which a change of a file may have left its times as they were: FAT keeps two seconds."""

_PARTIAL = re.compile(r"\.(.+)\.([0-9a-f]{8}-[0-9]+)\.[0-9a-f]{8}\.partial")
"""What :func:`_partial` returns."""

SECONDS_ABANDONED = 24 * 3600
"""After how long what has not been written to counts as left behind, whoever was writing it: the number of a
process that has ended may be another's now."""

MACHINE_FACTS = ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid")
"""Where the system says which machine this is, since when, and among which processes numbers count:
containers and machines may bear the same name."""


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What is said where there are none: by Lustre mounted without them, NFS without its daemon, and others."""


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of this machine; it need not be there."""

    place: Path

    is_near: ClassVar[bool] = True
    """Whether reading everything in it costs little."""

    def files(self) -> dict[str, int]:
        """Return the size of every file below the folder; none where there is no folder."""
        return dict(_walk(str(self.place), ""))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the content of a file, or a part of it; raises ``FileNotFoundError``."""
        with LocalFile(self.place / name) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a file", name)
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.replacing(name) as partial:
            partial.write_bytes(content)

    def fetch(self, name: str, file: Path) -> None:
        """Copy a file of the folder to one of this machine."""
        shutil.copyfile(self.place / name, file)

    def link(self, name: str, file: Path) -> None:
        """Give a file that is never changed a second name here, or a copy where disks know no such."""
        try:
            file.hardlink_to((self.place / name).resolve())  # not to a link that DVC has put there
        except OSError:
            self.fetch(name, file)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Give a place on this machine for a file that is put into the folder when the block succeeds."""
        file = self.place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(file)
        try:
            yield partial
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, names: Collection[str], *, itself: bool = False) -> None:
        """Remove files, as far as they are there, and folders in it that are then empty; a folder whole.

        With ``itself`` this one goes too if it is empty.
        """
        parents: set[Path] = set()
        for name in names:
            file = self.place / name
            if file.is_dir() and not file.is_symlink():
                with suppress(FileNotFoundError):  # another process removes it, too
                    shutil.rmtree(file)
            else:
                file.unlink(missing_ok=True)
            parents.update(folder for folder in file.parents if self.place in folder.parents)
        parents |= {self.place} if itself else set()
        for folder in sorted(parents, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # not empty, or gone
                folder.rmdir()

    def left_behind(self, ours: Callable[[str], object]) -> list[str]:
        """Return what writers have left directly in the folder: those here that died, all of long ago.

        ``ours`` says of the :func:`short` name of a file or tree whether we write it.
        """
        left = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.place) as entries:
            for entry in entries:
                match = _PARTIAL.fullmatch(entry.name)
                if match and ours(match[1]) and not entry.is_symlink():
                    with suppress(FileNotFoundError):
                        file = Path(entry.path)
                        if _is_abandoned(match[2], chain([file], file.rglob("*"))):
                            left.append(entry.name)
        return left

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give a folder of this machine from which :meth:`publish` costs least: beside this one."""
        real = self.place.resolve()  # where a link leads, which stays one
        work = _partial(real)
        work.mkdir(parents=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            clear_left_behind(LocalFolder(real.parent), short(real.name).__eq__)

    def publish(self, built: Path, ours: Ours, root: str, claim: bytes) -> None:
        """Put the files of a folder of this machine in the place of those of this folder that are ours.

        Whoever looks meanwhile finds the old tree, none, or the new one, never a mixture of two: here there
        is nothing between two renames.

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
        real = self.place.resolve()
        for _ in range(100):  # another process may publish at the same moment
            others = self.files().keys() - set(ours(self))
            # Outside the workspace, which goes with all that is in it. Of a process that is killed meanwhile
            # anybody may clear what is left, if it holds nothing but ours.
            aside = real.with_name(f".{short(real.name)}.{uuid.uuid4().hex}.replaced")
            retired = aside if others else _partial(real)
            with suppress(FileNotFoundError):
                real.rename(retired)
            try:
                built.rename(real)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not real.exists():
                    with suppress(OSError):
                        retired.rename(real)
                    raise
            else:
                break
            finally:
                _keep_others(retired, real, ours)
        else:
            raise FileExistsError(f"{real}: other processes replace it all the time")

    @contextmanager
    def alone(self, name: str, seconds: float = 0) -> Iterator[bool]:
        """Tell, for the length of a block, whether no other process here is inside the same one.

        Others are waited for so many seconds, below 0 as long as it takes. On a disk that knows no locks
        nobody can tell; two may do the same.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        file = self.place / f".{short(name)}.lock"
        lock = FileLock(file, fallback_to_soft=False)
        alone = True
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            alone = False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        try:
            yield alone
        finally:
            if alone:  # who has the file open already sees that it is gone, and does not take it
                with suppress(OSError):
                    file.unlink()
            lock.release()

    def zarr(self) -> Path:
        """Return what zarr opens the folder by, to read it."""
        return self.place


def _keep_others(retired: Path, tree: Path, ours: Ours) -> None:
    """Take over what lies in a retired tree and is not ours, and remove the tree."""
    if not retired.exists():
        return
    old = LocalFolder(retired)
    others = old.files().keys() - set(ours(old))
    taken = {name for name in others if (tree / name).exists()}
    for name in others - taken:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (retired / name).rename(tree / name)
    if taken:
        old.remove(old.files().keys() - taken)
    else:
        shutil.rmtree(retired.rename(_partial(tree)), ignore_errors=True)


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
                else:
                    with suppress(FileNotFoundError):
                        yield f"{prefix}{entry.name}", _size(entry)
    except (FileNotFoundError, NotADirectoryError):
        return


def _size(entry: os.DirEntry[str]) -> int:
    """Return the size of a file, also of one that DVC has put a link to in its place."""
    try:
        return entry.stat().st_size
    except OSError:  # leads nowhere
        return entry.stat(follow_symlinks=False).st_size


class LocalFile(io.BufferedReader):
    """A file that is opened for reading without waiting for anybody: not for the writer of a pipe."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        super().__init__(io.FileIO(os.open(path, flags)), BUFFERED_BYTES)
        self.state = state(path, os.fstat(self.fileno()))


def state(file: Path | str, status: os.stat_result | None = None) -> bytes | None:
    """Return a hash of path, size, times and inode of a file; see :func:`palm_cache.store.places.states`."""
    path = os.fspath(file)
    try:
        status = status or os.stat(path)  # noqa: PTH116  # a million times, and Path.stat costs more
    except (OSError, ValueError):
        return None
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    if changed > time.time_ns() - RACY_NS:
        return None
    if path[:1] != "/" or "/.." in path:
        path = os.path.abspath(path)  # noqa: PTH100  # links are not followed
    known = f"({status.st_size}, {status.st_mtime_ns}, {status.st_ctime_ns}, {status.st_ino})"
    return hashlib.blake2b(f"{path}\0{known}".encode("utf-8", "surrogateescape"), digest_size=32).digest()


def _partial(path: Path) -> Path:
    """Return what a path is called while it is written: its name, who writes, something of its own."""
    return path.with_name(f".{short(path.name)}.{this_writer()}.{uuid.uuid4().hex[:8]}.partial")


def this_writer() -> str:
    """Return what tells this process from others, on disks that several machines share."""
    return f"{_machine():08x}-{os.getpid()}"


@lru_cache(maxsize=1)
def _machine() -> int:
    names = [socket.gethostname()]
    for fact in map(Path, MACHINE_FACTS):
        with suppress(OSError):
            names.append(str(fact.readlink()) if fact.is_symlink() else fact.read_text(encoding="ascii"))
    return zlib.crc32("\0".join(names).encode())


def _is_abandoned(writer: str, files: Iterable[Path]) -> bool:
    """Tell whether a process has ended, or has written to none of its files for long."""
    machine, _, process = writer.partition("-")
    if machine == f"{_machine():08x}":
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:  # another user's
            pass
    return max(file.lstat().st_mtime for file in files) < time.time() - SECONDS_ABANDONED
