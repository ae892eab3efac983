"""PALM: a learned context and gate per class, in the feature space of the text encoder."""

from __future__ import annotations

from dataclasses import asdict
from typing import ClassVar

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    CosineHead,
    Shots,
    Tick,
    generators,
    no_tick,
    sgd_steps,
    unit,
)
from palm_cache.adaptation.heads.palm_descent import descend
from palm_cache.adaptation.train import draw_orders, present_classes
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


class Palm(CosineHead):
    """Prompt learning in the feature space of the text encoder.

    References
    ----------
    Hanif et al., "PALM: Few-Shot Prompt Learning for Audio Language Models", EMNLP 2024.
    """

    name: ClassVar[str] = "palm"
    learns: ClassVar[str] = "a context vector and a gate per class: classes x (dim + 1)"
    can_start_from_shots: ClassVar[bool] = True
    published_template: ClassVar[str] = BARE_TEMPLATE
    source: ClassVar[str] = "Hanif et al., EMNLP 2024, arXiv:2409.19806"

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return the training protocol."""
        return asdict(self.training)

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return ``n_classes * (dim + 1)``."""
        return n_classes * (dim + 1)

    def n_steps(self, n_examples: int) -> int:
        """Return the steps of gradient descent."""
        return sgd_steps(self.training, n_examples)

    def start(self, shots: Shots, run: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return where a run starts: its context (n_classes, dim) and its gate (n_classes,)."""
        context = CONTEXT_STD * torch.randn(shots.text.shape[1:], generator=generator)
        return context, torch.rand(shots.n_classes, generator=generator)

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Train all runs together; each run's start and shuffling follow from its seed alone."""
        contexts, gates, orders = [], [], []
        for run, generator in enumerate(generators(shots.seeds)):
            context, gate = self.start(shots, run, generator)
            contexts.append(context)
            gates.append(gate)
            orders.append(draw_orders(shots.labels.shape[1], self.training.epochs, generator))
        present = present_classes(shots.labels, shots.n_classes)
        start = {
            # Without a context, where the gate cancels, a class without a clip is its prompt, and stays it.
            "context": (torch.stack(contexts) * present[..., None]).to(shots.audio),
            "gate": torch.stack(gates).to(shots.audio),
        }
        learned, likelihoods = descend(
            start, shots.text, shots.audio, shots.labels, torch.stack(orders), self.training, tick=tick
        )
        return {
            **learned,
            "class_embeddings": mix_context(shots.text, learned["context"], learned["gate"]),
            "losses": mean_losses(likelihoods),
        }


def mean_losses(likelihoods: Tensor) -> Tensor:
    """Return the mean cross entropy of every epoch, (runs, epochs), as its steps met the clips.

    Parameters
    ----------
    likelihoods : Tensor, shape (runs, epochs, n_clips)
        Of the right class; what is too small for a float counts as the smallest.
    """
    return -likelihoods.clamp(min=torch.finfo(likelihoods.dtype).tiny).log().mean(dim=2)
