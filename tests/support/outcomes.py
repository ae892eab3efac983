"""Clips that go through an embedder, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from palm_cache.extraction.audio.waveforms import content_hash
from palm_cache.extraction.embedding import Embedder, Outcome
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.params import Recipe
from palm_cache.types import Clip

SOON = 120.0
"""Seconds in which a thread that can go on has gone on."""


def run(
    encoder: Encoder, clips: Sequence[Clip], *, batch_size: int = 0, take: Callable[[Outcome], object] = id
) -> dict[int, Outcome]:
    """Embed clips one time each and return their outcomes by row."""
    found: dict[int, Outcome] = {}
    with Embedder(encoder, Recipe(), batch_size) as embedder:
        for outcome in embedder.embed(list(enumerate(clips))):
            assert outcome.row not in found
            found[outcome.row] = outcome
            take(outcome)
    return found


def vectors(found: dict[int, Outcome]) -> dict[int, np.ndarray]:
    return {row: one.vectors for row, one in found.items() if one.vectors is not None}


def assert_same_bits(one: dict[int, Outcome], other: dict[int, Outcome]) -> None:
    assert vectors(one).keys() == vectors(other).keys()
    for row, made in vectors(one).items():
        assert np.array_equal(made, other[row].vectors), row  # type: ignore[arg-type]


def hash_of(clip: Clip) -> str:
    with clip.file.open("rb") as file:
        return content_hash(file)
