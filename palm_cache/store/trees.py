"""A feature store as a tree of files: how it appears, is replaced and goes, whole or not at all.

On this machine a tree is built under another name and renamed. Object stores cannot rename: there a tree is
there as soon as its root metadata (``zarr.json``) is, which is therefore written last and removed
first. Replacing a remote store removes the old root metadata, copies the new tree and writes its root
metadata last; in between there is no store at that place, but never a mixture of two. Whoever reads
while a store is replaced compares its state before and after (``FeatureStore.read``).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from upath import UPath
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from palm_cache.errors import OutputError
from palm_cache.store.files import write_errors
from palm_cache.store.places import copy_files, files_below, reaching
from palm_cache.types import Place, Progress, no_progress

ROOT = "zarr.json"
"""Metadata at a store's root: where it is, there is a store."""

MEMBERS = {ROOT, "audio", "content_sha256", "error", "text", "path", "label", "folds"}
"""What lies at the top of a feature store."""

SMALL_FILES = {"s3": {"max_concurrency": 1}}
"""Options of file systems, by scheme, that let a small file be read by one request: S3's client would ask
for its size first, to fetch a large one in parts."""

FILES_AT_ONCE = 256
"""Files that are copied between two reports of progress."""


class ReachingStore(FsspecStore):
    """A remote Zarr store that raises ``PlaceError`` where a file system's own would be taken for damage."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a value, or ``None`` if there is none."""
        with reaching(self._url):
            return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Write a value."""
        with reaching(self._url):
            await super().set(key, value, byte_range)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List what lies directly below a prefix."""
        with reaching(self._url):
            async for name in super().list_dir(prefix):
                yield name

    @property
    def _url(self) -> str:
        return str(self.fs.unstrip_protocol(self.path))


def zarr_store(tree: Place) -> Path | FsspecStore:
    """Return what zarr opens a place by."""
    if isinstance(tree, Path):
        return tree
    options = {**tree.storage_options, **SMALL_FILES.get(tree.protocol, {})}
    return ReachingStore.from_url(str(tree), storage_options=options)


def exists(tree: Place) -> bool:
    """Tell whether there is something at the place of a store."""
    if isinstance(tree, Path):
        return tree.exists()
    with reaching(tree):
        return (tree / ROOT).exists()


@contextmanager
def building(target: Place) -> Iterator[Path]:
    """Give a folder of this machine, not there yet, to build a tree in, and put it in its place afterwards.

    Parameters
    ----------
    target : Place
        Where nothing is yet.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with write_errors(target):
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.skeleton")
            shutil.rmtree(temporary, ignore_errors=True)
            yield temporary
            temporary.rename(target)
            return
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, target.name)
            yield temporary
            copy(temporary, target)


def copy(
    source: Place, target: Place, check: Callable[[], None] = lambda: None, progress: Progress = no_progress
) -> None:
    """Copy a tree to where nothing is yet.

    Parameters
    ----------
    check : callable
        Called when all has been copied, before the copy is there; may raise to prevent it.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    if isinstance(target, Path):
        with building(target) as temporary:
            _copy_all(source, temporary, [], progress)
            check()
        return
    remove(target)  # what an interrupted removal or copy has left
    with write_errors(target):
        _copy_all(source, target, [ROOT], progress)
        check()
        copy_files(source, target, [ROOT])


def _copy_all(source: Place, target: Place, but: Sequence[str], progress: Progress) -> None:
    names = [name for name in files_below(source) if name not in but]
    for start in range(0, len(names), FILES_AT_ONCE):
        some = names[start : start + FILES_AT_ONCE]
        copy_files(source, target, some)
        progress("copying", start + len(some), len(names))


def replace(tree: Place, successor: Place) -> None:
    """Put a finished successor, built beside a tree, in its place.

    Raises
    ------
    OutputError
        If that cannot be written; the next :func:`finish_replacing` goes on from there.
    """
    with write_errors(tree):
        if isinstance(tree, UPath) or isinstance(successor, UPath):
            remove(tree)
            copy(successor, tree)
            remove(successor)
            return
        tree.rename(_retired(tree))
        successor.rename(tree)
    shutil.rmtree(_retired(tree), ignore_errors=True)


def finish_replacing(tree: Place, successor: Place) -> None:
    """Finish a replacement that was interrupted; afterwards the tree is there if it or its successor was.

    Raises
    ------
    OutputError
        If that cannot be written.
    """
    if isinstance(tree, Path):
        shutil.rmtree(_retired(tree), ignore_errors=True)
    if not exists(tree) and exists(successor):
        with write_errors(tree):
            if isinstance(tree, Path) and isinstance(successor, Path):
                successor.rename(tree)
            else:
                replace(tree, successor)


def remove(tree: Place) -> None:
    """Remove a tree, remotely its root metadata first.

    Raises
    ------
    OutputError
        If it cannot be removed, or is not a feature store's.
    """
    check_ours(tree)
    with write_errors(tree):
        if isinstance(tree, Path):
            if tree.exists():
                shutil.rmtree(tree)
        elif tree.exists():
            (tree / ROOT).unlink(missing_ok=True)
            tree.fs.rm(tree.path, recursive=True)


def check_ours(tree: Place) -> None:
    """Make sure that what lies at a place may be removed because it is a feature store, or a part of one.

    Raises
    ------
    OutputError
        If there is anything else.
    """
    with write_errors(tree):
        names = [path.name for path in tree.iterdir()] if tree.is_dir() else []
    foreign = [name for name in names if name not in MEMBERS and not name.startswith(".")]
    if foreign:
        raise OutputError(
            f"{tree}: there is something else here ({foreign[0]}) that a store would replace; "
            "choose another place with --out"
        )


def _retired(tree: Path) -> Path:
    return tree.with_name(f".{tree.name}.old")
