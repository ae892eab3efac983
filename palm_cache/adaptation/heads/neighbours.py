"""Nearest neighbours among the shots."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import Head, Shots, Words, class_weights, one_hot, unit
from palm_cache.adaptation.heads.hyperparameters import (
    Grid,
    can_be_held_out,
    choose,
    held_out_loss,
    same_group,
)

NEIGHBOURS = Grid((1, 2, 3, 5, 7, 10, 15, 20), default=1)
"""How many neighbours vote. More than twenty outnumber the sixteen clips that a class has at most in the
paper's protocol."""


def votes(similarities: Tensor, targets: Tensor, k: Tensor) -> Tensor:
    r"""Count the votes of the nearest neighbours.

    A neighbour's vote is :math:`1 + (1 + \cos)/4k`: one, and a little more the nearer it is. All that is
    added to ones is at most a half, so it decides between equal numbers of votes and nothing else.

    Parameters
    ----------
    similarities : Tensor, shape (..., n_clips, n_examples)
        Cosines; minus infinity for an example that has no vote.
    targets : Tensor, shape (..., n_examples, n_classes)
        One-hot labels, weighted.
    k : Tensor, shape (...)
        How many vote.
    """
    # Stable: of equally near examples the first one votes, everywhere.
    ordered, who = similarities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ordered.shape[-1])
    each = k[..., None, None]
    vote = torch.where((rank < each) & ordered.isfinite(), 1 + (1 + ordered) / (4 * each), 0.0)
    return torch.zeros_like(vote).scatter(-1, who, vote) @ targets


def vote_logits(counted: Tensor) -> Tensor:
    r"""Return the logarithm of smoothed shares of votes: their softmax is

    .. math:: p_c = \frac{\mathrm{votes}_c + 1/C}{\sum_{c'} \mathrm{votes}_{c'} + 1}

    so one vote's worth is spread over all classes, and none is impossible.
    """
    n_classes = counted.shape[-1]
    return torch.log((counted + 1 / n_classes) / (counted.sum(dim=-1, keepdim=True) + 1))


class Neighbours(Head):
    r"""Vote of the :math:`k` shots with the greatest cosine; :math:`k` is chosen by leave-one-out.

    Where classes have unequally many shots, the votes of a class count inversely to its number.

    References
    ----------
    Cover and Hart, "Nearest Neighbor Pattern Classification", IEEE Transactions on Information Theory, 1967.
    """

    name = "knn"
    learns = "nothing: the nearest shots vote"
    reads_text = False
    chooses = ("k", "held_out")
    source = "Cover and Hart, 1967"

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Keep the shots and choose how many vote."""
        weights = class_weights(shots.labels, shots.n_classes)
        targets = one_hot(shots.labels, shots.n_classes) * weights[..., None]
        chosen = shots.chosen or self._choose(shots, targets)
        return {"clips": shots.audio, "targets": targets.float(), **chosen, "k": chosen["k"].long()}

    @staticmethod
    def _choose(shots: Shots, targets: Tensor) -> dict[str, Tensor]:
        audio = shots.audio.double()
        held_out = can_be_held_out(shots.labels, shots.n_classes, shots.together)
        others = (audio @ audio.transpose(-1, -2)).masked_fill(same_group(shots.together), -torch.inf)
        losses = [
            held_out_loss(vote_logits(votes(others, targets, torch.tensor(k))), shots.labels, held_out)
            for k in NEIGHBOURS.values
        ]
        return choose(torch.stack(losses, dim=1), {"k": NEIGHBOURS}, held_out, shots.views)

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return the logarithm of the smoothed shares of votes."""
        similarities = unit(audio) @ state["clips"].transpose(-1, -2)
        return vote_logits(votes(similarities, state["targets"], state["k"]))
