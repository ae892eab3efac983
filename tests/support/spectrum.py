"""A cheap encoder that keeps the contract and counts what it embeds; its text tower serves alone too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from palm_cache.extraction.encoders.base import Encoder, EncoderCard, Request, Window
from palm_cache.extraction.encoders.engine import CPU
from palm_cache.extraction.encoders.text import embed_prompts, fill
from palm_cache.types import PromptTokens

if TYPE_CHECKING:
    from palm_cache.extraction.extract import Extraction
    from palm_cache.extraction.plan import Plan

Run = Callable[..., "Extraction"]
"""Extracts a small folder with a SpectrumEncoder; takes fields of Recipe and Resources."""

Look = Callable[..., "Plan"]
"""Plans that."""


class LetterTower:
    """A frozen text tower over letters, in double precision if asked to: small, smooth, order-blind."""

    max_prompts = 1000

    def __init__(self, dim: int, token_dim: int = 8, dtype: torch.dtype = torch.float32) -> None:
        self.dim, self.token_dim, self.dtype = dim, token_dim, dtype
        generator = torch.Generator().manual_seed(7)
        self.letters = torch.randn(128, token_dim, generator=generator, dtype=torch.float64).to(dtype)
        self.weight = torch.randn(token_dim, dim, generator=generator, dtype=torch.float64).to(dtype)
        self.batches: list[int] = []

    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        length = n_context + max(map(len, texts), default=0)
        ids = torch.zeros(len(texts), length, dtype=torch.int64)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids[row, n_context : n_context + len(text)] = torch.tensor([ord(letter) % 128 for letter in text])
            mask[row, : n_context + len(text)] = True
        return PromptTokens(self.letters[ids], mask, slice(0, n_context))

    def encode(self, embeddings: Tensor, tokens: PromptTokens) -> Tensor:
        self.batches.append(embeddings.flatten(0, -3).shape[0])
        share = tokens.mask / tokens.mask.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = (embeddings * share[..., None].to(self.dtype)).sum(dim=-2)
        return torch.tanh(3 * pooled) @ self.weight

    def encode_behind(self, context: Tensor, tokens: PromptTokens) -> Tensor:
        return self.encode(fill(context, tokens), tokens)


class Bands(torch.nn.Module):
    """Energies of 12 bands, times the version."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.register_buffer("version", torch.tensor(version))

    def forward(self, spectra: Tensor) -> Tensor:
        return self.version * spectra.unflatten(1, (12, 166)).mean(dim=2)


class SpectrumEncoder(Encoder):
    """Audio: energies of 12 bands. Text: a bag of letters."""

    card = EncoderCard("spectrum", description="a cheap one for tests")

    def __init__(self, version: int = 1) -> None:
        super().__init__(
            Request("mini", "", CPU),
            Bands(version),
            dim=12,
            sample_rate=8_000,
            window=Window(samples=4_000, max_windows=2, padding="tile"),
            constants={"version": version},
        )
        self.version = version
        self.embedded = 0
        self.batches: list[int] = []

    @classmethod
    def load(cls, request: Request) -> SpectrumEncoder:
        return cls()

    @property
    def text_identity(self) -> Mapping[str, object]:
        return {"encoder": "spectrum", "letters": 128}

    def front_end(self, waveforms: Tensor) -> Tensor:
        return torch.fft.rfft(waveforms).abs().mean(dim=1)[:, 1:1993]

    def embed_audio(self, waveforms: Tensor) -> Tensor:
        self.embedded += len(waveforms)
        self.batches.append(len(waveforms))
        return super().embed_audio(waveforms)

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        return embed_prompts(self.text_tower(), prompts)

    def text_tower(self) -> LetterTower:
        return LetterTower(self.dim)
