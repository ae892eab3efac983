"""Which rows come first: nearest to a query, most in doubt, farthest from what is labelled.

Everything is exact. Embeddings are looked at block by block, some blocks at once: memory does not grow with
their number, whether they lie in a store or in an array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeAlias, TypeVar, get_args

import joblib
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from palm_cache.errors import ParameterError
from palm_cache.params.use import Uncertainty
from palm_cache.retrieval.stores import Stores
from palm_cache.store.features import FeatureStore

BLOCK_ROWS = 1024
"""Rows of an array that are looked at together."""

PIECE_ROWS = 256
"""Rows whose length is measured while they are still in a core's own memory."""

_TINY = np.float32(np.finfo(np.float32).tiny)

T = TypeVar("T")


Embeddings: TypeAlias = FeatureStore | Stores | NDArray[np.float32]
"""Rows of stores, which are read in parts, or an array of (n, dim) or (n, views, dim)."""

Score = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""From the embeddings of a block, (rows, views, dim), to scores (n_queries, rows); the larger, the sooner."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows and their scores, the best first."""

    rows: NDArray[np.int64]
    """(..., k) or fewer where there are fewer rows."""
    scores: NDArray[np.float64]
    """Of the same shape."""


def nearest(
    embeddings: Embeddings,
    queries: NDArray[np.float32],
    k: int,
    *,
    among: NDArray[np.bool_] | None = None,
) -> Ranking:
    """Find the rows whose embeddings have the largest cosine with a query; of several views the best counts.

    Parameters
    ----------
    embeddings : FeatureStore, Stores or array, shape (n, dim) or (n, views, dim)
        Of any length.
    queries : array, shape (dim,) or (n_queries, dim)
        Of any length.
    k : int
    among : array, shape (n,), optional
        False for rows that are passed over.

    Returns
    -------
    Ranking, shape (k,) or (n_queries, k)
        With cosines; of equal ones the lower row comes first.
    """
    several = np.atleast_2d(np.asarray(queries, np.float32))
    ranking = highest(
        embeddings, partial(cosines, queries=_unit(several)), k, n_scores=len(several), among=among
    )
    return ranking if np.ndim(queries) > 1 else Ranking(ranking.rows[0], ranking.scores[0])


def highest(
    embeddings: Embeddings,
    score: Score,
    k: int,
    *,
    n_scores: int = 1,
    among: NDArray[np.bool_] | None = None,
) -> Ranking:
    """Find the rows with the highest scores.

    Parameters
    ----------
    embeddings, k, among : see :func:`nearest`
    score : callable
        Called from several threads; a score of NaN comes last.
    n_scores : int
        Scores that it gives a row.

    Returns
    -------
    Ranking, shape (n_scores, k)
        Of equal scores the lower row comes first.
    """
    nothing = np.zeros((n_scores, 0), np.int64), np.zeros((n_scores, 0))
    least = np.full(n_scores, -np.inf)  # what a row must reach to come among the best so far

    def best_of(rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if among is not None and not among[rows].any():
            return nothing
        scores = score(_read(embeddings, rows))
        able = ~(scores < least[:, None]).all(axis=0)
        if among is not None:
            able &= among[rows]
        candidates = np.flatnonzero(able)
        if not len(candidates):
            return nothing
        numbers = np.tile(rows.start + candidates, (n_scores, 1))
        return _best(numbers, np.asarray(scores[:, candidates], np.float64), k)

    best = nothing
    for rows, scores in _over_blocks(embeddings, best_of):
        if rows.size:
            best = _best(np.hstack([best[0], rows]), np.hstack([best[1], scores]), k)
        if 0 < k == best[1].shape[1]:
            least = np.where(np.isnan(best[1][:, -1]), -np.inf, best[1][:, -1])
    return Ranking(*best)


def cosines(block: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest cosine of every row's views with unit queries.

    Parameters
    ----------
    block : array, shape (rows, views, dim)
    queries : array, shape (n_queries, dim)

    Returns
    -------
    array, shape (n_queries, rows)
        0 for an embedding of zeros.
    """
    rows, views, dim = block.shape
    flat, columns = block.reshape(-1, dim), np.ascontiguousarray(queries.T)
    of_views = np.empty((len(flat), len(queries)), np.float32)
    for start in range(0, len(flat), PIECE_ROWS):
        piece = flat[start : start + PIECE_ROWS]
        lengths = np.sqrt(np.vecdot(piece, piece))
        of_views[start : start + PIECE_ROWS] = piece @ columns / np.maximum(lengths, _TINY)[:, None]
    return np.asarray(of_views.reshape(rows, views, -1).max(axis=1).T)


def uncertainty(probabilities: NDArray[np.floating], by: Uncertainty = "margin") -> NDArray[np.float64]:
    """Measure how much in doubt a classifier is.

    Parameters
    ----------
    probabilities : array, shape (..., n_classes)
    by : {"margin", "entropy"}
        One minus the lead of the likeliest class over the second, or the entropy as a share of the largest
        that so many classes can have.

    Returns
    -------
    array, shape (...,)
        From 0, sure, to 1, no idea; 0 where there is one class alone.

    References
    ----------
    Settles, "Active Learning Literature Survey", 2009, section 3.1.
    """
    if by not in get_args(Uncertainty):
        raise ParameterError(f"uncertain by {by!r}; choose margin or entropy")
    shares = np.asarray(probabilities, np.float64)
    n_classes = shares.shape[-1]
    if n_classes < 2:
        return np.zeros(shares.shape[:-1])
    if by == "margin":
        second, first = np.moveaxis(np.partition(shares, n_classes - 2, axis=-1)[..., -2:], -1, 0)
        return np.asarray(1 - (first - second))
    logarithms = np.log(np.where(shares > 0, shares, 1))
    return np.asarray(-(shares * logarithms).sum(axis=-1) / np.log(n_classes))


def diverse(
    embeddings: Embeddings,
    labelled: Sequence[int] | NDArray[np.integer],
    k: int,
    *,
    among: NDArray[np.bool_] | None = None,
) -> Ranking:
    """Pick rows one by one, each the farthest from all that are labelled or picked: greedy k-center.

    Distance is one minus the cosine; of several views the nearest pair counts.

    Parameters
    ----------
    embeddings, k, among : see :func:`nearest`
        One pass over the embeddings for every row that is picked.
    labelled : sequence of int
        Rows that are known already. Without any, the first to be picked is the nearest to the mean of all, at
        the largest distance that there is, 2.

    Returns
    -------
    Ranking, shape (k,)
        In the order in which they were picked, with the distance that each had then.

    References
    ----------
    Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018,
    algorithm 1.
    """
    n_rows = _count(embeddings)
    labelled_rows = np.unique(np.asarray(labelled, np.int64))
    open_to = np.ones(n_rows, bool) if among is None else among.copy()
    open_to[labelled_rows] = False
    count = min(k, int(open_to.sum()))
    picked, distances = np.zeros(count, np.int64), np.zeros(count)
    nearness = np.full(n_rows, -1.0)  # the largest cosine with any row that is labelled or picked
    newest = labelled_rows
    for place in range(count):
        if len(newest):
            _come_nearer(nearness, embeddings, newest, open_to)
            row = int(np.where(open_to, nearness, np.inf).argmin())
        else:
            row = int(nearest(embeddings, _mean(embeddings, open_to), 1, among=open_to).rows[0])
        picked[place], distances[place] = row, 1 - nearness[row]
        open_to[row] = False
        newest = picked[place : place + 1]
    return Ranking(picked, distances)


def _come_nearer(
    nearness: NDArray[np.float64],
    embeddings: Embeddings,
    centres: NDArray[np.int64],
    among: NDArray[np.bool_],
) -> None:
    """Raise the largest cosine of every row among some to that with some more rows."""
    views = np.concatenate([_read(embeddings, slice(row, row + 1))[0] for row in centres.tolist()])
    queries = _unit(views)

    def look(rows: slice) -> None:
        if not among[rows].any():
            return
        # To leave rows out takes a copy of the others, which a few are worth.
        asked = among[rows] if among[rows].mean() < 0.5 else slice(None)
        nearest_centre = cosines(_read(embeddings, rows)[asked], queries).max(axis=0)
        nearness[rows][asked] = np.maximum(nearness[rows][asked], nearest_centre)

    for _ in _over_blocks(embeddings, look):
        pass


def _mean(embeddings: Embeddings, among: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the mean of unit embeddings, (dim,)."""

    def total(rows: slice) -> NDArray[np.float32]:
        return np.asarray(_unit(_read(embeddings, rows)[among[rows]]).sum(axis=(0, 1)))

    return np.asarray(np.sum(list(_over_blocks(embeddings, total)), axis=0), np.float32)


def _over_blocks(embeddings: Embeddings, work: Callable[[slice], T]) -> Iterator[T]:
    """Yield what comes of every block, in their order; several are worked on at once."""
    if isinstance(embeddings, np.ndarray):
        n_rows = len(embeddings)
        blocks = [slice(start, min(start + BLOCK_ROWS, n_rows)) for start in range(0, n_rows, BLOCK_ROWS)]
    else:
        blocks = embeddings.spans()
    if len(blocks) < 2:
        yield from map(work, blocks)
        return
    # A thread a core is enough: those of BLAS would be in each other's way.
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        yield from pool.map(work, blocks)


@cache
def _libraries() -> ThreadpoolController:
    """Return what sets the threads of NumPy's BLAS; to find it takes longer than many a search."""
    return ThreadpoolController()


def _best(
    rows: NDArray[np.int64], scores: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keep the k highest scores of rows (n_scores, n) that ascend where scores are equal."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors (..., dim) to unit length; zero vectors stay zero."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY))


def _count(embeddings: Embeddings) -> int:
    return len(embeddings) if isinstance(embeddings, np.ndarray) else embeddings.n_clips


def _read(embeddings: Embeddings, rows: slice) -> NDArray[np.float32]:
    """Return the embeddings of some rows, (rows, views, dim)."""
    block = embeddings[rows] if isinstance(embeddings, np.ndarray) else embeddings.audio(rows)
    return block[:, None] if block.ndim == 2 else block
