"""From embeddings to a map: two coordinates per clip."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from palm_cache.errors import DataError, ParameterError
from palm_cache.params.use import MapMethod
from palm_cache.types import Progress, no_progress

DENSE_DIM = 50
"""Principal components that t-SNE starts from, as its authors advise for speed and less noise."""

PERPLEXITY = 30.0
"""Neighbours that a clip counts, roughly; fewer in small stores."""

ITERATIONS = 1000


def check_count(n_clips: int) -> None:
    """Raise a DataError where there are too few clips for a map."""
    if n_clips < 3:
        raise DataError(f"a map needs at least three clips with an embedding, found {n_clips}")


def project(
    embeddings: NDArray[np.float32], method: MapMethod, *, seed: int = 0, progress: Progress = no_progress
) -> NDArray[np.float64]:
    """Lay clips out in the plane; the same input gives the same map, however many cores there are.

    Parameters
    ----------
    embeddings : array, shape (n_clips, dim)
        Of any length: like the heads, the map looks at directions alone.
    method : {"tsne", "pca", "umap"}
    seed : int

    Returns
    -------
    array, shape (n_clips, 2)
        Inside the unit square, one scale for both axes.

    Raises
    ------
    DataError
        If there are fewer than three clips.
    ParameterError
        If UMAP is asked for and not installed.

    References
    ----------
    van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 2008; McInnes et al., arXiv:1802.03426.
    """
    check_count(len(embeddings))
    directions = normalize(embeddings)
    if np.ptp(directions, axis=0).max() == 0:
        return np.full((len(directions), 2), 0.5)
    # t-SNE's sums depend on the number of threads in the last bit, and it magnifies that to another map.
    with threadpool_limits(1):
        if method == "pca":
            laid_out = _principal(directions, 2)
        elif method == "umap":
            laid_out = _umap(directions, seed)
        else:
            laid_out = _tsne(directions, seed, progress)
    return _fit_square(laid_out)


def _principal(directions: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    count = min(count, *directions.shape)
    components = PCA(count, svd_solver="covariance_eigh").fit_transform(directions.astype(np.float64))
    # An axis in which nothing differs is left out by min(): two dimensions there must be.
    return np.pad(components, ((0, 0), (0, max(0, 2 - count))))


def _tsne(directions: NDArray[np.float32], seed: int, progress: Progress) -> NDArray[np.float64]:
    perplexity = min(PERPLEXITY, (len(directions) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=ITERATIONS, verbose=2)
    with redirect_stdout(_Iterations(progress)):
        laid_out = tsne.fit_transform(_principal(directions, DENSE_DIM))
    progress("projecting", ITERATIONS, ITERATIONS)
    return np.asarray(laid_out, dtype=np.float64)


def _umap(directions: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    try:
        from umap import UMAP  # type: ignore[import-not-found]
    except ImportError:
        raise ParameterError(
            "`method` umap: umap-learn is not installed; install it with: pip install umap-learn, "
            "or take `method` tsne"
        ) from None
    # Fewer clips than UMAP's 15 neighbours: all of them.
    neighbours = min(15, len(directions) - 1)
    umap = UMAP(n_neighbors=neighbours, metric="cosine", init="pca", random_state=seed, n_jobs=1)
    return np.asarray(umap.fit_transform(directions), dtype=np.float64)


class _Iterations(io.TextIOBase):
    """Reads the iteration from what scikit-learn's t-SNE prints: it has no other way to tell."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def write(self, text: str) -> int:
        iteration = re.search(r"Iteration (\d+)", text)
        if iteration:
            self._progress("projecting", int(iteration[1]), ITERATIONS)
        return len(text)


def _fit_square(laid_out: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move and scale points (n, 2) into the middle of the unit square."""
    low, high = laid_out.min(axis=0), laid_out.max(axis=0)
    return np.asarray((laid_out - (low + high) / 2) / (high - low).max() + 0.5)
