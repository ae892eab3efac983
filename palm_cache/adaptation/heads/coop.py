"""COOP: learned context words, shared by all classes, through the frozen text tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    CosineHead,
    Head,
    Shots,
    Tick,
    Words,
    cosine_logits,
    generators,
    need_words,
    no_tick,
    sgd_steps,
    unit,
)
from palm_cache.adaptation.train import draw_orders, sgd
from palm_cache.types import BARE_TEMPLATE, PromptTokens, Training

N_CONTEXT = 16
CONTEXT_STD = 0.02
"""Standard deviation of the context before training."""

SUFFIX = "{c}."
"""What stands behind the context."""

LEARNED_TEMPLATE = f"[{N_CONTEXT} learned] {SUFFIX}"
"""How a prompt with learned words is written down."""


def prompt_tokens(words: Words) -> PromptTokens:
    """Return the tokens of every class's prompt, with open places for the context."""
    return words.tower.tokens([SUFFIX.replace("{c}", name) for name in words.class_names], N_CONTEXT)


class Coop(CosineHead):
    """Context optimisation: one learned context before every class name.

    References
    ----------
    Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022; as the baseline COOP in
    Hanif et al., EMNLP 2024.
    """

    name: ClassVar[str] = "coop"
    learns: ClassVar[str] = f"{N_CONTEXT} context words for all classes: {N_CONTEXT} x token width"
    needs_text_tower: ClassVar[bool] = True
    source: ClassVar[str] = "Zhou et al., IJCV 2022, arXiv:2109.01134"

    zero_shot_share: ClassVar[float] = 0.0
    """How much the logits of zero-shot count beside those that are learned."""
    entropy_weight: ClassVar[float] = 0.0
    """How much of the answers' entropy is taken from the loss."""

    def __init__(self, template: str, training: Training) -> None:
        super().__init__(LEARNED_TEMPLATE, training)

    @property
    def prompt(self) -> str:
        """Return the bare class name: the prompt that is learned has no embedding yet."""
        return BARE_TEMPLATE

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return the training protocol."""
        return {**asdict(self.training), "n_context": N_CONTEXT}

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return ``N_CONTEXT * token_dim``."""
        return N_CONTEXT * token_dim

    def n_steps(self, n_examples: int) -> int:
        """Return the steps of gradient descent."""
        return sgd_steps(self.training, n_examples)

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Train all runs, as many together as the text tower bears."""
        words = need_words(shots.words, type(self))
        tokens = prompt_tokens(words)
        token_dim, n_train = tokens.embeddings.shape[-1], shots.labels.shape[1]
        contexts, orders = [], []
        for generator in generators(shots.seeds):
            contexts.append(CONTEXT_STD * torch.randn(N_CONTEXT, token_dim, generator=generator))
            orders.append(draw_orders(n_train, self.training.epochs, generator))

        def embeddings(parameters: Mapping[str, Tensor], text: Tensor) -> Tensor:
            behind = unit(words.tower.encode_behind(parameters["context"], tokens))
            return torch.lerp(behind, text.to(behind), self.zero_shot_share)

        def logits(text: Tensor, parameters: Mapping[str, Tensor], audio: Tensor) -> Tensor:
            return cosine_logits(embeddings(parameters, text), audio)

        start = torch.stack(contexts).to(shots.audio)
        together = max(1, words.tower.max_prompts // len(tokens.mask))
        learned = []
        for runs in torch.split(torch.arange(len(shots.seeds)), together):
            text = shots.text[runs]
            state, _ = sgd(
                {"context": start[runs]},
                partial(logits, text),
                shots.audio[runs],
                shots.labels[runs],
                torch.stack(orders)[runs],
                self.training,
                entropy_weight=self.entropy_weight,
                tick=tick,
            )
            with torch.no_grad():
                learned.append({**state, "class_embeddings": embeddings(state, text)})
        return {name: torch.cat([part[name] for part in learned]) for name in learned[0]}


class CoopZebra(Coop):
    r"""COOP whose logits are averaged with those of zero-shot, and which is kept from being too sure.

    .. math:: \mathrm{logits}(x)_c = \tfrac12\,100\,x \cdot w_c + \tfrac12\,100\,x \cdot t_c, \qquad
              \min\; \frac1n \sum_i \big(-\log p_{i y_i} - 0.05\,H(p_i)\big)

    with the softmax :math:`p_i` of these logits, its entropy :math:`H`, COOP's embeddings :math:`w_c` and
    those of the prompts :math:`t_c`. What it learns of some classes does less harm to others. The rest is
    COOP's protocol.

    References
    ----------
    Hanif and Yaqub, "ZEBRA: Zero-Shot Entropy-Regularized Prompt Learning for Base-to-Novel Generalization in
    Audio-Language Models", Interspeech 2026, arXiv:2606.31587; official asif-hanif/zebra, methods/coop.py and
    utils/utils.py.
    """

    name: ClassVar[str] = "coop-zebra"
    learns: ClassVar[str] = "as coop, averaged with zero-shot and kept from being too sure"
    source: ClassVar[str] = "Hanif and Yaqub, Interspeech 2026, arXiv:2606.31587"
    zero_shot_share: ClassVar[float] = 0.5
    entropy_weight: ClassVar[float] = 0.05

    def __init__(self, template: str, training: Training) -> None:
        Head.__init__(self, template, training)

    @property
    def prompt(self) -> str:
        """Return zero-shot's template."""
        return self.template
