"""Kernel machines: kernel ridge regression, ProKeR, and ProKeR with prompts that lean to the shots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import Shots, Words, one_hot, unit, unseen_bias
from palm_cache.adaptation.heads.hyperparameters import Grid, same_group
from palm_cache.adaptation.heads.kernel_machine import WIDTHS, KernelMachine, parts_of, squared_distances

WIDTH_PAIRS = (*((width, width) for width in WIDTHS), (0.25, 1.0), (0.25, 4.0), (0.5, 2.0), (1.0, 4.0))
"""The same for a kernel of two widths: one width twice, or a wide and a narrow one."""

BLENDS = (0.0, 0.25, 0.5, 0.75)
"""How far prompts lean towards the shots."""

PRIOR_SCALES = (0.0, 5.0, 10.0, 20.0, 50.0)
"""Logit scales of the zero-shot prediction: 0 ignores it, 10 is soft; PALM's 100 makes it so sure that the
shots cannot correct it where it is wrong."""


class KernelRidge(KernelMachine):
    r"""Ridge regression of one-hot labels in the space of a radial kernel on unit embeddings.

    .. math:: k(x, x') = \exp(-\gamma \lVert x - x' \rVert^2), \qquad
              \mathrm{logits}(x) = s\,k(x, S)\,(K + \lambda I)^{-1}\,Y

    References
    ----------
    Saunders, Gammerman and Vovk, "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998.
    """

    name = "kernel-ridge"
    learns = "weights of the shots in a radial kernel, in closed form"
    reads_text = False
    chooses = ("gamma", "ridge", "scale", "balance", "held_out")
    source = "Saunders et al., ICML 1998"

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Return the shots and their weights."""
        solved = self.solve(shots)
        return {**solved, "bias": solved["bias"] + unseen_bias(shots.labels, shots.n_classes)}

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips by their kernels with the shots."""
        distances = KernelRidge.distances(audio, state["clips"], ())
        scores = KernelRidge.kernel(distances, state["gamma"].to(audio)) @ state["weights"]
        return state["scale"].to(audio)[..., None, None] * scores + state["bias"][..., None, :]


class Proker(KernelMachine):
    r"""Proximal kernel ridge regression: stay near the zero-shot prediction, in the space of the kernel.

    .. math:: f = \arg\min_f \sum_{i \in S} \lVert f(x_i) - y_i \rVert^2
              + \lambda \lVert f - f_0 \rVert^2_{\mathcal H},
              \qquad f_0(x)_c = \mathrm{softmax}_c(\tau\,x \cdot t_c)

    with the closed form of this module. With a constant prior, :math:`\tau = 0`, it is kernel ridge
    regression.

    References
    ----------
    Bendou et al., "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models",
    CVPR 2025. The authors start from bare cosines (``proker-published``); the softmax, whose scale is chosen,
    is ours: it keeps the prior between 0 and 1, where the labels are.
    """

    name = "proker"
    learns = "weights of the shots, in closed form, on top of zero-shot"
    chooses: ClassVar[tuple[str, ...]] = ("gamma", "ridge", "prior_scale", "scale", "balance", "held_out")
    source = "Bendou et al., CVPR 2025, arXiv:2501.11175"

    prior_scales = Grid(PRIOR_SCALES, default=10.0)

    @staticmethod
    def prior(cosines: Tensor, scale: Tensor) -> Tensor:
        """Return the zero-shot prediction from cosines (..., n, n_classes) at logit scales (...)."""
        return torch.softmax(scale[..., None, None] * cosines, dim=-1)

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Return the shots, their weights and the prompts."""
        return {**self.solve(shots), "text": shots.text}

    @classmethod
    def scores(cls, state: Mapping[str, Tensor], audio: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return the logits of clips with one run's state, or with all runs' at once."""
        kernel = cls.kernel(cls.distances(audio, state["clips"], parts), state["gamma"].to(audio))
        prior = cls.prior(cls.cosines(audio, state["text"], parts), state["prior_scale"].to(audio))
        scale = state["scale"].to(audio)[..., None, None]
        return scale * (prior + kernel @ state["weights"]) + state["bias"][..., None, :]

    @classmethod
    def logits(cls, state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips, divided as the state says, by zero-shot and by their kernels with the shots."""
        return cls.scores(state, audio, parts_of(state))


class ProkerHybrid(Proker):
    r"""ProKeR whose prompts lean towards the shots, with a kernel of two widths.

    .. math:: t'_c = \mathrm{unit}\big((1 - r)\,t_c + r\,m_c\big), \qquad
              k(x, x') = \tfrac12 \sum_{i \le 2} \exp(-\gamma_i \lVert x - x' \rVert^2)

    with the direction :math:`m_c` of the mean of a class's shots. A shot's own prior comes from the others
    of its class, as a new clip's will.

    References
    ----------
    After ReHARK, arXiv:2603.11542; how :math:`r` and the widths are chosen is ours.
    """

    name = "proker-hybrid"
    learns = "as proker, with prompts that lean to the shots and two kernel widths"
    chooses = ("blend", *Proker.chooses)
    source = "after ReHARK, arXiv:2603.11542, and Bendou et al., CVPR 2025"

    widths = Grid(WIDTH_PAIRS, default=(1.0, 1.0))
    blends = Grid(BLENDS, default=0.5)

    @staticmethod
    def distances(left: Tensor, right: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return the squared distances, (..., 1 for both widths, n, m)."""
        return squared_distances(unit(left), unit(right)).unsqueeze(-3)

    @staticmethod
    def kernel(distances: Tensor, gamma: Tensor) -> Tensor:
        """Return the mean kernel of the inverse widths (..., 2)."""
        return torch.exp(-gamma[..., None, None] * distances).mean(dim=-3)

    def cosines_of_shots(self, shots: Shots) -> Tensor:
        """Return the cosines of every blend, where no group is part of the mean that it is held against."""
        audio, text, labels = shots.audio.double(), shots.text.double(), shots.labels
        sums = one_hot(labels, shots.n_classes).transpose(-1, -2) @ audio
        own_share = (same_group(shots.together) & same_group(labels)).double() @ audio
        place = labels[..., None].expand_as(audio)
        others = sums.gather(1, place) - own_share
        share = self.blends.candidates[:, None, None]
        cosines = unit(audio)[:, None] @ blended(text[:, None], sums[:, None], share).transpose(-1, -2)
        own_text = blended(text.gather(1, place)[:, None], others[:, None], share)
        own = (unit(audio)[:, None] * own_text).sum(dim=-1)
        where = labels[:, None, :, None].expand(-1, cosines.shape[1], -1, 1)
        return cosines.scatter(-1, where, own[..., None])

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Return the shots, their weights and the prompts that lean towards them."""
        solved = self.solve(shots)
        sums = one_hot(shots.labels, shots.n_classes).transpose(-1, -2) @ shots.audio.double()
        text = blended(shots.text.double(), sums, solved["blend"][:, None, None])
        return {**solved, "text": text.float()}


def blended(text: Tensor, sums: Tensor, share: Tensor) -> Tensor:
    """Return ``unit((1 - share) text + share unit(sums))``; text (..., dim) where there is no shot."""
    return unit((1 - share) * text + share * unit(sums))
