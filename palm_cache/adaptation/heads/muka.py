"""MUKA: ProKeR with a kernel for each of several encoders, and its priors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import Shots
from palm_cache.adaptation.heads.hyperparameters import Grid
from palm_cache.adaptation.heads.kernel_machine import best_table, split_encoders, squared_distances
from palm_cache.adaptation.heads.kernels import Proker

WIDTHS = (0.0, 0.5, 1.0, 2.0)
"""Kernel widths of every factor of a product, whose exponents add up; 0 leaves an encoder out."""

SWEEPS = 2
"""How often the encoders' widths are gone through, each chosen while the others stay."""

COSINE_SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Factors of bare cosines as a prior; 1 is the authors'."""


class Muka(Proker):
    r"""ProKeR with a product of kernels, one for each of several encoders of the same clips.

    .. math:: k(x, x') = \prod_e \exp(-\gamma_e \lVert x_e - x'_e \rVert^2)

    Two clips are alike only where all encoders find them so. The zero-shot prediction is the mean of the
    cosines of those encoders that read text; others, of speech, say, are factors of the kernel alone. Widths
    are chosen encoder by encoder, so that the effort grows with their number and not with its power.

    References
    ----------
    Ouasfi et al., "MUKA: Multi Kernel Audio Adaptation of Audio-Language Models", 2026, which multiplies
    kernels of PENGI and CLAP. How widths and prior are chosen is ours.
    """

    name = "muka"
    learns = "as proker, with a product of all encoders' kernels: --encoder A --encoder B"
    n_encoders = 2
    source = "Ouasfi et al., 2026, arXiv:2602.14127"

    widths = Grid(WIDTHS, default=1.0)

    def default_widths(self, spread: Tensor) -> Tensor:
        """Return the same share for every encoder."""
        return torch.ones_like(spread) / spread.shape[1]

    def search(self, losses: Callable[[Tensor], Tensor], spread: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the width of one encoder after the other, from the same share for all of them."""
        widths = self.default_widths(spread)
        for encoder in list(range(spread.shape[1])) * SWEEPS:
            tables = []
            for width in self.widths.candidates:
                tried = widths.index_fill(1, torch.tensor([encoder]), float(width))
                silent = ~tried.any(dim=1)  # one encoder at least must speak
                table = losses(tried)
                tables.append(table.masked_fill(silent.view(-1, *(1,) * (table.ndim - 1)), torch.inf))
            best, table = best_table(tables)
            widths[:, encoder] = self.widths.candidates[best]
        return widths, table

    @staticmethod
    def cosines(audio: Tensor, text: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return the mean of the cosines of the encoders that read text: that of others is zero."""
        prompts = split_encoders(text, parts)
        readers = torch.stack(
            [of_encoder.any() for of_encoder in prompts]
        ).sum()  # a tensor: graphs are traced
        pairs = zip(split_encoders(audio, parts), prompts, strict=True)
        return torch.stack([clips @ of.transpose(-1, -2) for clips, of in pairs]).sum(dim=0) / readers

    @staticmethod
    def distances(left: Tensor, right: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return every encoder's squared distances, (..., n_encoders, n, m)."""
        sides = zip(split_encoders(left, parts), split_encoders(right, parts), strict=True)
        return torch.stack([squared_distances(one, other) for one, other in sides], dim=-3)

    @staticmethod
    def kernel(distances: Tensor, gamma: Tensor) -> Tensor:
        """Return the product of the encoders' kernels, from distances (..., n_encoders, n, m)."""
        return torch.exp(-(gamma[..., None, None] * distances).sum(dim=-3))

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Return the shots, their weights, the prompts and how the embeddings are divided."""
        return {**super().fit(shots), "parts": torch.tensor(shots.parts).repeat(len(shots.seeds), 1)}


class MukaFirst(Muka):
    """MUKA whose zero-shot prediction is that of the first encoder alone, as the authors' is."""

    name = "muka-first"
    learns = "as muka, with the first encoder's zero-shot prediction alone"

    @staticmethod
    def cosines(audio: Tensor, text: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return the first encoder's cosines."""
        return split_encoders(audio, parts)[0] @ split_encoders(text, parts)[0].transpose(-1, -2)


class MukaCosine(Muka):
    """MUKA that starts from bare cosines, as the authors do, and not from their softmax."""

    name = "muka-cosine"
    learns = "as muka, on top of bare cosines"
    prior_scales = Grid(COSINE_SCALES, default=1.0)

    @staticmethod
    def prior(cosines: Tensor, scale: Tensor) -> Tensor:
        """Return the authors' prior: bare cosines (..., n, n_classes), times a scale (...)."""
        return scale[..., None, None] * cosines


class MukaFirstCosine(MukaCosine, MukaFirst):
    """MUKA that starts from the bare cosines of the first encoder alone: the authors' prior."""

    name = "muka-first-cosine"
    learns = "as muka, on top of the first encoder's bare cosines"
