"""Class means: as a classifier, and as where PALM starts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    Head,
    Shots,
    Words,
    cosine_logits,
    one_hot,
    unit,
    unseen_bias,
)
from palm_cache.adaptation.heads.palm import Palm


def class_means(audio: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the directions (..., n_classes, dim) of the means of every class's unit clips (..., n, dim).

    Zero for a class without a clip.
    """
    return unit(one_hot(labels, n_classes).to(audio).transpose(-1, -2) @ audio)


class Prototype(Head):
    r"""Nearest class mean by cosine.

    .. math:: \mathrm{logits}(x)_c = 100\,\mathrm{unit}(a(x)) \cdot m_c

    References
    ----------
    Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017, without the network
    and with the cosine for the distance.
    """

    name = "prototype"
    learns = "nothing step by step: the mean of every class's clips"
    reads_text = False
    source = "Snell et al., NeurIPS 2017, arXiv:1703.05175"

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Return every run's class means."""
        n_classes = shots.n_classes
        return {
            "class_embeddings": class_means(shots.audio, shots.labels, n_classes),
            "bias": unseen_bias(shots.labels, n_classes),
        }

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return 100 times the cosines of clips with the class means."""
        return cosine_logits(state["class_embeddings"], audio) + state["bias"][..., None, :]


class PalmPrototype(Palm):
    """PALM whose context starts at the class means instead of noise."""

    name = "palm-prototype"
    learns = "as palm, the context starting at the class means: classes x (dim + 1)"
    source = "ours, after Hanif et al., EMNLP 2024, arXiv:2409.19806"

    def start(self, shots: Shots, run: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return a run's class means and the gate that PALM draws."""
        means = class_means(shots.audio[run], shots.labels[run], shots.n_classes)
        return {"context": means, "gate": torch.rand(shots.n_classes, generator=generator)}
