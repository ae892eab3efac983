"""COCOOP: COOP whose context is shifted by every clip, through a small network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear

from palm_cache.adaptation.heads.base import SCALE, Words, cosine_logits, need_words, unit
from palm_cache.adaptation.heads.coop import N_CONTEXT, Coop, PromptLearner, Zebra, prompt_tokens
from palm_cache.types import PromptTokens

SHORTEST = 1e-12
"""Least length that is divided by, as in :func:`torch.nn.functional.normalize`."""

NARROWING = 16
"""The network's middle layer is narrower than the audio embedding by this factor."""


def conditional_logits(
    state: Mapping[str, Tensor], audio: Tensor, tokens: PromptTokens, words: Words
) -> Tensor:
    r"""Score clips against prompts whose context every clip shifts.

    .. math:: v_i(x) = v_i + h(\mathrm{unit}(a(x))), \qquad h(a) = W_2\,\mathrm{relu}(W_1 a + b_1) + b_2

    The state holds ``context`` (..., N_CONTEXT, token_dim) and the network's ``meta_*``, all with the same
    leading axes as clips (..., n_clips, dim). All clips times classes go through the tower in one pass.
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


class Cocoop(PromptLearner):
    """Conditional context optimisation: the context of a prompt depends on the clip it is held against.

    References
    ----------
    Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022; as the baseline
    COCOOP in Hanif et al., EMNLP 2024.
    """

    name = "cocoop"
    learns = "COOP's context and a network dim -> dim / 16 -> token width that shifts it per clip"
    scores_through_tower = True
    source = "Zhou et al., CVPR 2022, arXiv:2203.05557"
    learned_logits = staticmethod(conditional_logits)

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return the context's and the network's; the paper counts the network alone."""
        middle = _middle(dim)
        return N_CONTEXT * token_dim + middle * (dim + 1) + token_dim * (middle + 1)

    @staticmethod
    def start(dim: int, token_dim: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw context and network as their authors' code does: the network by torch's default."""

        def uniform(*shape: int, n_in: int) -> Tensor:
            return (2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(n_in)

        middle = _middle(dim)
        return {
            **Coop.start(dim, token_dim, generator),
            "meta_weight1": uniform(middle, dim, n_in=dim),
            "meta_bias1": uniform(middle, n_in=dim),
            "meta_weight2": uniform(token_dim, middle, n_in=middle),
            "meta_bias2": uniform(token_dim, n_in=middle),
        }

    @staticmethod
    @torch.no_grad()
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips, as many at once as the text tower bears."""
        words = need_words(words, Cocoop)
        tokens = prompt_tokens(words)
        per_clip = len(tokens.mask) * state["context"].shape[:-2].numel()
        slices = torch.split(audio, max(1, words.tower.max_prompts // per_clip), dim=-2)
        return torch.cat([conditional_logits(state, clips, tokens, words) for clips in slices], dim=-2)


class CocoopZebra(Zebra, Cocoop):
    """COCOOP with ZEBRA."""

    name = "cocoop-zebra"
    learns = "as cocoop, averaged with zero-shot and kept from being too sure"

    def state(
        self, parameters: dict[str, Tensor], text: Tensor, tokens: PromptTokens, words: Words
    ) -> dict[str, Tensor]:
        """Return what was learned and the prompts of zero-shot."""
        return {**parameters, "text": text}

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return the mean of the logits of COCOOP and zero-shot."""
        learned = Cocoop.logits(state, audio, words)
        return torch.lerp(learned, cosine_logits(state["text"], audio), CocoopZebra.zero_shot_share)


def _middle(dim: int) -> int:
    return max(1, dim // NARROWING)
