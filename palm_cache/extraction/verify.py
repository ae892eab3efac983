"""Hold a feature store against its dataset and its encoder: are the rows those clips, are the numbers those?

What the bytes of a store say of themselves is checked by ``FeatureStore.problems``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import AudioError, DamagedStoreError
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.plan import hash_file
from palm_cache.extraction.reading import Cut, read_pieces
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip, ClipTable, Progress, no_progress

TOLERANCE = 1e-5
"""Largest difference between two float32 embeddings of one clip; a share of its largest value, if that is
above 1."""

COSINE = 0.9999
"""Smallest cosine between two embeddings of one clip in a coarser precision, whose rounding depends on
the batch that a clip was in."""

NAMED = 3
"""Clips of one kind that a problem names."""


@dataclass(frozen=True, slots=True)
class Recomputation:
    """How far a sample of a store's embeddings is from what the encoder gives now."""

    compared: int
    """Clips embedded again."""
    difference: float
    """Largest; a share of the clip's largest value, if that is above 1."""
    cosine: float
    """Smallest."""
    problems: tuple[str, ...]


def dataset_problems(store: FeatureStore, table: ClipTable, progress: Progress = no_progress) -> list[str]:
    """Compare the rows of a store with the clips, classes and folds of its dataset; one line per problem.

    Every file is hashed. Chunks that are missing or damaged are left to ``FeatureStore.problems``.
    """
    names, labels = store.clip_names(), store.labels().tolist()
    known = dict(zip(names, labels, strict=True))
    wanted = {clip.name: clip for clip in table.clips}
    in_both = [name for name in names if name in wanted]
    classes = store.header.class_names
    kinds = {
        "of the dataset not in the store": [name for name in wanted if name not in known],
        "of the store not in the dataset": [name for name in names if name not in wanted],
        "of another class": [
            name for name in in_both if classes[known[name]] != table.class_of(wanted[name])
        ],
        "of changed content": _changed(store, wanted, progress),
    }
    found = [f"{len(clips)} clip(s) {kind}: {_some(clips)}" for kind, clips in kinds.items() if clips]
    if not found and not store.holds(table):
        found.append("the dataset's folds, class names or order of clips are not the store's")
    return found


def _changed(store: FeatureStore, wanted: dict[str, Clip], progress: Progress) -> list[str]:
    """Return the names of the clips whose file is not the one that was embedded."""
    names, changed = store.clip_names(), []
    for chunk in sorted(store.committed()):
        rows = store.rows(chunk)
        try:
            hashes, _ = store.hashes_and_errors(chunk)
        except DamagedStoreError:
            continue
        for name, sha in zip(names[rows], hashes, strict=True):
            if name in wanted and hash_file(wanted[name]) != sha:
                changed.append(name)
        progress("comparing", rows.stop, len(names))
    return changed


def recompute(
    store: FeatureStore,
    table: ClipTable,
    encoder: Encoder,
    count: int,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Recomputation:
    """Embed a random sample of a store's clips again, each alone, and compare.

    Parameters
    ----------
    encoder : Encoder
        The one that made the store: see ``load_encoder_of``.
    count : int
        Clips to take, of those that have a sound embedding; all of them if there are fewer.
    seed : int
        Of the sample.
    """
    wanted = {clip.name: clip for clip in table.clips}
    names, hashes = store.clip_names(), _embedded(store)
    rows = np.random.default_rng(seed).permutation(sorted(hashes))[:count].tolist()
    exact = store.header.identity.get("precision", "fp32") == "fp32"
    difference, cosine, compared, problems = 0.0, 1.0, 0, []
    for number, row in enumerate(rows, start=1):
        name = names[row]
        try:
            if name not in wanted:
                raise AudioError("not in the dataset")
            now = _embed(wanted[name], hashes[row], encoder, store.header.views)
        except AudioError as error:
            problems.append(f"row {row}, {name}: cannot be embedded again: {error}")
            continue
        chunk = store.chunk_of(row)
        gap, angle = _distance(store.read_chunk(chunk)[row - store.rows(chunk).start], now)
        compared, difference, cosine = compared + 1, max(difference, gap), min(cosine, angle)
        if not (gap <= TOLERANCE if exact else angle >= COSINE):
            problems.append(
                f"row {row}, {name}: the encoder gives another embedding (difference {gap:.1e}, "
                f"cosine {angle:.6f})"
            )
        progress("embedding again", number, len(rows))
    return Recomputation(compared, difference, cosine, tuple(problems))


def _embedded(store: FeatureStore) -> dict[int, str]:
    """Return row and content hash of every clip that has a sound embedding."""
    rows = {}
    for chunk in sorted(store.committed()):
        try:
            hashes, errors = store.hashes_and_errors(chunk)
            store.read_chunk(chunk)
        except DamagedStoreError:
            continue
        numbered = enumerate(zip(hashes, errors, strict=True), start=store.rows(chunk).start)
        rows.update({row: sha for row, (sha, error) in numbered if not error})
    return rows


def _embed(clip: Clip, content_sha256: str, encoder: Encoder, views: int) -> NDArray[np.float32]:
    """Embed one clip alone, stretch by stretch, (views, dim)."""
    total, count = np.zeros((views, encoder.dim)), np.zeros((views, 1))
    for piece in read_pieces(clip, Cut.of(encoder, views)):
        if piece.error:
            raise AudioError(piece.error)
        if piece.content_sha256 != content_sha256:
            raise AudioError("the file has changed")
        for view, windows in piece.windows:
            total[view] += encoder.embed_audio(windows[None])[0].numpy()
            count[view] += 1
    return (total / count).astype(np.float32)


def _distance(stored: NDArray[np.float32], now: NDArray[np.float32]) -> tuple[float, float]:
    """Return the largest difference and the smallest cosine of two (views, dim)."""
    scale = max(float(np.abs(stored).max()), 1.0)
    norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(now, axis=1)
    cosines = (stored * now).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(np.abs(stored - now).max()) / scale, float(cosines.min())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
