"""The contract of a head, and what the heads with one embedding per class share.

A head is fitted on a :class:`Shots` batch, many runs of one shape at once, and returns a state per
run: plain tensors, from which :meth:`Head.logits` scores any clip. ``tests/contracts.py`` checks what
is promised here on every head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from palm_cache.errors import DataError
from palm_cache.types import Training

SCALE = 100.0
"""Logit scale of PALM and of all its rivals (the authors' fixed temperature of 0.01)."""


@dataclass(frozen=True, slots=True)
class Shots:
    """Training clips of many runs of one shape, on the same dataset and encoder."""

    audio: Tensor
    """(runs, n_train, dim) float, unit length."""
    labels: Tensor
    """(runs, n_train) int64."""
    text: Tensor
    """(n_classes, dim) float, unit length: the head's prompt for every class."""
    seeds: tuple[int, ...]
    """(runs,) one seed per run."""

    def __post_init__(self) -> None:
        runs, n_train, dim = self.audio.shape
        if self.labels.shape != (runs, n_train) or len(self.seeds) != runs or self.text.shape[1:] != (dim,):
            raise DataError(
                f"shots do not fit together: audio {tuple(self.audio.shape)}, labels "
                f"{tuple(self.labels.shape)}, text {tuple(self.text.shape)}, {len(self.seeds)} seeds"
            )


class Head(ABC):
    """A way to classify embeddings after a few labelled ones.

    Parameters
    ----------
    template : str
        Prompt template of the text embeddings it reads.
    training : Training
        How it learns, if it does.
    """

    name: ClassVar[str]
    learns: ClassVar[str]
    """In words, for ``palm-cache heads``."""
    trained: ClassVar[bool] = True
    """False for heads that learn nothing: one run per fold, no shots."""
    source: ClassVar[str]
    """The paper it comes from."""

    def __init__(self, template: str, training: Training) -> None:
        self.template = template
        self.training = training

    @property
    def hyperparameters(self) -> dict[str, object]:
        """What decides the result besides the data and the seed."""
        return {}

    @staticmethod
    @abstractmethod
    def n_params(n_classes: int, dim: int) -> int:
        """Count the learnable parameters."""

    @abstractmethod
    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Fit all runs.

        Returns
        -------
        dict of Tensor, shape (runs, ...)
            The state of every run.
        """

    @staticmethod
    @abstractmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor) -> Tensor:
        """Score clips with one run's state, or with all runs' at once.

        Parameters
        ----------
        state : mapping of Tensor, shape (..., ...)
            What :meth:`fit` returned, with its leading run axis or one run of it.
        audio : Tensor, shape (..., n_clips, dim)
            Embeddings of any length.

        Returns
        -------
        Tensor, shape (..., n_clips, n_classes)
        """


class CosineHead(Head):
    r"""A head whose logits are cosines with one embedding per class.

    .. math:: \mathrm{logits}(x)_c = 100\,\mathrm{unit}(a(x)) \cdot t'_c
    """

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor) -> Tensor:
        """Return 100 times the cosines of clips with ``state["class_embeddings"]``."""
        return cosine_logits(state["class_embeddings"], audio)


def cosine_logits(class_embeddings: Tensor, audio: Tensor) -> Tensor:
    """Return ``100 unit(audio) . class_embeddings``.

    Parameters
    ----------
    class_embeddings : Tensor, shape (..., n_classes, dim)
        Unit length per row.
    audio : Tensor, shape (..., n_clips, dim)

    Returns
    -------
    Tensor, shape (..., n_clips, n_classes)
    """
    return SCALE * unit(audio) @ class_embeddings.transpose(-1, -2)


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (..., dim) to unit length; zero vectors stay zero."""
    return normalize(vectors, dim=-1)


def generators(seeds: tuple[int, ...]) -> list[torch.Generator]:
    """Return one random generator per run, so that a run does not depend on its companions."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
