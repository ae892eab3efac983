r"""Kernel machines solved in closed form: kernel ridge regression, ProKeR, MUKA.

All of them fit one-hot labels by ridge regression in the space of a radial kernel, on top of a base
predictor :math:`f_0` (nothing, or the zero-shot prediction) on the shots :math:`S`:

.. math:: f(x) = f_0(x) + k(x, S)\,W, \qquad W = G\,(Y - f_0(S)), \qquad G = (K + \lambda I)^{-1}

What they would miss on a clip had they been fitted without it is known in closed form too. For the
examples :math:`B` of one clip, its views,

.. math:: Y_B - f_{\setminus B}(B) = (G_{BB})^{-1}\,W_B

(for one view: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, equation 5.12). All
hyperparameters are chosen by that, see :mod:`palm_cache.adaptation.heads.choice`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    Head,
    Shots,
    Tick,
    Words,
    need_encoders,
    no_tick,
    one_hot,
    unit,
    unseen_bias,
)
from palm_cache.adaptation.heads.choice import Grid, can_be_held_out, choose, held_out_loss

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Kernel widths: the kernel's exponent at the mean squared distance of the shots. Relative to it, because
embeddings of one encoder fill half the sphere and those of another a narrow cone."""

PRODUCT_WIDTHS = (0.0, 0.5, 1.0, 2.0)
"""The same for every factor of a product, whose exponents add up; 0 leaves an encoder out."""

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""From nearly interpolating the shots to halving what a lone clip says: its kernel with itself is 1."""

PRIOR_SCALES = (0.0, 5.0, 10.0, 20.0, 50.0)
"""Logit scales of the zero-shot prediction: 0 ignores it, 10 is soft; PALM's 100 makes it so sure that the
shots cannot correct it where it is wrong."""

SCALES = (2.0, 5.0, 10.0, 20.0, 50.0)
"""Logit scales of scores that lie about 0 and 1: from doubt to near certainty. Where no clip that is held out
is missed, any scale is better than the one before it; few clips do not prove more than the last of these."""

MOST_NUMBERS = 2**24
"""Numbers of one batch of kernel matrices, 128 MiB."""


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return the squared distances (..., n, m) of unit rows (..., n, dim) and (..., m, dim)."""
    return (2 - 2 * left @ right.transpose(-1, -2)).clamp(min=0)


def held_out_residuals(inverse: Tensor, targets: Tensor, views: int) -> Tensor:
    r"""Return what ridge regression would miss on every clip if it were fitted without that clip.

    .. math:: (G_{BB})^{-1} (G\,Y)_B \quad\text{for the views } B \text{ of every clip}

    Parameters
    ----------
    inverse : Tensor, shape (..., n_examples, n_examples)
        :math:`G = (K + \lambda I)^{-1}`.
    targets : Tensor, shape (..., n_examples, n_targets)
    views : int
        So many examples in a row are one clip.

    Returns
    -------
    Tensor, shape (..., n_examples, n_targets)
    """
    weights = inverse @ targets
    if views == 1:
        return weights / inverse.diagonal(dim1=-2, dim2=-1)[..., None]
    *leading, n_examples, n_targets = weights.shape
    n_clips = n_examples // views
    blocks = inverse.reshape(*inverse.shape[:-2], n_clips, views, n_clips, views)
    own = blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)  # (..., n_clips, views, views)
    residuals: Tensor = torch.linalg.solve(own, weights.reshape(*leading, n_clips, views, n_targets))
    return residuals.flatten(-3, -2)


class KernelMachine(Head):
    """What kernel ridge regression and its relatives share: choose by leave-one-out, then solve."""

    ridges: ClassVar[Grid] = Grid(RIDGES, default=0.1)
    prior_scales: ClassVar[Grid] = Grid((0.0,), default=0.0)
    scales: ClassVar[Grid] = Grid(SCALES, default=10.0)

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return 0: solved in closed form."""
        return 0

    def widths(self, parts: tuple[int, ...]) -> Grid:
        """Return the kernel widths that are tried."""
        return Grid(WIDTHS, default=1.0)

    @staticmethod
    def distances(left: Tensor, right: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return what the kernel is computed from: squared distances of unit vectors, (..., n, m)."""
        return squared_distances(unit(left), unit(right))

    @staticmethod
    def kernel(distances: Tensor, gamma: Tensor) -> Tensor:
        """Return the kernel (..., n, m) of distances (..., n, m) with inverse widths (...)."""
        return torch.exp(-gamma[..., None, None] * distances)

    @staticmethod
    def prior(audio: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        """Return the base predictor of clips, (..., n_clips, n_classes): nothing."""
        return audio.new_zeros(*audio.shape[:-1], text.shape[-2])

    def solve(self, shots: Shots) -> dict[str, Tensor]:
        """Choose and solve in double precision, as many runs together as memory bears."""
        runs, n_examples = shots.labels.shape
        together = max(1, MOST_NUMBERS // (n_examples**2 * max(1, len(shots.parts))))
        solved = []
        for some in torch.split(torch.arange(runs), together):
            given = {name: value[some] for name, value in shots.chosen.items()}
            solved.append(self._solve_some(shots.audio[some].double(), shots.labels[some], shots, given))
        return {name: torch.cat([part[name] for part in solved]) for name in solved[0]}

    def _solve_some(
        self, audio: Tensor, labels: Tensor, shots: Shots, given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Choose and solve for some of the runs: audio (runs, n_examples, dim) and labels of theirs."""
        text = shots.text.double()
        targets = one_hot(labels, len(text))
        distances = self.distances(audio, audio, shots.parts)
        n_pairs = labels.shape[1] * max(1, labels.shape[1] - 1)
        spread = (distances.sum(dim=(-2, -1)) / n_pairs).clamp(min=1e-12)  # all shots may be one and the same
        priors = self.prior(audio[:, None], text, self.prior_scales.candidates)
        missing = targets[:, None] - priors  # (runs, prior scales, n_examples, n_classes)
        held_out = can_be_held_out(labels, len(text), shots.views)
        widths = self.widths(shots.parts)
        losses = []
        for width, ridge in itertools.product(widths.candidates, self.ridges.candidates):
            inverse = _inverse(self.kernel(distances, width / spread), ridge)
            predicted = targets[:, None] - held_out_residuals(inverse[:, None], missing, shots.views)
            each = [held_out_loss(scale * predicted, labels, held_out) for scale in self.scales.candidates]
            losses.append(torch.stack(each, dim=-1))
        grids = {
            "gamma": widths,
            "ridge": self.ridges,
            "prior_scale": self.prior_scales,
            "scale": self.scales,
        }
        table = torch.stack(losses, dim=1).view(len(labels), *(len(grid.values) for grid in grids.values()))
        chosen = choose(table, grids, held_out, shots.views)
        chosen["gamma"] = chosen["gamma"] / spread
        chosen |= given
        missing = targets - self.prior(audio, text, chosen["prior_scale"])
        inverse = _inverse(self.kernel(distances, chosen["gamma"]), chosen["ridge"][:, None])
        return {"clips": unit(audio).float(), "weights": (inverse @ missing).float(), **chosen}


class KernelRidge(KernelMachine):
    r"""Ridge regression of one-hot labels in the space of a radial kernel on unit embeddings.

    .. math:: k(x, x') = \exp(-\gamma \lVert x - x' \rVert^2), \qquad
              \mathrm{logits}(x) = s\,k(x, S)\,(K + \lambda I)^{-1}\,Y

    References
    ----------
    Saunders, Gammerman and Vovk, "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998.
    """

    name: ClassVar[str] = "kernel-ridge"
    learns: ClassVar[str] = "weights of the shots in a radial kernel, in closed form"
    reads_text: ClassVar[bool] = False
    chooses: ClassVar[tuple[str, ...]] = ("gamma", "ridge", "scale", "held_out")
    source: ClassVar[str] = "Saunders et al., ICML 1998"

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Return the shots and their weights."""
        solved = self.solve(shots)
        del solved["prior_scale"]
        return {**solved, "bias": unseen_bias(shots.labels, len(shots.text))}

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
    CVPR 2025. The authors' code starts from bare cosines; the softmax, whose scale is chosen, is ours: it
    keeps the prior between 0 and 1, where the labels are.
    """

    name: ClassVar[str] = "proker"
    learns: ClassVar[str] = "weights of the shots, in closed form, on top of zero-shot"
    chooses: ClassVar[tuple[str, ...]] = ("gamma", "ridge", "prior_scale", "scale", "held_out")
    source: ClassVar[str] = "Bendou et al., CVPR 2025, arXiv:2501.11175"

    prior_scales: ClassVar[Grid] = Grid(PRIOR_SCALES, default=10.0)

    @staticmethod
    def prior(audio: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        """Return the zero-shot prediction of clips (..., n_clips, dim) at logit scales (...)."""
        return torch.softmax(scale[..., None, None] * unit(audio) @ text.transpose(-1, -2), dim=-1)

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Return the shots, their weights and the prompts."""
        return {**self.solve(shots), "text": shots.text.repeat(len(shots.seeds), 1, 1)}

    @classmethod
    def _scores(cls, state: Mapping[str, Tensor], audio: Tensor, parts: tuple[int, ...]) -> Tensor:
        kernel = cls.kernel(cls.distances(audio, state["clips"], parts), state["gamma"].to(audio))
        prior = cls.prior(audio, state["text"], state["prior_scale"].to(audio))
        return state["scale"].to(audio)[..., None, None] * (prior + kernel @ state["weights"])

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips by zero-shot and by their kernels with the shots."""
        return Proker._scores(state, audio, ())


class Muka(Proker):
    r"""ProKeR with a product of kernels, one for each of two (or more) encoders of the same clips.

    .. math:: k(x, x') = \prod_e \exp(-\gamma_e \lVert x_e - x'_e \rVert^2)

    Two clips are alike only where all encoders find them so. The zero-shot prediction is that of the joined
    embeddings: the mean of the encoders' cosines.

    References
    ----------
    Ouasfi et al., "MUKA: Multi Kernel Audio Adaptation of Audio-Language Models", 2026, which multiplies
    kernels of PENGI and CLAP. How widths and prior are chosen is ours.
    """

    name: ClassVar[str] = "muka"
    learns: ClassVar[str] = "as proker, with a product of two encoders' kernels: --encoder A --encoder B"
    n_encoders: ClassVar[int] = 2
    source: ClassVar[str] = "Ouasfi et al., 2026, arXiv:2602.14127"

    def widths(self, parts: tuple[int, ...]) -> Grid:
        """Return all combinations of widths, without the one that leaves all encoders out."""
        values = tuple(itertools.product(PRODUCT_WIDTHS, repeat=len(parts)))[1:]
        return Grid(values, default=(1 / len(parts),) * len(parts))

    @staticmethod
    def distances(left: Tensor, right: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return every encoder's squared distances, (..., n_encoders, n, m)."""
        sizes = list(parts)
        sides = zip(torch.split(left, sizes, dim=-1), torch.split(right, sizes, dim=-1), strict=True)
        return torch.stack([squared_distances(unit(one), unit(other)) for one, other in sides], dim=-3)

    @staticmethod
    def kernel(distances: Tensor, gamma: Tensor) -> Tensor:
        """Return the product of the encoders' kernels, from distances (..., n_encoders, n, m)."""
        return torch.exp(-(gamma[..., None, None] * distances).sum(dim=-3))

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Return the shots, their weights, the prompts and how the embeddings are divided.

        Raises
        ------
        ParameterError
            If the features are one encoder's.
        """
        need_encoders(shots.parts, type(self))
        return {**super().fit(shots, tick), "parts": torch.tensor(shots.parts).repeat(len(shots.seeds), 1)}

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips by zero-shot and by the product of their kernels with the shots."""
        parts = state["parts"].reshape(-1, state["parts"].shape[-1])[0]
        return Muka._scores(state, audio, tuple(parts.tolist()))


def _inverse(kernel: Tensor, ridge: Tensor) -> Tensor:
    """Return the inverse of kernels (..., n, n) with ``ridge``, () or (..., 1), added to the diagonals."""
    ridged = kernel.clone()
    ridged.diagonal(dim1=-2, dim2=-1).add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(ridged))
