"""One writer at a time.

On this machine a lock file does it, which the system frees when its process dies. A remote place has no such
system: there an object beside the store, made only if there is none, names the machine that writes. A
killed run leaves it behind. The same machine takes it over, because a lock file of its own tells whether the
run is alive; any other is sent away until somebody who knows says ``palm-cache store unlock``. No clock is
asked: how old a lock is says nothing about whether its owner lives.

S3 and Google Cloud Storage make such an object atomically. Where a file system of fsspec cannot, it looks
first and writes then, and two runs that begin within the same moment may both begin.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from upath import UPath

from palm_cache.errors import OutputError, StoreError
from palm_cache.store.files import named, write_errors
from palm_cache.store.places import reaching
from palm_cache.types import Place

P = TypeVar("P", Path, UPath)


def lock_file(path: P) -> P:
    """Return the file or object that says that something is being written."""
    return named(path).with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Place, competitor: str, option: str = "--out") -> Iterator[None]:
    """Keep a second process off what is about to be written.

    Parameters
    ----------
    path : Place
        What is written.
    competitor : str
        What the other process does, for the message.
    option : str
        The command line's option for choosing another place.

    Raises
    ------
    StoreError
        If another process holds the lock.
    OutputError
        If nothing can be written there.
    """
    if isinstance(path, Path):
        with _held(path, lock_file(path), competitor, option):
            yield
        return
    own = _own_file(path)
    # Whoever holds this one is alive: a remote lock in this machine's name is otherwise a dead run's.
    with _held(path, own.with_suffix(".lock"), f"{competitor} on this machine", option):
        _lock_remotely(path, _token(own), competitor)
        try:
            yield
        finally:
            with suppress(OutputError), write_errors(path):
                lock_file(path).unlink(missing_ok=True)


@contextmanager
def _held(path: Place, file: Path, competitor: str, option: str) -> Iterator[None]:
    with write_errors(file if isinstance(path, UPath) else path, option):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()  # where nothing can be written, the lock would report a competitor
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(f"{path}: {competitor}; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()


def _lock_remotely(path: UPath, token: str, competitor: str) -> None:
    """Make the lock of a remote place, or find this machine's own there."""
    mark = lock_file(path)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    content = json.dumps({"token": token, "host": socket.gethostname(), "since": since})
    with write_errors(path):
        try:
            mark.fs.pipe_file(mark.path, content.encode(), mode="create")
        except FileExistsError:
            holder = _holder(mark)
            if holder.get("token") != token:
                raise StoreError(
                    f"{path}: {competitor}, on {holder.get('host')} since {holder.get('since')}; wait for it "
                    f"to end or, if it is no more: palm-cache store unlock {path}"
                ) from None


def _holder(mark: UPath) -> dict[str, str]:
    """Read who holds a remote lock; nobody known if it is gone or not ours."""
    try:
        content = json.loads(mark.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _own_file(path: Place) -> Path:
    """Return where this machine keeps its lock and its name for a remote place."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache").expanduser()
    name = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    # Machines may share a home.
    return Path(cache, "palm-cache", "locks", f"{name}-{socket.gethostname()}.token")


def _token(file: Path) -> str:
    """Return this machine's name for a remote place, made once; call it only under the machine's lock."""
    with write_errors(file):
        if not file.exists():
            file.write_text(uuid.uuid4().hex)
        return file.read_text()


def unlock(path: Place) -> str | None:
    """Remove the lock of a remote place; return whose it was, or ``None`` if there was none.

    Raises
    ------
    PlaceError
        If the place cannot be reached.
    """
    if isinstance(path, Path):
        return None
    mark = lock_file(path)
    with reaching(path):
        if not mark.exists():
            return None
        holder = _holder(mark)
        mark.unlink(missing_ok=True)
    return f"{holder.get('host', 'unknown')}, since {holder.get('since', 'unknown')}"


def is_locked(path: Path) -> bool:
    """Tell whether somebody is writing at a place of this machine, without leaving a trace."""
    file = lock_file(path)
    if not file.exists():
        return False
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
