"""Frozen text towers: tokenising, prompt learning's open places and batching, once for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.engine import Engine
from palm_cache.types import PromptTokens, TextTower

TEXT_BATCH = 64
"""Prompts that go through a text tower at once."""


class PromptTower(ABC):
    """A text tower; satisfies :class:`~palm_cache.types.TextTower`.

    Parameters
    ----------
    engine : Engine
        What computes the encoder; its part for text is taken.
    dim, token_dim : int
        Length of a feature and of a token embedding.
    identity : mapping
        Everything that decides the vector of a prompt but the precision, JSON-serialisable.
    """

    max_prompts = 128
    spec = "text tower"
    """The encoder's, by which an error names it."""

    def __init__(self, engine: Engine, *, dim: int, token_dim: int, identity: Mapping[str, object]) -> None:
        self.engine = engine.text
        self.dim, self.token_dim = dim, token_dim
        self.identity: Mapping[str, object] = {**identity, "precision": self.engine.precision}

    @abstractmethod
    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        """Tokenise texts, each with open places before it: see :meth:`palm_cache.types.TextTower.tokens`."""

    @abstractmethod
    def encode_rows(self, embeddings: Tensor, mask: Tensor, context: slice) -> Tensor:
        """Encode on the device, (rows, length, token_dim) and (rows, length) bool -> (rows, dim)."""

    def encode(self, embeddings: Tensor, tokens: PromptTokens) -> Tensor:
        """Encode (..., n_prompts, length, token_dim) -> (..., n_prompts, dim)."""
        *rows, length, _ = embeddings.shape
        mask = tokens.mask.expand(*rows, length).reshape(-1, length)
        with self.engine.lowered():
            features = self.encode_rows(
                embeddings.flatten(0, -3).to(self.engine.device), mask.to(self.engine.device), tokens.context
            )
        if features.shape != (len(mask), self.dim):
            raise EncoderError(
                f"{self.spec}: made vectors of shape {tuple(features.shape)} from {len(mask)} prompts; it "
                f"promised {(len(mask), self.dim)}"
            )
        return features.float().cpu().view(*rows, self.dim)

    def encode_behind(self, context: Tensor, tokens: PromptTokens) -> Tensor:
        """Encode every prompt behind a context (..., n_context, token_dim) -> (..., n_prompts, dim)."""
        return self.encode(fill(context, tokens), tokens)


def fill(context: Tensor, tokens: PromptTokens) -> Tensor:
    """Write contexts (..., n_context, token_dim) into prompts, (..., n_prompts, length, token_dim)."""
    leading, n_prompts = context.shape[:-2], len(tokens.mask)
    shared = context[..., None, :, :].expand(*leading, n_prompts, *context.shape[-2:])
    own = tokens.embeddings.to(context.dtype).expand(*leading, *tokens.embeddings.shape)
    before, behind = tokens.context.start, tokens.context.stop
    return torch.cat([own[..., :before, :], shared, own[..., behind:, :]], dim=-2)


@torch.inference_mode()
def embed_prompts(tower: TextTower, prompts: Sequence[str]) -> Tensor:
    """Embed prompts through a text tower, batch by batch, -> (n_prompts, dim)."""
    features = [torch.zeros(0, tower.dim)]
    for start in range(0, len(prompts), TEXT_BATCH):
        tokens = tower.tokens(prompts[start : start + TEXT_BATCH], n_context=0)
        features.append(tower.encode(tokens.embeddings, tokens))
    return torch.cat(features)
