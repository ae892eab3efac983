"""Which keys have been seen: told quickly, in any thread, by 8 bytes of each."""

from __future__ import annotations

import struct
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

RECENT_KEYS = 50_000
"""Keys that are kept in a set before they are sorted in: memory against time."""


class SeenKeys:
    """A growing set of keys."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64).data
        """First 8 bytes of all but the recent ones."""
        self._recent: set[int] = set()

    def __contains__(self, key: bytes) -> bool:
        (prefix,) = struct.unpack_from("<Q", key)
        if prefix in self._recent:
            return True
        prefixes = self._sorted
        at = bisect_left(prefixes, prefix)  # numpy's way waits for Python's lock
        return at < len(prefixes) and prefixes[at] == prefix

    def add(self, prefixes: NDArray[np.uint64]) -> None:
        """Add keys, by their first 8 bytes."""
        if len(self._recent) + len(prefixes) <= RECENT_KEYS:
            self._recent.update(prefixes.tolist())
            return
        recent = np.fromiter(self._recent, np.uint64, len(self._recent))
        # A set is emptied last: whoever asks meanwhile finds a key in one of the two.
        self._sorted = _with(np.asarray(self._sorted), np.sort(np.append(recent, prefixes))).data
        self._recent = set()


def _with(numbers: NDArray[np.uint64], more: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return sorted numbers and those of other sorted ones that are not among them, in a pass over both.

    To sort them all, or to make all unique, takes twenty times as long at a million: what a merge has made is
    known already, and what is new is little.
    """
    at = np.searchsorted(numbers, more)
    fresh = at == len(numbers)
    fresh[~fresh] = numbers[at[~fresh]] != more[~fresh]
    return np.insert(numbers, at[fresh], more[fresh])
