"""How heads choose hyperparameters for a run from its shots alone: no test clip is ever looked at.

A clip is held out, with all its views and all of its recording or group, scored by a head that was fitted
without them, and the cross entropy of the scores is compared. Cross entropy and not accuracy: few clips are
held out, so many candidates tie in accuracy, and a proper score also says at which scale logits mean
probabilities.

Where a head is solved in closed form, every clip is held out once, exactly and at no cost
(leave-one-out); elsewhere in turns (stratified cross-validation). A clip whose class has no clip of another
group cannot judge anything, because without it nothing is known of its class: it is never held out. With one
clip per class nothing can be held out, and documented defaults are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import one_hot, present_classes

FOLDS = 5
"""Folds of cross-validation, fewer where a class has fewer clips. Four fifths of the clips train, which
is close to all of them; more folds cost time and gain nothing that the noise of few clips would show."""

TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Factors of logits whose scale is no hyperparameter, so that candidates compare by what they say and not
by how loudly: from PALM's 100 times cosine down to the cosine."""

Value = float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """The values of one hyperparameter that are tried."""

    values: tuple[Value, ...]
    default: Value
    """Taken where nothing can be held out."""

    @property
    def candidates(self) -> Tensor:
        """The values as a tensor, (n_values,) or (n_values, values of a tuple) float64."""
        return torch.tensor(self.values, dtype=torch.float64)


def can_be_held_out(labels: Tensor, n_classes: int, groups: Tensor) -> Tensor:
    """Say which examples (runs, n_examples) have one of their class beside those that are held out with them.

    None of a run have where fewer than two classes could be told apart.
    """
    kinds = first_of_group(groups) * n_classes + labels
    of_kind = torch.zeros(len(labels), labels.shape[1] * n_classes, dtype=torch.int64)
    of_kind.scatter_add_(1, kinds, torch.ones_like(kinds))
    counts = torch.nn.functional.one_hot(labels, n_classes).sum(dim=1).gather(1, labels)
    fellows = counts > of_kind.gather(1, kinds)
    return fellows & _two_classes(labels, n_classes, fellows)


def _two_classes(labels: Tensor, n_classes: int, held_out: Tensor) -> Tensor:
    """Say in which runs examples of two classes or more are held out, (runs, 1) bool."""
    members = torch.nn.functional.one_hot(labels, n_classes).bool() & held_out[..., None]
    return members.any(dim=1).sum(dim=1, keepdim=True) > 1


def first_of_group(groups: Tensor) -> Tensor:
    """Return the place of the first example of every example's group, (runs, n_examples) int64."""
    place, first = torch.arange(groups.shape[1]), torch.empty_like(groups)
    for run, own in enumerate(groups):
        _, number = torch.unique(own, return_inverse=True)
        leaders = place.new_full((int(number.max()) + 1,), len(place))
        first[run] = leaders.scatter_reduce(0, number, place, "amin")[number]
    return first


def same_group(groups: Tensor) -> Tensor:
    """Say which of groups (..., n_examples) are held out together, (..., n_examples, n_examples) bool."""
    return groups[..., :, None] == groups[..., None, :]


def cross_validation_folds(labels: Tensor, n_classes: int, groups: Tensor, n_folds: int = FOLDS) -> Tensor:
    """Deal groups out to folds as :func:`deal` does, where two classes or more can be told apart.

    Returns
    -------
    Tensor, shape (runs, n_examples)
        int64, the fold in which an example is held out; -1 where it never is. Fewer folds are used where
        no class has as many groups.
    """
    dealt = deal(labels, n_classes, groups, n_folds)
    return torch.where(_two_classes(labels, n_classes, dealt >= 0), dealt, -1)


def deal(labels: Tensor, n_classes: int, groups: Tensor, n_folds: int) -> Tensor:
    """Deal the groups of every class out to so many folds, in their order, which was drawn at random.

    A group of several classes goes where its first example does.

    Returns
    -------
    Tensor, shape (runs, n_examples)
        int64; -1 where an example, or one of its group, would leave its class without any.
    """
    first, place = first_of_group(groups), torch.arange(labels.shape[1])
    leads = torch.nn.functional.one_hot(labels, n_classes) * (first == place)[..., None]
    turn = (leads.cumsum(dim=1).gather(2, labels[..., None])[..., 0] - 1).gather(1, first) % n_folds
    in_fold = one_hot(labels, n_classes).transpose(-1, -2) @ one_hot(turn, n_folds)  # (runs, classes, folds)
    left = in_fold.sum(dim=2, keepdim=True) - in_fold
    alone = left.flatten(1).gather(1, labels * n_folds + turn) == 0
    # What cannot be held out takes its group with it: nothing of a group learns while the rest is held out.
    bound = torch.zeros_like(labels).scatter_reduce(1, first, alone.long(), "amax").gather(1, first) > 0
    return torch.where(bound, -1, turn)


def held_out_loss(scores: Tensor, labels: Tensor, held_out: Tensor) -> Tensor:
    """Average the cross entropy of every run over the examples that can be held out, class by class.

    Every class counts the same: what suits sixteen clips of each common class is not worth a rare one.

    Parameters
    ----------
    scores : Tensor, shape (runs, ..., n_examples, n_classes)
        Logits of every example from a head that was fitted without its clip.
    labels, held_out : Tensor, shape (runs, n_examples)

    Returns
    -------
    Tensor, shape (runs, ...)
    """
    weights = held_out_weights(labels, held_out, scores.shape[-1])
    losses = example_losses(scores, labels)
    return (losses * weights.view(len(labels), *(1,) * (scores.ndim - 3), -1)).sum(dim=-1)


def example_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of every example, (runs, ..., n_examples): see :func:`held_out_loss`."""
    runs, n_examples = labels.shape
    absent = ~present_classes(labels, scores.shape[-1])
    if absent.any():  # nothing is known of them that could be compared
        scores = scores.masked_fill(absent.view(runs, *(1,) * (scores.ndim - 2), -1), -torch.inf)
    wanted = labels.view(runs, *(1,) * (scores.ndim - 3), n_examples, 1).expand(*scores.shape[:-1], 1)
    return scores.logsumexp(dim=-1) - scores.gather(-1, wanted)[..., 0]


def held_out_weights(labels: Tensor, held_out: Tensor, n_classes: int) -> Tensor:
    """Return the shares (runs, n_examples) of examples in a mean over classes of those held out."""
    members = one_hot(labels, n_classes) * held_out[..., None]
    counts = members.sum(dim=1, keepdim=True)
    each = (members / counts.clamp(min=1)).sum(dim=-1)
    return each / (counts > 0).sum(dim=-1).clamp(min=1)


def clearly_worse(losses: Tensor, weights: Tensor) -> Tensor:
    """Say which candidates are worse than the best by more than chance among few clips may make them.

    The rule of one standard error (Breiman et al., "Classification and Regression Trees", 1984), on the
    differences of paired clips.

    Parameters
    ----------
    losses : Tensor, shape (runs, candidates, n_examples)
        Of clips that were held out.
    weights : Tensor, shape (runs, n_examples)
        Their shares of the mean; 0 for those never held out.

    Returns
    -------
    Tensor, shape (runs, candidates)
    """
    share = weights[:, None]
    best = (losses * share).sum(dim=2).argmin(dim=1)
    difference = losses - losses[torch.arange(len(losses)), best][:, None]
    mean = (difference * share).sum(dim=2, keepdim=True)
    error = (share * (difference - mean)).square().sum(dim=2).sqrt()
    return mean[..., 0] > error + 1e-9


def first_of_best(losses: Tensor) -> Tensor:
    """Return the place of the least of losses (runs, candidates), (runs,): the first of those that tie."""
    losses = losses.double()
    # Candidates that differ by rounding alone tie, or a run's companions could decide for it.
    return (losses <= losses.min(dim=1, keepdim=True).values + 1e-9).int().argmax(dim=1)


def choose(losses: Tensor, grids: Mapping[str, Grid], held_out: Tensor, views: int) -> dict[str, Tensor]:
    """Take every run's best candidate, or the defaults where nothing could be held out.

    Parameters
    ----------
    losses : Tensor, shape (runs, number of values of the first grid, of the second ...)
    grids : mapping of Grid
        By name, in the order of the axes of ``losses``; the first of equally good values is taken.
    held_out : Tensor, shape (runs, n_examples)

    Returns
    -------
    dict of Tensor, shape (runs,) or (runs, values of a tuple)
        float64, a value for every grid; and ``held_out``, how many clips decided: 0 says that these are
        the defaults.
    """
    # torch.unravel_index would import sympy.
    places = np.unravel_index(first_of_best(losses.flatten(1)).numpy(), losses.shape[1:])
    n_held_out = held_out.sum(dim=1) // views
    chosen = {}
    for (name, grid), place in zip(grids.items(), places, strict=True):
        values = grid.candidates[torch.from_numpy(place)]
        default = torch.tensor(grid.default, dtype=torch.float64).expand_as(values)
        has_verdict = (n_held_out > 0).view(-1, *(1,) * (values.ndim - 1))
        chosen[name] = torch.where(has_verdict, values, default)
    return {**chosen, "held_out": n_held_out}
