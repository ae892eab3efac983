"""Several heads together, each as loud as held-out shots find it right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import Head, Shots, Words
from palm_cache.adaptation.heads.gda import Gda
from palm_cache.adaptation.heads.hyperparameters import Grid, choose, cross_validation_folds, held_out_loss
from palm_cache.adaptation.heads.kernels import Proker
from palm_cache.adaptation.heads.tip_adapter import TipAdapter

CANDIDATES: tuple[type[Head], ...] = (Proker, Gda, TipAdapter)
"""Heads in closed form, each of which was near the best somewhere."""

FOLDS = 4

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Of a candidate's logits: from saying next to nothing to three times as sure."""

AT_ONE_SHOT: Mapping[str, float] = {"gda": 0.2, "tip-adapter": 0.2}
"""Factors at one shot a class, where nothing can be held out; 1 for the others. These have 100 times a cosine
in their logits, about five times as much as few shots bear out."""


class Auto(Head):
    r"""Some heads together: the mean of their logits, each with a factor.

    .. math:: \mathrm{logits}(x) = \frac1n \sum_{h=1}^n f_h\,\mathrm{logits}_h(x)

    which is the logarithmic pool of what they say. Every candidate chooses its hyperparameters from all shots
    and keeps them. Then it is fitted without a part of the shots and scores that part, in turns, and
    :math:`f_h` is what makes these scores fit best, every class counting the same: one that errs is quiet.
    Few shots do not tell which of several good heads is best, and they err on different clips.

    References
    ----------
    Genest and Zidek, "Combining Probability Distributions: A Critique and an Annotated Bibliography",
    Statistical Science 1986.
    """

    name = "auto"
    learns = (
        f"{', '.join(kind.name for kind in CANDIDATES)} together, each as loud as its shots find it right"
    )
    chooses = (
        "factors",
        "losses",
        "held_out",
        *(f"{kind.name}_{name}" for kind in CANDIDATES for name in kind.chooses),
    )
    source = "after Genest and Zidek, Statistical Science 1986"

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return the names of the candidates, in the order of ``factors`` and ``losses``."""
        return {"candidates": [kind.name for kind in CANDIDATES]}

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Return the state of every candidate, under its name, its factor and its loss on held-out shots."""
        heads = [kind(self.template, self.training) for kind in CANDIDATES]
        states = [head.fit(replace(shots, chosen=_of_candidate(shots.chosen, type(head)))) for head in heads]
        pairs = list(zip(heads, states, strict=True))
        weighed = shots.chosen or _weigh(pairs, shots)
        fitted = {f"{head.name}_{name}": value for head, state in pairs for name, value in state.items()}
        return {**fitted, **weighed}

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return the mean of the candidates' logits, each times its factor."""
        factors = state["factors"].to(audio)[..., None, None, :]
        scores = [kind.logits(_of_candidate(state, kind), audio) for kind in CANDIDATES]
        return (factors * torch.stack(scores, dim=-1)).mean(dim=-1)


def _of_candidate(values: Mapping[str, Tensor], kind: type[Head]) -> dict[str, Tensor]:
    prefix = f"{kind.name}_"
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _weigh(pairs: Sequence[tuple[Head, Mapping[str, Tensor]]], shots: Shots) -> dict[str, Tensor]:
    """Choose the factors of heads that were fitted on all shots, with what they chose there."""
    folds = cross_validation_folds(shots.labels, shots.n_classes, shots.together, FOLDS)
    factors, losses, held_out = [], [], folds >= 0
    for head, state in pairs:
        held = replace(shots, chosen={name: state[name] for name in head.chooses})
        scores = _held_out_scores(head, held, folds)
        each = [held_out_loss(factor * scores, shots.labels, held_out) for factor in FACTORS]
        table = torch.stack(each, dim=1)  # (runs, factors)
        grid = Grid(FACTORS, default=AT_ONE_SHOT.get(head.name, 1.0))
        chosen = choose(table, {"factor": grid}, held_out, shots.views)
        factors.append(chosen["factor"])
        losses.append(table.amin(dim=1))
    return {
        "factors": torch.stack(factors, dim=1),
        "losses": torch.stack(losses, dim=1),
        "held_out": chosen["held_out"],
    }


def _held_out_scores(head: Head, shots: Shots, folds: Tensor) -> Tensor:
    """Return the logits of every example that is held out, (runs, n_examples, n_classes); else zeros.

    Heads are asked about the classes that a run has shots of, and know of no other.
    """
    scores = torch.zeros(*shots.labels.shape, shots.n_classes, dtype=torch.float64)
    for run, dealt in enumerate(folds):
        alone = shots.of_runs(torch.tensor([run]))
        present, labels = torch.unique(alone.labels, return_inverse=True)
        for fold in range(int(dealt.max()) + 1):
            kept = dealt != fold
            part = replace(
                alone,
                audio=alone.audio[:, kept],
                labels=labels[:, kept],
                text=alone.text[:, present],
                groups=alone.together[:, kept],
            )
            logits = head.logits(head.fit(part), alone.audio[:, ~kept])[0].double()
            scores[run, (~kept).nonzero(), present] = logits
    return scores
