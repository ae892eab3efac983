"""PALM: a learned context and gate per class, in the feature space of the text encoder."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    CosineHead,
    DescentHead,
    Shots,
    present_classes,
    unit,
)
from palm_cache.adaptation.heads.descent import draw_runs
from palm_cache.adaptation.heads.palm_descent import descend
from palm_cache.errors import DataError
from palm_cache.types import BARE_TEMPLATE

CONTEXT_STD = 0.02
"""Standard deviation of the context before training."""


def mix_context(text: Tensor, context: Tensor, gate: Tensor) -> Tensor:
    r"""Blend frozen text embeddings with a learned context, class by class.

    .. math:: t'_c = \mathrm{unit}\big((1-\sigma(l_c))\,t_c + \sigma(l_c)\,z_c\big)

    Parameters
    ----------
    text : Tensor, shape (..., n_classes, dim)
        Frozen embedding :math:`t_c`, unit length per row.
    context : Tensor, shape (..., n_classes, dim)
        Learned :math:`z_c`.
    gate : Tensor, shape (..., n_classes)
        Learned :math:`l_c`, before the sigmoid; large means "trust the context".

    Returns
    -------
    Tensor, shape (..., n_classes, dim)
        Class embeddings, unit length per row.

    Raises
    ------
    DataError
        If the shapes do not fit together.

    References
    ----------
    Hanif et al., EMNLP 2024, arXiv:2409.19806; official palm/palm.py, PromptLearner.forward.
    """
    if context.shape[-2:] != text.shape[-2:] or gate.shape != context.shape[:-1]:
        raise DataError(
            f"text {tuple(text.shape)}, context {tuple(context.shape)} and gate {tuple(gate.shape)} "
            "do not fit together"
        )
    trust = torch.sigmoid(gate)[..., None]
    return unit((1 - trust) * text + trust * context)


class Palm(DescentHead, CosineHead):
    """Prompt learning in the feature space of the text encoder.

    References
    ----------
    Hanif et al., "PALM: Few-Shot Prompt Learning for Audio Language Models", EMNLP 2024.
    """

    name = "palm"
    learns = "a context vector and a gate per class: classes x (dim + 1)"
    can_start_from_shots = True
    published_template = BARE_TEMPLATE
    source = "Hanif et al., EMNLP 2024, arXiv:2409.19806"

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return ``n_classes * (dim + 1)``."""
        return n_classes * (dim + 1)

    def start(self, shots: Shots, run: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return where a run starts: its context (n_classes, dim), its gate (n_classes,)."""
        context = CONTEXT_STD * torch.randn(shots.text.shape[1:], generator=generator)
        # Without a context, where the gate cancels, a class without a clip is its prompt, and stays it.
        context *= present_classes(shots.labels[run], shots.n_classes)[:, None]
        return {"context": context, "gate": torch.rand(shots.n_classes, generator=generator)}

    def draw(self, shots: Shots, epochs: int) -> tuple[dict[str, Tensor], Tensor]:
        """Draw where all runs start and the orders of their clips; see :func:`draw_runs`."""
        start, orders = draw_runs(shots.seeds, shots.labels.shape[1], epochs, partial(self.start, shots))
        return {name: value.to(shots.audio) for name, value in start.items()}, orders

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Train all runs together."""
        start, orders = self.draw(shots, self.training.epochs)
        learned, likelihoods = descend(start, shots, orders, self.training)
        # What is too small for a float counts as the smallest.
        likelihoods = likelihoods.clamp(min=torch.finfo(likelihoods.dtype).tiny)
        return {
            **learned,
            "class_embeddings": mix_context(shots.text, learned["context"], learned["gate"]),
            # Mean cross entropy of every epoch, (runs, epochs), as its steps met the clips.
            "losses": -likelihoods.log().mean(dim=2),
        }
