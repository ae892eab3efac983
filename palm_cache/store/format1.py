"""Stores of format 1, as earlier versions wrote them: what they know is taken into the cache, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from palm_cache.store.atomic import parse_json
from palm_cache.store.places import folder
from palm_cache.types import Place

CHUNK_CLIPS = 64
"""Rows of a chunk, whose file of ``audio`` was written last: where it is, the chunk is complete."""


def format1_header(path: Place) -> dict[str, object] | None:
    """Return the attributes of a store of format 1, ``None`` where there is none."""
    try:
        attributes = parse_json(folder(path).read("zarr.json")).get("attributes")
    except (OSError, ValueError, AttributeError):
        return None
    return attributes if isinstance(attributes, dict) and attributes.get("format_version") == 1 else None


def format1_embeddings(path: Place) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yield content hashes (n, 32) and embeddings (n, views, dim) of a store of format 1, chunk by chunk.

    What is missing, damaged, or had no embedding is left out.
    """
    where = folder(path)
    files = where.files()
    try:
        group = zarr.open_group(where.zarr(), mode="r", zarr_format=3)
        audio, hashes, errors = (cast(Any, group[name]) for name in ("audio", "content_sha256", "error"))
        n_rows = audio.shape[0]
    except (ValueError, KeyError, TypeError, OSError):
        return
    for start in range(0, n_rows, CHUNK_CLIPS):
        number, rows = start // CHUNK_CLIPS, slice(start, start + CHUNK_CLIPS)
        if f"audio/c/{number}/0/0" not in files:
            continue
        try:
            embeddings = np.asarray(audio[rows], np.float32)
            known = [(str(sha), str(error)) for sha, error in zip(hashes[rows], errors[rows], strict=True)]
        except (ValueError, KeyError, TypeError, RuntimeError, OSError):
            continue
        # Where a file was lost in copying zeros are read, which no encoder gives.
        sound = np.isfinite(embeddings).all(axis=(1, 2)) & (np.abs(embeddings).max(axis=2) > 0).all(axis=1)
        good = [row for row, (sha, error) in enumerate(known) if len(sha) == 64 and not error and sound[row]]
        keys = np.frombuffer(b"".join(bytes.fromhex(known[row][0]) for row in good), np.uint8)
        yield keys.reshape(-1, 32), embeddings[good]
