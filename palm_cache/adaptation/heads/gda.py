"""Gaussian discriminant analysis of the shots beside zero-shot."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    Head,
    Shots,
    Words,
    class_weights,
    cosine_logits,
    one_hot,
    unit,
)
from palm_cache.adaptation.heads.hyperparameters import (
    FOLDS,
    TEMPERATURES,
    Grid,
    choose,
    cross_validation_folds,
    held_out_loss,
)

ALPHAS = Grid((0.0, 5.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0), default=50.0)
"""Weight of the discriminant beside 100 times the cosine; the default is for one shot a class."""

SCALES = Grid(TEMPERATURES, default=1.0)


def discriminant(audio: Tensor, labels: Tensor, kept: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    r"""Return the weights (runs, n_classes, dim) and biases (runs, n_classes) of the discriminant.

    .. math:: P = \mathrm{tr}(\Sigma)\,\big((n - 1)\,\Sigma + \mathrm{tr}(\Sigma)\,I\big)^{-1}, \qquad
              w_c = P \mu_c, \qquad b_c = -\tfrac12 \mu_c^T P \mu_c

    with class means :math:`\mu_c` and the pooled covariance :math:`\Sigma` of the clips about them, inverted
    in their span (Woodbury's identity) where they are fewer than their dimensions. The authors have the
    dimension for the first factor; with the trace :math:`P` lies between 0 and the identity, which it is
    where every class has one clip. Examples that are ``kept`` (runs, n_examples) take part.
    """
    members = one_hot(labels, n_classes) * kept[..., None]
    means = members.transpose(-1, -2) @ audio / members.sum(dim=1)[..., None].clamp(min=1)
    weights = class_weights(labels, n_classes) * kept
    apart = (audio - members @ means) * weights.sqrt()[..., None]
    n_kept = kept.sum(dim=1)[:, None, None]
    trace = apart.square().sum(dim=(1, 2))[:, None, None] / (n_kept - 1).clamp(min=1)
    ridge = trace.clamp(min=1e-9)
    transposed = apart.transpose(-1, -2)
    many = apart.shape[1] > apart.shape[2]
    gram = transposed @ apart if many else apart @ transposed
    inner = gram + ridge * torch.eye(gram.shape[-1])
    if many:
        weight = ridge * torch.linalg.solve(inner, means, left=False)
    else:
        weight = means - (means @ transposed) @ torch.linalg.solve(inner, apart)
    return weight, -(weight * means).sum(dim=2) / 2


class Gda(Head):
    r"""Gaussian discriminant analysis with one covariance, beside zero-shot: closed form.

    .. math:: \mathrm{logits}(x)_c = s\,\big(100\,x \cdot t_c + \alpha\,(w_c \cdot x + b_c)\big)

    :math:`\alpha` and the scale :math:`s` are chosen by stratified cross-validation. A class without a clip
    has zero-shot alone.

    References
    ----------
    Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024, who search
    :math:`\alpha` on validation clips.
    """

    name = "gda"
    learns = "class means and one covariance, in closed form, beside zero-shot"
    chooses = ("alpha", "scale", "held_out")
    source = "Wang et al., ICLR 2024, arXiv:2402.04087"

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Choose how much the discriminant counts, and solve with all shots."""
        everything = torch.ones_like(shots.labels, dtype=torch.bool)
        weight, bias = discriminant(shots.audio.double(), shots.labels, everything, shots.n_classes)
        chosen = shots.chosen or self._choose(shots)
        return {"text": shots.text, "weight": weight.float(), "bias": bias.float(), **chosen}

    @staticmethod
    def _choose(shots: Shots) -> dict[str, Tensor]:
        n_classes, audio = shots.n_classes, shots.audio.double()
        zero_shot = cosine_logits(shots.text.double(), audio)
        folds = cross_validation_folds(shots.labels, n_classes, shots.together)
        scores = torch.zeros_like(zero_shot)
        for fold in range(FOLDS):
            out = folds == fold
            weight, bias = discriminant(audio, shots.labels, ~out, n_classes)
            scores += out[..., None] * (audio @ weight.transpose(-1, -2) + bias[:, None])
        together = zero_shot[:, None] + ALPHAS.candidates[:, None, None] * scores[:, None]
        held_out = folds >= 0
        each = [held_out_loss(scale * together, shots.labels, held_out) for scale in TEMPERATURES]
        grids = {"alpha": ALPHAS, "scale": SCALES}
        return choose(torch.stack(each, dim=2), grids, held_out, shots.views)

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return zero-shot's logits plus alpha times the discriminant's."""
        scores = unit(audio) @ state["weight"].transpose(-1, -2) + state["bias"][..., None, :]
        alpha, scale = (state[name].to(audio)[..., None, None] for name in ("alpha", "scale"))
        return scale * (cosine_logits(state["text"], audio) + alpha * scores)
