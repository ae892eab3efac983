"""One process at a time, for what cannot be shared: a download in work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from palm_cache.errors import StoreError
from palm_cache.store.atomic import write_errors
from palm_cache.store.places.local import LocalFolder


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
    with ExitStack() as stack:
        with write_errors(path, option):
            alone = stack.enter_context(LocalFolder(path.parent).alone(path.name))
        if not alone:
            raise StoreError(f"{path}: {competitor}; wait for it to end")
        yield
