"""What is known of a dataset's files before one of them is read: the content of those that have not changed.

As git and DVC do, a file is known by path, size, times and inode (remotely by its ETag); one that was changed
a moment ago is read in any case.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import OutputError, PlaceError
from palm_cache.store.cache import Cache
from palm_cache.store.header import row_keys
from palm_cache.store.places import states
from palm_cache.store.segments import KEY_BYTES
from palm_cache.types import Clips, Place

if TYPE_CHECKING:
    from palm_cache.extraction.datasets.splits import KnownContents
    from palm_cache.params import Check

FILES_AT_ONCE = 1 << 14
"""Files whose state, and rows whose embedding, are asked for at once: it takes memory."""

FILES_LEARNED = 1 << 15
"""Files that are read before what was learned of them is recorded."""


def file_cache(root: Place) -> Cache:
    """Open the cache of content hashes by the state of files."""
    return Cache(root, "files", {"content": "sha256"}, (KEY_BYTES,), dtype="uint8")


def known_contents(root: Place, check: Check) -> KnownContents | None:
    """Return what tells the contents of files from a cache; ``None`` where it is not to be trusted."""
    return partial(_contents_in, root) if check == "stat" else None


def _contents_in(root: Place, paths: Sequence[str]) -> NDArray[np.uint8]:
    files = file_cache(root)
    if not files.n_keys:
        return np.zeros((len(paths), KEY_BYTES), np.uint8)
    portions = range(0, len(paths), FILES_AT_ONCE)
    return np.concatenate([_contents(files, paths[at : at + FILES_AT_ONCE]) for at in portions])


def _contents(files: Cache, paths: Sequence[Place | str]) -> NDArray[np.uint8]:
    """Return the contents of files as far as they are known, (n, 32) sha256; zeros where they are not."""
    contents, file_states = np.zeros((len(paths), KEY_BYTES), np.uint8), states(paths)
    rows = np.array([row for row, state in enumerate(file_states) if state is not None], np.int64)
    keys = np.frombuffer(b"".join(filter(None, file_states)), np.uint8).reshape(-1, KEY_BYTES)
    _, contents[rows] = files.take_known(keys)
    return contents


@dataclass(slots=True)
class KnownFiles:
    """The rows of a dataset and what is known of their contents."""

    clips: Clips
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    """(rows,) seconds; NaN is the end of the file."""
    contents: NDArray[np.uint8]
    """(rows, 32) sha256 of every file; zeros where it is not known."""
    _files: Cache
    unread: dict[int, str] = field(default_factory=dict)
    """Why a file could not be read, by row."""
    unremembered: str = ""
    """Why nothing could be recorded for the next time, in words; "" if it could."""
    _learned: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, clips: Clips, files: Cache, trusted: bool) -> KnownFiles:
        """Look at files without reading them.

        Parameters
        ----------
        files : Cache
            What was known of them, and is going to be.
        trusted : bool
            Whether what was known counts.
        """
        contents, root = np.zeros((len(clips), KEY_BYTES), np.uint8), clips.root.absolute()
        folder = str(root) if isinstance(root, Path) else ""
        # Of files none of which has been read before nothing is asked.
        for at in range(0, len(clips), FILES_AT_ONCE) if trusted and files.n_keys else ():
            paths = clips.paths[at : at + FILES_AT_ONCE]
            # As text: a million paths would take as long as all the rest.
            places = [os.path.join(folder, path) if folder else root / path for path in paths]  # noqa: PTH118
            contents[at : at + FILES_AT_ONCE] = _contents(files, places)
        files.forget()  # else a million files take 30 MB all the time
        return cls(clips, np.asarray(clips.starts), np.asarray(clips.ends), contents, files)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(rows,) whether the content is known."""
        return np.asarray(self.contents.view(np.uint64).any(axis=1))

    def keys(self, rows: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.uint8]:
        """(rows, 32) what the cache knows all rows or some by; zeros where the content is not known."""
        return row_keys(self.contents[rows], self.start[rows], self.end[rows])

    def look_up(self, audio: Cache) -> tuple[NDArray[np.bool_], dict[int, str]]:
        """Tell which rows' embeddings are known, (rows,), and why others have none."""
        known = np.zeros(len(self.contents), bool)
        failures: dict[int, str] = {}
        for at in range(0, len(known), FILES_AT_ONCE):
            part = audio.look_up(self.keys(slice(at, at + FILES_AT_ONCE)))
            known[at : at + FILES_AT_ONCE] = part.known
            failures |= {at + row: failure.reason for row, failure in part.failures.items()}
        return known, failures

    def learn(self, row: int, content: bytes, state: bytes | None, error: str) -> None:
        """Take in the content of a file, or why it could not be read if that is empty."""
        if not content:
            self.unread[row] = error
            return
        self.contents[row] = np.frombuffer(content, np.uint8)
        self.unread.pop(row, None)
        if state is not None:
            self._learned[state] = content
        if len(self._learned) >= FILES_LEARNED:
            self.remember()

    def remember(self) -> None:
        """Record for the next time what has been read; where that cannot be, nothing else is in doubt."""
        states, contents = b"".join(self._learned), b"".join(self._learned.values())
        keys, values = (np.frombuffer(part, np.uint8).reshape(-1, KEY_BYTES) for part in (states, contents))
        try:
            self._files.add(keys, values)
        except (OutputError, PlaceError) as error:
            self.unremembered = f"the next run reads the files again: {error.message}"
        self._files.forget()
        self._learned.clear()
