from __future__ import annotations

import sys

import numpy as np
import pytest
from samples import make_features
from sklearn.manifold import TSNE, trustworthiness
from threadpoolctl import threadpool_info, threadpool_limits

from palm_cache.errors import DataError, ParameterError
from palm_cache.explore import projection
from palm_cache.explore.projection import ITERATIONS, project
from palm_cache.params.use import MapMethod

FEATURES = make_features(noise=0.3)
EMBEDDINGS = FEATURES.audio[:, 0].numpy()


def test_principal_components_keep_as_much_variance_as_two_axes_can() -> None:
    laid_out = project(EMBEDDINGS, "pca")
    unit = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    singular = np.linalg.svd(centred, full_matrices=False)[1]
    # Whatever the common scale, the axes' standard deviations are in the ratio of the singular values.
    spread = laid_out.std(axis=0)
    assert spread[1] / spread[0] == pytest.approx(singular[1] / singular[0], rel=1e-4)
    assert np.corrcoef(laid_out.T)[0, 1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_the_map_fills_the_unit_square_and_does_not_look_at_lengths(method: MapMethod) -> None:
    laid_out = project(EMBEDDINGS, method)
    assert laid_out.shape == (120, 2)
    extent = laid_out.max(axis=0) - laid_out.min(axis=0)
    assert extent.max() == pytest.approx(1)
    np.testing.assert_allclose((laid_out.max(axis=0) + laid_out.min(axis=0)) / 2, 0.5)
    lengths = np.exp2(np.arange(120) % 5)[:, None].astype(np.float32)  # exact in floating point
    np.testing.assert_allclose(project(EMBEDDINGS * lengths, method), laid_out, atol=1e-6)


def test_tsne_keeps_neighbours_together_and_tells_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    laid_out = project(EMBEDDINGS, "tsne", progress=lambda *step: told.append(step))
    assert trustworthiness(EMBEDDINGS, laid_out, metric="cosine", n_neighbors=5) > 0.9
    done = [number for _, number, _ in told]
    assert {(what, total) for what, _, total in told} == {("projecting", ITERATIONS)}
    assert done == sorted(done)
    assert len(done) > 5
    assert done[-1] == ITERATIONS


def test_the_map_is_made_on_one_thread_because_tsne_depends_on_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[int] = []

    class Watched(TSNE):  # type: ignore[misc]
        def fit_transform(self, X: np.ndarray) -> np.ndarray:
            threads.extend(library["num_threads"] for library in threadpool_info())
            return X[:, :2]

    monkeypatch.setattr(projection, "TSNE", Watched)
    with threadpool_limits(3):
        project(EMBEDDINGS, "tsne")
    assert set(threads) == {1}


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_three_clips_or_clips_that_are_all_alike_still_make_a_map(method: MapMethod) -> None:
    assert np.isfinite(project(EMBEDDINGS[:3], method)).all()
    assert np.isfinite(project(EMBEDDINGS[:8, :1], method)).all()
    np.testing.assert_array_equal(project(np.ones((5, 4), dtype=np.float32), "pca"), 0.5)


def test_what_cannot_be_laid_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="at least three clips with an embedding, found 2"):
        project(EMBEDDINGS[:2], "pca")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ParameterError, match="umap-learn is not installed"):
        project(EMBEDDINGS, "umap")
