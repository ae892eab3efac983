"""COCOOP: COOP whose context is shifted by every clip, through a small network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from palm_cache.adaptation.heads.base import (
    SCALE,
    Head,
    Shots,
    Tick,
    Words,
    generators,
    need_words,
    no_tick,
    sgd_steps,
    unit,
)
from palm_cache.adaptation.heads.coop import (
    CONTEXT_STD,
    LEARNED_TEMPLATE,
    N_CONTEXT,
    Coop,
    prompt_tokens,
)
from palm_cache.adaptation.train import draw_orders, sgd
from palm_cache.types import BARE_TEMPLATE, PromptTokens, Training

SHORTEST = 1e-12
"""Least length that is divided by, as in :func:`torch.nn.functional.normalize`."""

NARROWING = 16
"""The network's middle layer is narrower than the audio embedding by this factor."""


def conditional_logits(
    state: Mapping[str, Tensor], audio: Tensor, tokens: PromptTokens, words: Words
) -> Tensor:
    r"""Score clips against prompts whose context every clip shifts.

    .. math:: v_i(x) = v_i + h(\mathrm{unit}(a(x))), \qquad h(a) = W_2\,\mathrm{relu}(W_1 a + b_1) + b_2

    Parameters
    ----------
    state : mapping of Tensor, shape (..., ...)
        ``context`` (..., N_CONTEXT, token_dim) and the network's ``meta_*``, all with the same leading axes.
    audio : Tensor, shape (..., n_clips, dim)

    Returns
    -------
    Tensor, shape (..., n_clips, n_classes)
        All clips times classes go through the tower in one pass.
    """
    clips = unit(audio)
    hidden = torch.relu(_affine(clips, state["meta_weight1"], state["meta_bias1"]))
    shift = _affine(hidden, state["meta_weight2"], state["meta_bias2"])  # (..., n_clips, token_dim)
    context = state["context"][..., None, :, :] + shift[..., None, :]
    embeddings = words.tower.encode_behind(context, tokens)  # (..., n_clips, n_classes, dim)
    # Divided at the end: that takes a number per clip and class, where unit vectors take as many as dim.
    lengths: Tensor = torch.linalg.vector_norm(embeddings, dim=-1).clamp(min=SHORTEST)
    products = (embeddings @ clips[..., None])[..., 0]
    return SCALE * products / lengths


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer per run: x (..., n, n_in), weight (..., n_out, n_in), bias (..., n_out)."""
    if weight.ndim == 2:
        return linear(x, weight, bias)
    return x @ weight.transpose(-1, -2) + bias[..., None, :]


class Cocoop(Head):
    """Conditional context optimisation: the context of a prompt depends on the clip it is held against.

    References
    ----------
    Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022; as the baseline
    COCOOP in Hanif et al., EMNLP 2024.
    """

    name: ClassVar[str] = "cocoop"
    learns: ClassVar[str] = (
        "COOP's context and a network dim -> dim / 16 -> token width that shifts it per clip"
    )
    needs_text_tower: ClassVar[bool] = True
    scores_through_tower: ClassVar[bool] = True
    source: ClassVar[str] = "Zhou et al., CVPR 2022, arXiv:2203.05557"

    def __init__(self, template: str, training: Training) -> None:
        super().__init__(LEARNED_TEMPLATE, training)

    @property
    def prompt(self) -> str:
        """Return the bare class name: the prompt that is learned has no embedding yet."""
        return BARE_TEMPLATE

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return the training protocol."""
        return Coop(self.template, self.training).hyperparameters

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return the context's and the network's; the paper counts the network alone."""
        middle = _middle(dim)
        return N_CONTEXT * token_dim + middle * (dim + 1) + token_dim * (middle + 1)

    def n_steps(self, n_examples: int) -> int:
        """Return the steps of gradient descent."""
        return sgd_steps(self.training, n_examples)

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Train all runs, as many runs and clips together as the text tower bears."""
        words = need_words(shots.words, type(self))
        tokens = prompt_tokens(words)
        token_dim, (_, n_train, dim) = tokens.embeddings.shape[-1], shots.audio.shape
        starts, orders = [], []
        for generator in generators(shots.seeds):
            starts.append(_start(dim, token_dim, generator))
            orders.append(draw_orders(n_train, self.training.epochs, generator))
        start = {name: torch.stack([one[name] for one in starts]).to(shots.audio) for name in starts[0]}

        def logits(parameters: Mapping[str, Tensor], audio: Tensor) -> Tensor:
            return conditional_logits(parameters, audio, tokens, words)

        per_clip, batch = len(tokens.mask), min(self.training.batch_size, n_train)
        together = max(1, words.tower.max_prompts // (per_clip * batch))
        learned = []
        for runs in torch.split(torch.arange(len(shots.seeds)), together):
            state, _ = sgd(
                {name: value[runs] for name, value in start.items()},
                logits,
                shots.audio[runs],
                shots.labels[runs],
                torch.stack(orders)[runs],
                self.training,
                max_clips=max(1, words.tower.max_prompts // (per_clip * len(runs))),
                tick=tick,
            )
            learned.append(state)
        return {name: torch.cat([part[name] for part in learned]) for name in learned[0]}

    @staticmethod
    @torch.no_grad()
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips, as many at once as the text tower bears."""
        words = need_words(words, Cocoop)
        tokens = prompt_tokens(words)
        per_clip = len(tokens.mask) * state["context"].shape[:-2].numel()
        slices = torch.split(audio, max(1, words.tower.max_prompts // per_clip), dim=-2)
        return torch.cat([conditional_logits(state, clips, tokens, words) for clips in slices], dim=-2)


def _start(dim: int, token_dim: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw context and network as their authors' code does: the network by torch's default."""

    def uniform(*shape: int, n_in: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(n_in)

    middle = _middle(dim)
    return {
        "context": CONTEXT_STD * torch.randn(N_CONTEXT, token_dim, generator=generator),
        "meta_weight1": uniform(middle, dim, n_in=dim),
        "meta_bias1": uniform(middle, n_in=dim),
        "meta_weight2": uniform(token_dim, middle, n_in=middle),
        "meta_bias2": uniform(token_dim, n_in=middle),
    }


def _middle(dim: int) -> int:
    return max(1, dim // NARROWING)
