from __future__ import annotations

import numpy as np
import pytest

from palm_cache.extraction.collapse import COLLAPSED_COSINE, MAX_ROWS, collapse_note


def rows(count: int, common: float, dim: int = 64) -> np.ndarray:
    """Random rows that share a direction, the more the larger ``common`` is."""
    drawn = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    drawn[:, 0] += common
    return drawn


def test_healthy_vectors_get_no_note() -> None:
    assert collapse_note("clips", rows(100, 0)) is None
    assert collapse_note("class names", rows(2, 3)) is None
    assert collapse_note("clips", rows(1, 0)) is None
    assert collapse_note("clips", rows(0, 0)) is None


@pytest.mark.parametrize("common", [20.0, 55.0, 57.0, 200.0])
def test_the_mean_cosine_of_different_rows_decides(common: float) -> None:
    drawn = rows(50, common)
    units = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    cosine = (units @ units.T)[~np.eye(50, dtype=bool)].mean()
    note = collapse_note("class names", drawn)
    assert (note is not None) == (cosine > COLLAPSED_COSINE)
    if note:
        assert f"mean cosine {cosine:.4f}" in note
        assert "tokenizer" in note


def test_equal_rows_and_dead_numbers_are_said() -> None:
    note = collapse_note("clips", np.ones((7, 3), np.float32))
    assert note is not None
    assert note.startswith("the embeddings of all 7 clips are equal; usually a broken checkpoint")
    dead = rows(20, 0)
    dead[:, :40] = 0.5
    dead[:, :40] *= -(1 ** np.arange(40))
    note = collapse_note("clips", dead)
    assert note is not None
    assert note.startswith("62% of the numbers are the same in all 20 clips")
    # Where audio holds its statistics, mini's text has zeros.
    assert collapse_note("class names", dead) is None


def test_of_many_rows_some_are_looked_at() -> None:
    many = np.tile(rows(10, 200), (MAX_ROWS, 1))
    assert collapse_note("clips", many) is not None
