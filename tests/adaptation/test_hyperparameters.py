"""What shots can tell about hyperparameters."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from palm_cache.adaptation.heads.hyperparameters import (
    FOLDS,
    Grid,
    can_be_held_out,
    choose,
    cross_validation_folds,
    held_out_loss,
    same_clip,
)


def test_a_clip_without_a_fellow_of_its_class_is_never_held_out() -> None:
    labels = torch.tensor([[0, 0, 1, 2, 2, 2]])
    assert can_be_held_out(labels, 3, views=1).tolist() == [[True, True, False, True, True, True]]
    views = labels.repeat_interleave(2, dim=1)
    assert can_be_held_out(views, 3, views=2)[0, ::2].tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0, 1, 2]])
def test_nothing_is_held_out_where_no_two_classes_have_fellows(labels: list[int]) -> None:
    assert not can_be_held_out(torch.tensor([labels]), 3, views=1).any()
    assert (cross_validation_folds(torch.tensor([labels]), 3, views=1) == -1).all()


def test_folds_of_cross_validation_are_stratified_and_keep_views_together() -> None:
    labels = torch.arange(4).repeat_interleave(7 * 2)[None]  # four classes of seven clips with two views
    folds = cross_validation_folds(labels, 4, views=2)[0]
    assert torch.equal(folds[::2], folds[1::2])
    for label in range(4):
        sizes = torch.bincount(folds[labels[0] == label], minlength=FOLDS) // 2
        assert sizes.tolist() == [2, 2, 1, 1, 1]


def test_fewer_shots_than_folds_make_fewer_folds() -> None:
    folds = cross_validation_folds(torch.tensor([[0, 0, 0, 1, 1, 2]]), 3, views=1)
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
            mine, truth = scores[run, one, 2][held_out[run]], labels[run][held_out[run]]
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
    assert same_clip(4, 2).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
