"""Rankings, compared with the plainest code that gives them: every row at once, one loop after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from samples import make_features, write_sample

from palm_cache.errors import ParameterError
from palm_cache.retrieval import ranking
from palm_cache.retrieval.ranking import cosines, diverse, highest, nearest, uncertainty
from palm_cache.store.features import FeatureStore


def draw(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def by_hand(embeddings: NDArray[np.float32], query: NDArray[np.float32], k: int) -> list[int]:
    """Rows by their best view's cosine."""
    scores = (unit(embeddings) @ unit(query)).reshape(len(embeddings), -1).max(axis=1)
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of seven rows, so that few rows are many blocks."""
    monkeypatch.setattr(ranking, "BLOCK_ROWS", 7)
    monkeypatch.setattr(ranking, "PIECE_ROWS", 3)


@pytest.mark.parametrize("views", [None, 1, 3])
@pytest.mark.usefixtures("small_blocks")
def test_the_nearest_rows_are_those_that_a_comparison_with_every_row_finds(views: int | None):
    embeddings = draw(100, 16) if views is None else draw(100, views, 16)
    queries = 5 * draw(4, 16, seed=1)
    found = nearest(embeddings, queries, 12)
    assert found.rows.shape == found.scores.shape == (4, 12)
    for query, rows, scores in zip(queries, found.rows, found.scores, strict=True):
        assert rows.tolist() == by_hand(embeddings, query, 12)
        cosine = (unit(embeddings[rows]) @ unit(query)).reshape(12, -1).max(axis=1)
        np.testing.assert_allclose(scores, cosine, atol=1e-6)
    alone = nearest(embeddings, queries[2], 12)
    assert alone.rows.tolist() == found.rows[2].tolist()


@pytest.mark.usefixtures("small_blocks")
def test_rows_of_equal_score_come_in_their_order_and_nan_comes_last():
    scores = np.array([[1, 2, np.nan, 2, 0, 2, 1, 2, -1, 2, np.nan, 3]])
    first_row = np.arange(12.0, dtype=np.float32)[:, None]
    found = highest(first_row, lambda block: scores[:, block[:, 0, 0].astype(int)], 12)
    assert found.rows[0].tolist() == [11, 1, 3, 5, 7, 9, 0, 6, 4, 8, 2, 10]
    assert highest(first_row, lambda block: scores[:, block[:, 0, 0].astype(int)], 4).rows[0].tolist() == [
        11,
        1,
        3,
        5,
    ]


@pytest.mark.usefixtures("small_blocks")
def test_rows_that_are_passed_over_are_not_found_however_near_they_are():
    embeddings, query = draw(50, 8), draw(8, seed=1)
    among = np.zeros(50, bool)
    among[[3, 30, 31, 49]] = True
    found = nearest(embeddings, query, 10, among=among)
    assert found.rows.tolist() == [row for row in by_hand(embeddings, query, 50) if among[row]]


def test_an_embedding_of_zeros_has_cosine_0_and_no_rows_give_none():
    found = nearest(np.zeros((3, 4), np.float32), draw(4), 2)
    assert found.rows.tolist() == [0, 1]
    assert found.scores.tolist() == [0, 0]
    assert nearest(np.zeros((0, 4), np.float32), draw(4), 2).rows.shape == (0,)


def test_a_store_is_searched_as_its_array_is(tmp_path):
    features = make_features(clips_per_class=600, n_views=2)
    store = FeatureStore(write_sample(tmp_path / "store.zarr", features))
    queries = draw(3, features.audio.shape[2])
    from_store, from_array = (nearest(one, queries, 5) for one in (store, features.audio.numpy()))
    assert from_store.rows.tolist() == from_array.rows.tolist()
    picked = diverse(store, [0, 2000], 4)
    assert picked.rows.tolist() == diverse(features.audio.numpy(), [0, 2000], 4).rows.tolist()


@pytest.mark.parametrize("left_out", [slice(7, 10), slice(7, 45)])
@pytest.mark.parametrize("labelled", [[], [5], [3, 40, 41, 3]])
@pytest.mark.usefixtures("small_blocks")
def test_diverse_rows_are_each_the_farthest_from_all_before(labelled: list[int], left_out: slice):
    embeddings = draw(60, 4)
    among = np.ones(60, bool)
    among[left_out] = False
    found = diverse(embeddings, labelled, 10, among=among)
    distances = 1 - unit(embeddings) @ unit(embeddings).T
    chosen, expected = list(labelled), []
    for _ in range(10):
        left = [row for row in range(60) if among[row] and row not in chosen]
        if chosen:
            row = max(left, key=lambda row: min(distances[row, chosen]))
            expected.append((row, min(distances[row, chosen])))
        else:
            mean = unit(embeddings)[among].mean(axis=0)
            row = max(left, key=lambda row: unit(embeddings)[row] @ mean)
            expected.append((row, 2.0))
        chosen.append(row)
    assert found.rows.tolist() == [row for row, _ in expected]
    np.testing.assert_allclose(found.scores, [distance for _, distance in expected], atol=1e-6)


def test_of_few_rows_that_may_be_picked_no_others_are_compared(monkeypatch: pytest.MonkeyPatch):
    compared: list[int] = []

    def counted(block, queries):
        compared.append(len(block))
        return cosines(block, queries)

    monkeypatch.setattr(ranking, "cosines", counted)
    diverse(draw(3000, 4), range(1000, 1500), 2, among=np.arange(3000) % 500 == 0)
    assert sum(compared) == 5 + 4  # 1000 is labelled


def test_no_more_diverse_rows_are_picked_than_there_are():
    assert sorted(diverse(draw(5, 3), [1], 10).rows.tolist()) == [0, 2, 3, 4]
    assert diverse(draw(2, 3), [0, 1], 10).rows.shape == (0,)


def test_doubt_is_the_missing_lead_or_the_share_of_the_largest_entropy():
    probabilities = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.3, 0.2]])
    np.testing.assert_allclose(uncertainty(probabilities, "margin"), [0, 1, 0.8])
    entropy = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)) / np.log(3)
    np.testing.assert_allclose(uncertainty(probabilities, "entropy"), [0, 1, entropy])
    assert uncertainty(np.ones((4, 1))).tolist() == [0, 0, 0, 0]
    with pytest.raises(ParameterError, match="choose margin or entropy"):
        uncertainty(probabilities, "variance")  # type: ignore[arg-type]


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.randoms())
def test_doubt_does_not_depend_on_the_order_of_classes(weights: list[float], random):
    shares = np.array(weights) / np.sum(weights)
    shuffled = shares.copy()
    random.shuffle(shuffled)
    for by in ("margin", "entropy"):
        doubt = uncertainty(shares, by)
        assert -1e-9 <= doubt <= 1 + 1e-9
        assert doubt == pytest.approx(uncertainty(shuffled, by))
