r"""The embedded encoder: a small dual encoder, trained from scratch on synthesised sounds.

It makes the demo, the tests and the documentation work without any download; ``mini.md`` beside
this file is its model card, ``pipelines/mini`` trained it.

Audio: log-mel -> CNN -> one vector per window of 2 s -> mean over windows -> unit, and beside it
a fixed random projection :math:`p` of the clip's standardised log-mel statistics:

.. math:: a = [\sqrt{0.7}\,\mathrm{unit}(\mathrm{cnn}),\ \sqrt{0.3}\,\mathrm{unit}(p)]
          \qquad t = [\mathrm{unit}(\mathrm{text}),\ 0]

so :math:`p` serves whoever learns from clips and leaves zero-shot as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.nn import functional

from palm_cache.errors import EncoderError, described
from palm_cache.extraction.encoders.base import Encoder, Request, Window, hash_weights
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.engine import CPU, Engine, freeze
from palm_cache.extraction.encoders.mini_towers import (
    CNN_SHARE,
    CONTEXT_SCORE,
    DIM,
    FRONT_END,
    MAX_WINDOWS,
    SAMPLE_RATE,
    STATISTICS_DIM,
    TOKEN_DIM,
    TOKENIZER,
    WINDOW_SAMPLES,
    MiniTowers,
    WordBag,
    log_mel,
)
from palm_cache.extraction.encoders.text import PromptTower
from palm_cache.types import PromptTokens

WEIGHTS = Path(__file__).with_name("mini.safetensors")


class MiniTextTower(PromptTower):
    """``mini``'s text tower with open places in the bag."""

    max_prompts = 8192

    def __init__(self, text: WordBag, engine: Engine) -> None:
        freeze(text, engine.device)
        self._text = text
        super().__init__(
            engine,
            dim=DIM,
            token_dim=TOKEN_DIM,
            identity={
                "implementation": 1,
                "weights_sha256": hash_weights(text.state_dict()),
                "tokenizer": TOKENIZER,
                "context_score": CONTEXT_SCORE,
            },
        )

    @torch.no_grad()
    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        """Look up the words of texts, with open places before them.

        Raises
        ------
        EncoderError
            If a text is empty.
        """
        words, mask = self._text.token_embeddings(texts)
        return PromptTokens(
            functional.pad(words, (0, 0, n_context, 0)).cpu(),
            functional.pad(mask, (n_context, 0), value=True).cpu(),
            slice(0, n_context),
        )

    def encode_rows(self, embeddings: Tensor, mask: Tensor, context: slice) -> Tensor:
        """Pool bags of word vectors, -> (rows, dim); zeros stand where audio has its statistics."""
        text = functional.normalize(self._text.pool(embeddings, mask, context), dim=-1)
        return functional.pad(text, (0, STATISTICS_DIM))

    def encode_behind(self, context: Tensor, tokens: PromptTokens) -> Tensor:
        """Encode every prompt behind a context: no bag is filled, and lengths are left as they are."""
        context, words, mask = (
            value.to(self.engine.device) for value in (context, tokens.embeddings, tokens.mask)
        )
        with self.engine.lowered():
            text = self._text.pool_behind(context, words, mask, tokens.context)
            return functional.pad(text, (0, STATISTICS_DIM)).float().cpu()


class MiniEncoder(Encoder):
    """The embedded encoder; the hash of its weight file is for stores of format 1."""

    card = CARDS["mini"]

    def __init__(self, request: Request, towers: MiniTowers, file_sha256: str) -> None:
        if request.source:
            raise EncoderError(f"encoder {request.spec!r}: mini takes no source; write just: mini")
        super().__init__(
            request,
            towers.audio,
            dim=DIM,
            sample_rate=SAMPLE_RATE,
            window=Window(samples=WINDOW_SAMPLES, max_windows=MAX_WINDOWS, padding="tile"),
            constants=FRONT_END,
            text=MiniTextTower(towers.text, request.engine),
        )
        self.towers, self._file_sha256 = towers.to(self.device), file_sha256

    @classmethod
    def load(cls, request: Request | None = None, weights: Path = WEIGHTS) -> Self:
        """Load the weights that lie beside this module, or others of the same shape.

        Raises
        ------
        EncoderError
            If the file is missing, damaged or of another version of this module.
        """
        towers = MiniTowers()
        try:
            content = weights.read_bytes()
            towers.load_state_dict(load_tensors(content))  # float32 of float16
        except Exception as error:  # safetensors has no public base class for its errors
            raise EncoderError(
                f"{weights}: cannot load mini's weights ({described(error)}); reinstall"
            ) from error
        return cls(request or Request("mini", "", CPU), towers, hashlib.sha256(content).hexdigest())

    def format1_identity(self) -> dict[str, object]:
        """Return it: the hash was the weight file's, the tokenizer part of it."""
        return {
            "encoder": "mini",
            "weights_sha256": self._file_sha256,
            **FRONT_END,
            "tokenizer": TOKENIZER,
        }

    def front_end(self, waveforms: Tensor) -> Tensor:
        """Return log-mel relative to a clip's mean, (batch, windows, samples) -> (..., frames, mels)."""
        return log_mel(self.towers.front_end(waveforms))

    def embed_windows(self, waveforms: Tensor) -> Tensor:
        """Embed waveforms, (batch, windows, samples) -> (batch, dim), unit length."""
        logs = self.front_end(waveforms)  # (B, W, T, M)
        cnn, statistics = self.run_tower(logs), self.towers.audio.statistics(logs)
        return torch.cat(
            [
                CNN_SHARE**0.5 * functional.normalize(cnn, dim=-1),
                (1 - CNN_SHARE) ** 0.5 * functional.normalize(statistics, dim=-1),
            ],
            dim=-1,
        )
