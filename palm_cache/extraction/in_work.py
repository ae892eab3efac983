"""Batches that workers have, and what they give, also to who is interrupted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class InWork(Generic[T]):
    """A batch that a worker has."""

    tags: tuple[T, ...]
    future: Future[Vectors]

    def __iter__(self) -> Iterator[tuple[T, Vectors]]:
        return zip(self.tags, self.future.result(), strict=True)


def take(in_work: deque[InWork[T]]) -> Iterator[tuple[T, Vectors]]:
    """Yield what the first batch gives; as long as that is waited for, it is in work."""
    vectors = list(in_work[0])
    in_work.popleft()
    yield from vectors


def rescue(in_work: deque[InWork[T]]) -> Iterator[tuple[T, Vectors]]:
    """Yield what all batches give but those that were stopped themselves."""
    while in_work:
        batch = in_work.popleft()
        try:
            vectors = list(batch)
        except KeyboardInterrupt:
            if not batch.future.done():  # told a second time
                raise
            continue
        yield from vectors
