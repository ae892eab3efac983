"""What shots can tell about hyperparameters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from palm_cache.adaptation.heads.hyperparameters import (
    FOLDS,
    Grid,
    can_be_held_out,
    choose,
    cross_validation_folds,
    held_out_loss,
    same_group,
)


def each(labels: torch.Tensor, views: int = 1) -> torch.Tensor:
    """Every clip is a group of its own."""
    return (torch.arange(labels.shape[1]) // views).expand_as(labels)


def test_a_clip_without_a_fellow_of_its_class_is_never_held_out() -> None:
    labels = torch.tensor([[0, 0, 1, 2, 2, 2]])
    assert can_be_held_out(labels, 3, each(labels)).tolist() == [[True, True, False, True, True, True]]
    views = labels.repeat_interleave(2, dim=1)
    assert can_be_held_out(views, 3, each(views, 2))[0, ::2].tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0, 1, 2]])
def test_nothing_is_held_out_where_no_two_classes_have_fellows(labels: list[int]) -> None:
    drawn = torch.tensor([labels])
    assert not can_be_held_out(drawn, 3, each(drawn)).any()
    assert (cross_validation_folds(drawn, 3, each(drawn)) == -1).all()


def test_folds_of_cross_validation_are_stratified_and_keep_views_together() -> None:
    labels = torch.arange(4).repeat_interleave(7 * 2)[None]  # four classes of seven clips with two views
    folds = cross_validation_folds(labels, 4, each(labels, 2))[0]
    assert torch.equal(folds[::2], folds[1::2])
    for label in range(4):
        sizes = torch.bincount(folds[labels[0] == label], minlength=FOLDS) // 2
        assert sizes.tolist() == [2, 2, 1, 1, 1]


def test_fewer_shots_than_folds_make_fewer_folds() -> None:
    labels = torch.tensor([[0, 0, 0, 1, 1, 2]])
    folds = cross_validation_folds(labels, 3, each(labels))
    assert folds.tolist() == [[0, 1, 2, 0, 1, -1]]
    # Whatever is held out, its class is among the rest.
    for fold in range(3):
        assert {0, 1, 2} == set(torch.tensor([0, 0, 0, 1, 1, 2])[folds[0] != fold].tolist())


def test_the_held_out_loss_is_the_mean_over_classes_of_the_cross_entropy_of_those_held_out() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 4, 3, 6, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (2, 6), generator=generator)
    held_out = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    losses = held_out_loss(scores, labels, held_out)
    assert losses.shape == (2, 4, 3)
    for run in range(2):
        for one in range(4):
            absent = [label for label in range(5) if label not in labels[run]]
            mine, truth = scores[run, one, 2][held_out[run]], labels[run][held_out[run]]
            mine[:, absent] = -torch.inf  # nothing is known of them that could be compared
            expected = torch.stack(
                [cross_entropy(mine[truth == label], truth[truth == label]) for label in truth.unique()]
            ).mean()
            torch.testing.assert_close(losses[run, one, 2], expected)


def test_every_run_gets_its_best_candidate_the_first_of_equals_or_the_defaults() -> None:
    losses = torch.tensor(
        [[[3.0, 2.0], [1.0, 5.0]], [[4.0, 2.0], [2.0 + 1e-12, 2.0 - 1e-12]], [[1.0, 0.0]] * 2]
    )
    grids = {"width": Grid(((1.0, 2.0), (3.0, 4.0)), (0.5, 0.5)), "k": Grid((1, 5), 7)}
    held_out = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    chosen = choose(losses, grids, held_out, views=1)
    assert chosen["width"].tolist() == [[3, 4], [1, 2], [0.5, 0.5]]
    assert chosen["k"].tolist() == [1, 5, 7]
    assert chosen["held_out"].tolist() == [3, 2, 0]


def test_views_stand_side_by_side() -> None:
    pairs = same_group(torch.tensor([[5, 5, 7, 7]]))
    assert pairs[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


@given(
    drawn=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=2, max_size=20),
    n_folds=st.integers(2, 5),
)
def test_no_group_is_ever_on_both_sides_and_no_class_is_left_without_a_clip(
    drawn: list[tuple[int, int]], n_folds: int
) -> None:
    labels, groups = torch.tensor(drawn).T[:, None].contiguous()
    folds = cross_validation_folds(labels, 4, groups, n_folds)[0]
    for fold in range(n_folds):
        out = folds == fold
        assert not set(groups[0, out].tolist()) & set(groups[0, ~out].tolist())
        assert set(labels[0, out].tolist()) <= set(labels[0, ~out].tolist())
    alone = can_be_held_out(labels, 4, groups)[0].logical_not()
    fellows = [any(label == other and group != its for other, its in drawn) for label, group in drawn]
    two = len({label for (label, _), has in zip(drawn, fellows, strict=True) if has}) > 1
    assert alone.tolist() == [not (has and two) for has in fellows]
