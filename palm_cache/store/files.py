"""Files that appear whole or not at all, and write errors that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palm_cache.errors import OutputError


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into one line about ``path``.

    Raises
    ------
    OutputError
        Naming the path, the reason and the next step.
    """
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space and run the same command again",
            errno.EDQUOT: "the quota is used up: free some space and run the same command again",
            errno.EACCES: "choose another folder with --out, or change its permissions",
            errno.EPERM: "choose another folder with --out, or change its permissions",
            errno.EROFS: "the file system is read-only: choose another folder with --out",
        }.get(error.errno or 0, "choose another folder with --out")
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot write: {reason.lower()}; {advice}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` and rename it over ``path`` when the block succeeds.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
