"""Files that appear whole or not at all, and write errors that say what to do."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palm_cache.errors import OutputError
from palm_cache.store.places import folder, is_remote_failure, reason_of
from palm_cache.types import Place


@contextmanager
def write_errors(path: Place, option: str = "--out") -> Iterator[None]:
    """Turn an error of writing inside the block into one line about ``path``.

    Parameters
    ----------
    option : str
        The command line's option for choosing another place.

    Raises
    ------
    OutputError
        Naming the path, the reason and the next step.
    """
    try:
        yield
    except Exception as error:
        if isinstance(path, Path) and isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"{path}: cannot write: {reason}; {_advice(error, option)}") from error
        if not isinstance(path, Path) and is_remote_failure(error):
            raise OutputError(
                f"{path}: cannot write: {reason_of(error)}; check address and network, and the credentials "
                "in the environment"
            ) from error
        raise


def _advice(error: OSError, option: str) -> str:
    return {
        errno.ENOSPC: "free some space and run the same command again",
        errno.EDQUOT: "the quota is used up: free some space and run the same command again",
        errno.EACCES: f"choose another folder with {option}, or change its permissions",
        errno.EPERM: f"choose another folder with {option}, or change its permissions",
        errno.EROFS: f"the file system is read-only: choose another folder with {option}",
    }.get(error.errno or 0, f"choose another folder with {option}")


@contextmanager
def replacing(path: Place) -> Iterator[Path]:
    """Give a temporary path and put what is written there in the place of ``path`` when the block succeeds.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if not isinstance(path, Path):
        with write_errors(path), tempfile.TemporaryDirectory() as work:
            temporary = Path(work, path.name)
            yield temporary
            folder(path.parent).put(path.name, temporary)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def check_vacant(folder: Path, option: str) -> None:
    """Make sure that a folder that is about to be made is not there yet, or is empty.

    Parameters
    ----------
    option : str
        The command line's option for choosing another one.

    Raises
    ------
    OutputError
        If there is something.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise OutputError(f"{folder}: there is something here already; remove it or choose another {option}")
