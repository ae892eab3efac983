"""One process at a time, for what cannot be shared: a download in work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from palm_cache.errors import StoreError
from palm_cache.store.atomic import write_errors


@contextmanager
def locked(path: Path, competitor: str, option: str = "--out") -> Iterator[None]:
    """Keep a second process of this machine off what is about to be written.

    The system frees the lock when the process dies.

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
    file = path.with_name(f".{path.name}.lock")
    with write_errors(path, option):
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
