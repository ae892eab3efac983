"""The head that the shots themselves prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import Head, Shots, Tick, Words, no_tick
from palm_cache.adaptation.heads.gda import Gda
from palm_cache.adaptation.heads.hyperparameters import Grid, choose, cross_validation_folds, held_out_loss
from palm_cache.adaptation.heads.kernels import Proker
from palm_cache.adaptation.heads.tip_adapter import TipAdapter

CANDIDATES: tuple[type[Head], ...] = (Proker, Gda, TipAdapter)
"""Heads in closed form that were near the best somewhere; the first is taken at one shot a class, where
nothing can be held out."""

FOLDS = 4

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Of logits, so that heads compare by what they say and not by how loudly."""


class Auto(Head):
    """Cross-validate some heads on the shots and take the one with the least loss.

    Every candidate is fitted without a part of the shots, its own choice of hyperparameters included, and
    scores that part; every class counts the same. ``choice`` is the place of the winner among ``candidates``,
    ``losses`` says by how much it won.

    References
    ----------
    Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", 1974.
    """

    name: ClassVar[str] = "auto"
    learns: ClassVar[str] = "which of " + ", ".join(kind.name for kind in CANDIDATES) + " its shots prefer"
    chooses: ClassVar[tuple[str, ...]] = (
        "choice",
        "losses",
        "held_out",
        *(f"{kind.name}_{name}" for kind in CANDIDATES for name in kind.chooses),
    )
    source: ClassVar[str] = "Stone, 1974"

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return the names of the candidates, in the order of ``choice`` and ``losses``."""
        return {"candidates": [kind.name for kind in CANDIDATES]}

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return 0: all candidates are solved in closed form."""
        return 0

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Return the state of every candidate, under its name, and which is taken."""
        heads = [kind(self.template, self.training) for kind in CANDIDATES]
        chosen = shots.chosen or self._choose(heads, shots)
        fitted: dict[str, Tensor] = {}
        for head in heads:
            own = {name: f"{head.name}_{name}" for name in head.chooses}
            given = {name: chosen[full] for name, full in own.items() if full in chosen}
            state = head.fit(replace(shots, chosen=given))
            fitted |= {f"{head.name}_{name}": value for name, value in state.items()}
        return {**fitted, **chosen}

    @staticmethod
    def _choose(heads: Sequence[Head], shots: Shots) -> dict[str, Tensor]:
        folds = cross_validation_folds(shots.labels, shots.n_classes, shots.together, FOLDS)
        losses = torch.stack([_held_out_losses(head, shots, folds) for head in heads], dim=1)
        grid = Grid(tuple(float(place) for place in range(len(heads))), default=0.0)
        chosen = choose(losses, {"choice": grid}, folds >= 0, shots.views)
        return {**chosen, "choice": chosen["choice"].long(), "losses": losses}

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips with the candidate that was taken."""
        choice = state["choice"]
        scores = torch.stack([kind.logits(_of_candidate(state, kind), audio) for kind in CANDIDATES])
        if choice.ndim:
            return scores[choice, torch.arange(len(choice))]
        return scores.index_select(0, choice[None])[0]  # which an exporter can trace


def _of_candidate(state: Mapping[str, Tensor], kind: type[Head]) -> dict[str, Tensor]:
    prefix = f"{kind.name}_"
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _held_out_losses(head: Head, shots: Shots, folds: Tensor) -> Tensor:
    """Return the loss of every run's shots from heads fitted without them, (runs,).

    They are asked about the classes that a run has shots of, and know of no other.
    """
    scores = torch.zeros(*shots.labels.shape, shots.n_classes, dtype=torch.float64)
    for run, own in enumerate(folds):
        present, labels = torch.unique(shots.labels[run], return_inverse=True)
        for fold in range(int(own.max()) + 1):
            kept = own != fold
            part = Shots(
                shots.audio[run, kept][None],
                labels[kept][None],
                shots.text[run, present][None],
                shots.seeds[run : run + 1],
                views=shots.views,
                parts=shots.parts,
                groups=shots.together[run, kept][None],
            )
            state = {name: value[0] for name, value in head.fit(part).items()}
            out = (~kept).nonzero()
            scores[run, out, present] = head.logits(state, shots.audio[run, ~kept]).double()
    each = [held_out_loss(factor * scores, shots.labels, folds >= 0) for factor in FACTORS]
    return torch.stack(each).amin(dim=0)
