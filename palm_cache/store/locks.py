"""One writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from palm_cache.errors import StoreError
from palm_cache.store.files import write_errors


def lock_file(path: Path) -> Path:
    """Return the file whose lock says that something is being written."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Path, competitor: str, option: str = "--out") -> Iterator[None]:
    """Keep a second process off what is about to be written; the system frees the lock of a killed one.

    Parameters
    ----------
    path : Path
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
    with write_errors(path, option):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_file(path)
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


def is_locked(path: Path) -> bool:
    """Tell whether somebody is writing there, without leaving a trace."""
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
