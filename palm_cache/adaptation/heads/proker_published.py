"""ProKeR and MUKA as published: bare cosines, the authors' solve, constants carried over by shots."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import Head, Shots, Words, one_hot, present_classes
from palm_cache.adaptation.heads.kernel_machine import parts_of, split_encoders

CONSTANTS = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}
"""The authors' beta and lambda by shots; between them, those of fewer shots are taken."""


class ProkerPublished(Head):
    r"""ProKeR as its authors' code has it.

    .. math:: \mathrm{logits}(x) = x\,T^T + k(x, S)\,\alpha, \qquad
              \alpha = (K / \lambda + I)^{-1}\,(Y - S\,T^T), \qquad k(x, x') = e^{-\beta (1 - x \cdot x')}

    Nothing is chosen: :math:`\beta` and :math:`\lambda` are the authors', carried over to every dataset. The
    prior is that of the first encoder, the kernel the product of those in :attr:`kernels`.

    References
    ----------
    Bendou et al., CVPR 2025, arXiv:2501.11175; the authors' code. :math:`\alpha` is
    :math:`\lambda` times what ridge regression with :math:`K + \lambda I` gives.
    """

    name = "proker-published"
    learns = "as proker, with its authors' prior and constants"
    chooses = ("beta", "ridge")
    source = "Bendou et al., CVPR 2025, arXiv:2501.11175"
    kernels = slice(None)
    """Of which encoders the kernels are multiplied."""

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Return the shots, their weights and the prompts."""
        parts = torch.tensor(shots.parts or (shots.audio.shape[2],)).repeat(len(shots.seeds), 1)
        targets = one_hot(shots.labels, shots.n_classes)
        present = present_classes(shots.labels, shots.n_classes)[:, None]
        most = targets.sum(dim=1).amax(dim=1) / shots.views
        beta, ridge = torch.tensor(
            [CONSTANTS[max(known for known in CONSTANTS if known <= count)] for count in most.tolist()],
            dtype=torch.float64,
        ).unbind(dim=1)
        state = {"clips": shots.audio, "text": shots.text, "parts": parts}
        state = {**state, "beta": beta, "ridge": ridge, **shots.chosen}
        exact = {name: value.double() for name, value in state.items()}
        prior, kernel = self.looked_up({**exact, "parts": parts}, shots.audio.double())
        identity = torch.eye(kernel.shape[-1], dtype=torch.float64)
        weights = torch.linalg.solve(
            kernel / state["ridge"][:, None, None] + identity, (targets - prior) * present
        )
        return {**state, "text": state["text"].clone(), "weights": weights.float()}

    @classmethod
    def looked_up(cls, state: Mapping[str, Tensor], audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return prior (..., n, n_classes) and kernel with the shots (..., n, n_examples) of clips."""
        parts = parts_of(state)
        clips, shots = split_encoders(audio, parts), split_encoders(state["clips"], parts)
        prior = clips[0] @ split_encoders(state["text"], parts)[0].transpose(-1, -2)
        pairs = list(zip(clips, shots, strict=True))[cls.kernels]
        distances = torch.stack([1 - one @ other.transpose(-1, -2) for one, other in pairs]).sum(dim=0)
        return prior, torch.exp(-state["beta"].to(audio)[..., None, None] * distances)

    @classmethod
    def logits(cls, state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips by bare cosines and their kernels with the shots; of one run, or of all at once."""
        prior, kernel = cls.looked_up(state, audio)
        return prior + kernel @ state["weights"]


class MukaPublished(ProkerPublished):
    """MUKA as published: the first encoder's bare cosines, the product of all encoders' kernels.

    References
    ----------
    Ouasfi et al., 2026, arXiv:2602.14127, which gives no constants of its own; these are ProKeR's.
    """

    name = "muka-published"
    learns = "as muka, with the published prior and ProKeR's constants"
    n_encoders = 2
    source = "Ouasfi et al., 2026, arXiv:2602.14127"


class MukaCrossed(MukaPublished):
    """MUKA's ablation: the first encoder's prior with the kernels of the others."""

    name = "muka-crossed"
    learns = "as muka-published, without the first encoder's kernel"
    kernels = slice(1, None)
