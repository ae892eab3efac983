"""COOP: learned context words, shared by all classes, through the frozen text tower; and ZEBRA beside it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    CosineHead,
    DescentHead,
    Shots,
    Words,
    cosine_logits,
    in_parts,
    need_words,
    unit,
)
from palm_cache.adaptation.heads.descent import draw_runs, load_optimiser, sgd
from palm_cache.adaptation.heads.palm import CONTEXT_STD
from palm_cache.types import BARE_TEMPLATE, PromptTokens

N_CONTEXT = 16
SUFFIX = "{c}."
"""What stands behind the context."""

LEARNED_TEMPLATE = f"[{N_CONTEXT} learned] {SUFFIX}"
"""How a prompt with learned words is written down."""


def prompt_tokens(words: Words) -> PromptTokens:
    """Return the tokens of every class's prompt, with open places for the context."""
    return words.tower.tokens([SUFFIX.replace("{c}", name) for name in words.class_names], N_CONTEXT)


class PromptLearner(DescentHead):
    """A head that learns words of its prompts, by PALM's protocol; what COOP and COCOOP share."""

    needs_text_tower = True
    only_template = LEARNED_TEMPLATE
    load = staticmethod(load_optimiser)
    zero_shot_share = 0.0
    """How much the logits of zero-shot count beside those that are learned."""
    entropy_weight = 0.0
    """How much of the answers' entropy is taken from the loss."""

    @property
    def prompt(self) -> str:
        """Return the bare class name where the template is learned: that has no embedding yet."""
        return BARE_TEMPLATE if self.only_template else self.template

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return the training protocol."""
        return {**super().hyperparameters, "n_context": N_CONTEXT}

    @staticmethod
    @abstractmethod
    def start(dim: int, token_dim: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw where a run starts."""

    @staticmethod
    @abstractmethod
    def learned_logits(
        state: Mapping[str, Tensor], audio: Tensor, tokens: PromptTokens, words: Words
    ) -> Tensor:
        """Score clips (..., n_clips, dim) by the prompts that are learned, (..., n_clips, n_classes)."""

    def state(
        self, parameters: dict[str, Tensor], text: Tensor, tokens: PromptTokens, words: Words
    ) -> dict[str, Tensor]:
        """Return what scores clips, of what has been learned and the prompts of zero-shot."""
        return parameters

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Train all runs, as many together, and of their clips, as the text tower bears."""
        words = need_words(shots.words, type(self))
        tokens = prompt_tokens(words)
        clips = min(self.training.batch_size, shots.labels.shape[1]) if self.scores_through_tower else 1
        together = words.tower.max_prompts // (len(tokens.mask) * clips)
        return in_parts(partial(self._fit, tokens=tokens, words=words), shots, together)

    def _fit(self, shots: Shots, tokens: PromptTokens, words: Words) -> dict[str, Tensor]:
        runs, n_train, dim = shots.audio.shape
        text = shots.text.to(shots.audio)
        start, orders = draw_runs(
            shots.seeds,
            n_train,
            self.training.epochs,
            lambda run, generator: self.start(dim, tokens.embeddings.shape[-1], generator),
        )

        def logits(parameters: Mapping[str, Tensor], audio: Tensor) -> Tensor:
            learned = self.learned_logits(parameters, audio, tokens, words)
            share = self.zero_shot_share
            return torch.lerp(learned, cosine_logits(text, audio), share) if share else learned

        of_slice = max(1, words.tower.max_prompts // (len(tokens.mask) * runs))
        learned, _ = sgd(
            {name: value.to(shots.audio) for name, value in start.items()},
            logits,
            shots,
            orders,
            self.training,
            max_clips=of_slice if self.scores_through_tower else None,
            entropy_weight=self.entropy_weight,
        )
        return self.state(learned, text, tokens, words)


class Coop(PromptLearner, CosineHead):
    """Context optimisation: one learned context before every class name.

    References
    ----------
    Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022; as the baseline COOP in
    Hanif et al., EMNLP 2024.
    """

    name = "coop"
    learns = f"{N_CONTEXT} context words for all classes: {N_CONTEXT} x token width"
    source = "Zhou et al., IJCV 2022, arXiv:2109.01134"

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return ``N_CONTEXT * token_dim``."""
        return N_CONTEXT * token_dim

    @staticmethod
    def start(dim: int, token_dim: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the context."""
        return {"context": CONTEXT_STD * torch.randn(N_CONTEXT, token_dim, generator=generator)}

    @staticmethod
    def learned_logits(
        state: Mapping[str, Tensor], audio: Tensor, tokens: PromptTokens, words: Words
    ) -> Tensor:
        """Score clips by their cosines with the prompts."""
        return cosine_logits(unit(words.tower.encode_behind(state["context"], tokens)), audio)

    @torch.no_grad()
    def state(
        self, parameters: dict[str, Tensor], text: Tensor, tokens: PromptTokens, words: Words
    ) -> dict[str, Tensor]:
        """Return the context and the embeddings of its prompts, averaged with those of zero-shot."""
        behind = unit(words.tower.encode_behind(parameters["context"], tokens))
        return {**parameters, "class_embeddings": torch.lerp(behind, text, self.zero_shot_share)}


class Zebra(PromptLearner):
    r"""Learned prompts whose logits are averaged with zero-shot's, and which are kept from being too sure.

    .. math:: \mathrm{logits}(x)_c = \tfrac12\,\ell_c(x) + \tfrac12\,100\,x \cdot t_c, \qquad
              \min\; \frac1n \sum_i \big(-\log p_{i y_i} - 0.05\,H(p_i)\big)

    with the softmax :math:`p_i` of these logits, its entropy :math:`H`, the logits :math:`\ell` of the
    learned prompts and the embeddings :math:`t_c` of zero-shot's. What is learned of some classes does less
    harm to others. The rest is the protocol of the head that learns the prompts.

    References
    ----------
    Hanif and Yaqub, "ZEBRA: Zero-Shot Entropy-Regularized Prompt Learning for Base-to-Novel Generalization in
    Audio-Language Models", Interspeech 2026, arXiv:2606.31587; official asif-hanif/zebra, methods/coop.py and
    utils/utils.py.
    """

    source = "Hanif and Yaqub, Interspeech 2026, arXiv:2606.31587"
    only_template = ""
    zero_shot_share = 0.5
    entropy_weight = 0.05


class CoopZebra(Zebra, Coop):
    """COOP with ZEBRA."""

    name = "coop-zebra"
    learns = "as coop, averaged with zero-shot and kept from being too sure"
