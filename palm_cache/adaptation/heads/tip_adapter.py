"""Tip-Adapter: the shots as a cache beside zero-shot, kept as they are or with fine-tuned keys."""

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
    present_classes,
    unit,
)
from palm_cache.adaptation.heads.descent import clip_losses, draw_runs, load_optimiser
from palm_cache.adaptation.heads.hyperparameters import (
    TEMPERATURES,
    Grid,
    can_be_held_out,
    choose,
    held_out_loss,
    same_group,
)

BETAS = Grid((1.0, 2.0, 5.5, 10.0, 20.0, 50.0), default=5.5)
"""Sharpness: 5.5 is the authors' first guess; they search up to 50 where classes are fine-grained."""

ALPHAS = Grid((1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0), default=20.0)
"""Weight of the cache: 1 is the authors' first guess, for a zero-shot prediction that is nearly right. Where
that is wrong, 1 says nothing beside 100 times a cosine, so the grid goes on until the cache alone counts. At
the default a key pulls a clip beside it as hard as a prompt does: its slope is alpha times beta, the prompt's
100."""

EPOCHS = 20
LEARNING_RATE = 1e-3
EPSILON = 1e-4
BATCH_SIZE = 256
"""Fine-tuning of the keys as in the authors' code: AdamW with a cosine schedule over all steps."""


def cache_logits(affinity: Tensor, values: Tensor, beta: Tensor) -> Tensor:
    r"""Look clips up in the cache: :math:`\exp(-\beta\,(1 - x F^T))\,L`, (..., n_clips, n_classes).

    ``affinity`` (..., n_clips, n_keys) are the products :math:`x F^T` of clips and keys, ``values`` (...,
    n_keys, n_classes) the keys' one-hot labels, weighted.
    """
    return torch.exp(-beta[..., None, None] * (1 - affinity)) @ values


class TipAdapter(Head):
    r"""Zero-shot plus a look into a cache of the shots, without training.

    .. math:: \mathrm{logits}(x) = 100\,x\,T^T + \alpha \exp(-\beta\,(1 - x F^T))\,L,
              \qquad x = \mathrm{unit}(a(x))

    with the shots as keys :math:`F` and their one-hot labels as values :math:`L`, weighted so that classes
    count the same where some have fewer shots; :math:`\alpha` and :math:`\beta` are chosen by leave-one-out,
    exact here: without a clip the cache is one key shorter.

    References
    ----------
    Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022. The
    authors search both numbers on validation clips.
    """

    name = "tip-adapter"
    learns = "nothing: the shots are a cache beside zero-shot"
    chooses = ("alpha", "beta", "held_out")
    source = "Zhang et al., ECCV 2022, arXiv:2111.03930"

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Keep the shots and choose how much and how sharply they count."""
        weights = class_weights(shots.labels, shots.n_classes)
        values = one_hot(shots.labels, shots.n_classes) * weights[..., None]
        chosen = shots.chosen or self._choose(shots, values)
        return {"keys": shots.audio, "values": values.float(), "text": shots.text, **chosen}

    @staticmethod
    def _choose(shots: Shots, values: Tensor) -> dict[str, Tensor]:
        audio = shots.audio.double()
        held_out = can_be_held_out(shots.labels, shots.n_classes, shots.together)
        affinity = audio @ audio.transpose(-1, -2)
        others = affinity.masked_fill(same_group(shots.together), -torch.inf)
        zero_shot = cosine_logits(shots.text.double(), audio)[:, None]
        alphas, losses = ALPHAS.candidates[:, None, None], []
        for beta in BETAS.candidates:
            scores = zero_shot + alphas * cache_logits(others, values, beta)[:, None]
            each = [held_out_loss(factor * scores, shots.labels, held_out) for factor in TEMPERATURES]
            losses.append(torch.stack(each).amin(dim=0))  # (runs, alphas)
        return choose(torch.stack(losses, dim=1), {"beta": BETAS, "alpha": ALPHAS}, held_out, shots.views)

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return zero-shot's logits plus alpha times the cache's."""
        affinity = unit(audio) @ state["keys"].transpose(-1, -2)
        cached = cache_logits(affinity, state["values"], state["beta"].to(audio))
        return cosine_logits(state["text"], audio) + state["alpha"].to(audio)[..., None, None] * cached


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are fine-tuned by gradient descent.

    Alpha and beta are chosen on the untouched keys: trained ones have seen every shot and would judge
    themselves. The authors' code keeps the epoch that scores best on the test clips; here the last counts.

    References
    ----------
    Zhang et al., ECCV 2022, Tip-Adapter-F; official main.py.
    """

    name = "tip-adapter-f"
    learns = "the keys of the cache: shots x dim"
    load = staticmethod(load_optimiser)

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return how keys are fine-tuned."""
        return {"epochs": EPOCHS, "lr": LEARNING_RATE, "batch_size": BATCH_SIZE, "optimiser": "adamw"}

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return the numbers of all keys."""
        return n_examples * dim

    def n_steps(self, n_examples: int) -> int:
        """Return the steps of fine-tuning."""
        return EPOCHS * -(-n_examples // BATCH_SIZE)

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Choose as Tip-Adapter does, then fine-tune the keys of all runs together."""
        state = super().fit(shots)
        return {**state, "keys": fine_tune(state, shots)}


def fine_tune(state: Mapping[str, Tensor], shots: Shots) -> Tensor:
    """Minimise the cross entropy of the shots in the keys, every class counting the same.

    A clip does not find its own keys, or it would be explained by itself and nothing would be learned.

    AdamW adjusts every number by its own gradients alone, so one optimiser over all runs does what one per
    run would.
    """
    runs, n_examples = shots.labels.shape
    keys = state["keys"].clone().requires_grad_()
    steps = EPOCHS * -(-n_examples // BATCH_SIZE)
    optimiser = torch.optim.AdamW([keys], lr=LEARNING_RATE, eps=EPSILON)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    _, orders = draw_runs(shots.seeds, n_examples, EPOCHS)
    run = torch.arange(runs)[:, None]
    alpha, beta = state["alpha"].float()[:, None, None], state["beta"].float()
    zero_shot = cosine_logits(shots.text, shots.audio)
    weights = class_weights(shots.labels, shots.n_classes).to(shots.audio)
    absent = ~present_classes(shots.labels, shots.n_classes)[:, None]
    for epoch in range(EPOCHS):
        for batch in torch.split(orders[:, epoch], BATCH_SIZE, dim=1):
            optimiser.zero_grad()
            affinity = shots.audio[run, batch] @ keys.transpose(-1, -2)
            own = shots.together.gather(1, batch)[..., None] == shots.together[:, None]
            scores = zero_shot[run, batch] + alpha * cache_logits(
                affinity.masked_fill(own, -torch.inf), state["values"], beta
            )
            scores = scores.masked_fill(absent, -torch.inf)
            each = clip_losses(scores, shots.labels[run, batch])
            loss = (weights[run, batch] * each).sum() / batch.shape[1]  # the sum of all runs' means
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            shots.tick(runs)
    return keys.detach()
