"""A cache of small values, and what is put into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from palm_cache.store.cache import Cache

RECIPE = {"encoder": "mini", "views": 1}


def make(root: Path, **options: object) -> Cache:
    return Cache(root, "audio", RECIPE, (2, 3), **options)  # type: ignore[arg-type]


def keys_of(*numbers: int) -> np.ndarray:
    return np.stack([np.frombuffer(number.to_bytes(32, "little"), np.uint8) for number in numbers])


def hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def values(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2, 3)).astype(np.float32)


def segments(cache: Cache) -> list[Path]:
    assert isinstance(cache.folder.place, Path)
    return sorted(cache.folder.place.glob("*.safetensors"))
