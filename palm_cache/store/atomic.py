"""Files that appear whole or not at all, and write errors that say what to do.

Everywhere here ``parameter`` is what chooses another place, by its name in Python; "" where nothing does.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

from palm_cache.errors import OutputError, StoreError, reason_of, visible
from palm_cache.store.outputs import OutputKind
from palm_cache.store.places import clear_left_behind, folder, reaching, short
from palm_cache.types import Place
from palm_cache.types.audio_names import is_audio_name

P = TypeVar("P", bound=Place)

logger = logging.getLogger(__name__)

SILENT_SECONDS, FOR_EVER = 2.0, -1.0
"""How long one waits for another process before that is said, and from then on."""

DEEPEST_JSON = 32
"""Levels of JSON that are read; ours has fewer, and Python's own recursion ends at some hundreds."""


@contextmanager
def write_errors(path: Place, parameter: str = "out") -> Iterator[None]:
    """Turn an error of writing inside the block into one line about ``path``, its reason and the next step.

    Raises ``OutputError``, or ``PlaceError`` where a remote place cannot be reached.
    """
    try:
        with reaching(path):
            yield
    except OSError as error:
        told = "; ".join(filter(None, (reason_of(error), _advice(error, parameter))))
        raise OutputError(f"{path}: cannot write: {told}") from error


def parse_json(content: bytes | str) -> Any:
    """Read JSON that anybody may have written; raises ``ValueError`` if it is none, or nested too deeply."""
    with suppress(RecursionError):
        value = json.loads(content)
        if _depth(value) <= DEEPEST_JSON:
            return value
    raise ValueError("nested too deeply")


def _depth(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inside), default=0)


def _advice(error: OSError, parameter: str) -> str:
    remedy = {
        errno.ENOSPC: "free some space, then try again",
        errno.EDQUOT: "the quota is used up: free some space, then try again",
        errno.EACCES: "change its permissions",
        errno.EPERM: "change its permissions",
    }.get(error.errno or 0)
    elsewhere = parameter and f"choose another folder with `{parameter}`"
    return ", or ".join(filter(None, (remedy, elsewhere)))


@contextmanager
def replacing(path: Place, parameter: str = "out", kind: OutputKind | None = None) -> Iterator[Path]:
    """Give a temporary path, and put what is written there in the place of ``path`` when the block succeeds.

    Raises ``OutputError`` as :func:`check_target`, or if the file cannot be written.
    """
    check_target(path, parameter, kind)
    where = folder(path.parent)
    with write_errors(path, parameter), where.replacing(path.name) as temporary:
        yield temporary
    clear_left_behind(where, short(path.name).__eq__)


def check_target(path: Place, parameter: str, kind: OutputKind | None = None) -> None:
    """Raise ``OutputError`` for what is a folder, has no name, is called like a recording, or is another's.

    Of what is there an empty file and an earlier output of the kind may be replaced. Without a kind anything
    may: that is for names of ours, in folders of results.
    """
    elsewhere = f"; choose another place with `{parameter}`" if parameter else ""
    if is_audio_name(named(path).name):
        raise OutputError(f"{path}: is called like a recording, and none is written over{elsewhere}")
    if isinstance(path, Path) and path.is_dir():
        raise OutputError(f"{path}: is a folder{elsewhere}")
    if kind is None or not isinstance(path, Path):
        return
    with write_errors(path, parameter):
        if path.is_file() and path.stat().st_size and not kind.is_one(path):
            what = f"is there already and is no {kind.noun} that palm-cache wrote"
            raise OutputError(f"{path}: {what}{elsewhere}, or remove it")


def named(path: P) -> P:
    """Return the place of what is about to be made; raise ``OutputError`` if it has no name."""
    if path.name in ("", ".."):
        raise OutputError(f"{path}: is a folder without a name of its own; name something inside it")
    return path


class GrowingFile:
    """A text file that can be read while it is written.

    Where it cannot be written, every method raises ``OutputError``, and nothing of it stays.
    """

    def __init__(self, path: Path, parameter: str, kind: OutputKind) -> None:
        check_target(path, parameter, kind)
        self._path, self._parameter = path, parameter
        with write_errors(path, parameter):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)

    def write(self, text: str) -> None:
        """Add text, at once."""
        content = memoryview(text.encode("utf-8", "surrogateescape"))
        try:
            with write_errors(self._path, self._parameter):
                while content:
                    content = content[self._file.write(content) :]
        except OutputError:
            self.close()
            if self._path.is_file():  # not a device
                self._path.unlink()
            raise

    def close(self) -> None:
        """Write no more."""
        self._file.close()


@contextmanager
def alone_in(results: Path, parameter: str = "out") -> Iterator[None]:
    """Wait until no other process adds to the results in a folder, and keep the others waiting meanwhile."""
    where = folder(results)
    with ExitStack() as stack:
        with write_errors(results, parameter):
            if not stack.enter_context(where.alone("results", SILENT_SECONDS)):
                logger.warning("waiting for another palm-cache that writes to %s", visible(str(results)))
                stack.enter_context(where.alone("results", FOR_EVER))
        yield


def check_writable(results: Path, parameter: str = "out") -> None:
    """Raise ``OutputError`` where a folder takes no file or cannot be made: before long work for it."""
    with write_errors(results, parameter):
        there = next(filter(Path.exists, (results, *results.absolute().parents)))
        TemporaryFile(dir=there).close()


@contextmanager
def locked(path: Path, competitor: str, parameter: str = "out") -> Iterator[None]:
    """Keep a second process of this machine off a file; the system frees the lock when this one dies.

    Raises ``StoreError`` if another process holds it: ``competitor`` says what that does.
    """
    with ExitStack() as stack:
        with write_errors(path, parameter):
            alone = stack.enter_context(folder(path.parent).alone(path.name))
        if not alone:
            raise StoreError(f"{path}: {competitor}; wait for it to end")
        yield


def check_vacant(folder: Path, parameter: str) -> None:
    """Raise ``OutputError`` where a folder that is about to be made is there already, and is not empty."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise OutputError(
            f"{folder}: there is something here already; remove it or choose another `{parameter}`"
        )
