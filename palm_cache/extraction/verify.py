"""Hold a feature store against its dataset and its encoder: are the rows those clips, are the numbers those?

What the files of a store say of themselves is checked by ``FeatureStore.problems``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DataError, counted, some
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.matching import row_of, stored_rows
from palm_cache.extraction.reading import hash_files
from palm_cache.extraction.whereabouts import locate
from palm_cache.extraction.work import Numbered
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip, ClipTable, Progress, no_progress

TOLERANCE = 1e-5
"""Largest difference between two float32 embeddings of one clip; a share of its largest value, if that is
above 1."""

COSINE = 0.9999
"""Smallest cosine between two embeddings of one clip in a coarser precision, whose rounding depends on
the batch that a clip was in."""


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

    Every file is hashed.
    """
    rows, hashes = store.rows(), store.content_hashes()
    known = {row: number for number, row in enumerate(stored_rows(store))}
    wanted = {row_of(clip): clip for clip in table.clips}
    in_both = [row for row in known if row in wanted]
    changed = []
    numbered = [(known[row], wanted[row]) for row in in_both]
    for number, read in enumerate(hash_files(numbered), start=1):
        if read.content.hex() != hashes[read.row]:
            changed.append(rows.names[read.row])
        progress("comparing", number, len(numbered))
    classes = store.header.class_names
    labels = [classes[label] if label >= 0 else None for label in rows.labels.tolist()]
    kinds = {
        "of the dataset not in the store": [row[0] for row in wanted if row not in known],
        "of the store not in the dataset": [row[0] for row in known if row not in wanted],
        "of another class": [row[0] for row in in_both if labels[known[row]] != table.class_of(wanted[row])],
        "of changed content": changed,
    }
    problems = [
        f"{counted(len(clips), 'clip')} {kind}: {some(clips)}" for kind, clips in kinds.items() if clips
    ]
    same_order = list(known) == list(wanted)
    if not problems and not (same_order and classes == table.class_names and _same_folds(store, table)):
        problems.append("the dataset's folds, class names or order of clips are not the store's")
    return problems


def _same_folds(store: FeatureStore, table: ClipTable) -> bool:
    folds = store.folds()
    return len(folds) == len(table.folds) and all(
        old.train.equal(new.train) and old.test.equal(new.test)
        for old, new in zip(folds, table.folds, strict=True)
    )


def recompute(
    store: FeatureStore,
    source: str,
    embedder: Embedder,
    count: int,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Recomputation:
    """Embed a random sample of a store's clips again and compare.

    Parameters
    ----------
    source : str
        Where the dataset lies now.
    embedder : Embedder
        Of the encoder that made the store: see ``load_encoder_of``.
    count : int
        Clips to take, of those that have an embedding; all of them if there are fewer.
    seed : int
        Of the sample.

    Raises
    ------
    DataError
        If none of the files is there.
    """
    rows = store.rows()
    drawn = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(store.n_clips), list(rows.errors)))
    chosen = drawn[:count].tolist()
    files = locate(replace(store.header, source=source), {rows.names[row] for row in chosen})
    if chosen and not files:
        absent = f"its files are not in {source}" if source else "it is not known where its files are"
        raise DataError(f"{store.header.dataset}: {absent}; give the folder they are in now with `dataset`")
    clips: list[Numbered] = []
    problems = []
    for row in chosen:
        name, start, end = rows.names[row], float(rows.start[row]), float(rows.end[row])
        if name in files:
            clips.append((row, Clip(files[name], name, None, start, None if isnan(end) else end)))
        else:
            problems.append(f"row {row}, {name}: cannot be embedded again: no such file")
    exact = store.header.recipe.get("precision", "fp32") == "fp32"
    difference, cosine, compared = 0.0, 1.0, 0
    for number, outcome in enumerate(embedder.embed(clips), start=1):
        progress("embedding again", number, len(clips))
        where = f"row {outcome.row}, {rows.names[outcome.row]}"
        changed = outcome.content != rows.contents[outcome.row].tobytes()
        why = outcome.error or "the file has changed" * changed
        if why or outcome.vectors is None:
            problems.append(f"{where}: cannot be embedded again: {why}")
            continue
        gap, angle = _distance(store.audio(slice(outcome.row, outcome.row + 1))[0], outcome.vectors)
        compared, difference, cosine = compared + 1, max(difference, gap), min(cosine, angle)
        if not (gap <= TOLERANCE if exact else angle >= COSINE):
            problems.append(
                f"{where}: the encoder gives another embedding (difference {gap:.1e}, cosine {angle:.6f})"
            )
    return Recomputation(compared, difference, cosine, tuple(problems))


def _distance(stored: NDArray[np.float32], now: NDArray[np.float32]) -> tuple[float, float]:
    """Return the largest difference and the smallest cosine of two (views, dim)."""
    scale = max(float(np.abs(stored).max()), 1.0)
    norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(now, axis=1)
    cosines = (stored * now).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(np.abs(stored - now).max()) / scale, float(cosines.min())
