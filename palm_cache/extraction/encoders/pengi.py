r"""PENGI from its authors' checkpoint, on transformers' own HTSAT and CLIP text model.

Only what PALM uses is read: the audio encoder and the caption encoder, each with its projection

.. math:: p(x) = \mathrm{LayerNorm}(e + W_2\,\mathrm{gelu}(e)), \qquad e = W_1 x

STFT kernels and mel bank come from the checkpoint. The bank was built for 32 kHz (50 Hz to 14 kHz) and
is fed 44.1 kHz: rebuilding it from the published configuration would give other numbers.

S. Deshmukh, B. Elizalde, R. Singh, H. Wang, "Pengi: An Audio Language Model for Audio Tasks",
NeurIPS 2023; checkpoint: https://zenodo.org/records/8387083.
"""

from __future__ import annotations

import re
from typing import Any, Self

from torch import Tensor
from transformers import CLIPTokenizer

from palm_cache.extraction.encoders.base import Request
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.checkpoints import Publication
from palm_cache.extraction.encoders.engine import Engine
from palm_cache.extraction.encoders.pengi_towers import (
    AUDIO,
    DIM,
    HOP_SAMPLES,
    TEXT,
    CaptionTower,
    MicrosoftEncoder,
    empty_towers,
    official,
)
from palm_cache.extraction.encoders.tokens import TokenTower, Vocabulary
from palm_cache.params import CLIP_TOKENIZER

TEXT_LENGTH = 40
"""Tokens of a prompt, start and end included. The original pads to it; attention never sees the padding."""

PUBLICATION = Publication(
    "PENGI",
    "model",
    "get base.pth from https://zenodo.org/records/8387083",
    (AUDIO, TEXT),
    # AudioSet's classifiers, and tables that are computed.
    re.compile(r"\.htsat\.(tscam_conv|head)\.|\.attn_mask$|\.position_ids$"),
)

VOCABULARY = Vocabulary("CLIP", CLIPTokenizer, CLIP_TOKENIZER, {"bos": 49406, "eos": 49407})


class PengiTextTower(TokenTower):
    """PENGI's caption encoder, with CLIP's tokenizer."""

    def __init__(self, tower: CaptionTower, tokenizer: Any, engine: Engine) -> None:
        super().__init__(
            "PENGI",
            engine,
            tower,
            tower.clip.embeddings.token_embedding,
            tokenizer,
            dim=DIM,
            limit=TEXT_LENGTH,
            text_length=TEXT_LENGTH,
        )

    def encode_rows(self, embeddings: Tensor, mask: Tensor, context: slice) -> Tensor:
        """Encode, (rows, length, token_dim) -> (rows, dim)."""
        features: Tensor = self._tower(embeddings, mask.sum(dim=1) - 1)
        return features


class PengiEncoder(MicrosoftEncoder):
    """PENGI."""

    card = CARDS["pengi"]

    @classmethod
    def load(cls, request: Request) -> Self:
        """Load the authors' checkpoint, e.g. ``"base.pth"``, and CLIP's tokenizer, which the recipe names."""
        audio, text = empty_towers()
        state = PUBLICATION.read(request.spec, request.source)
        PUBLICATION.fill(request.spec, {AUDIO: audio, TEXT: text}, state, official)
        tokenizer = VOCABULARY.load(request.recipe.tokenizer)
        return cls(request, audio, PengiTextTower(text, tokenizer, request.engine))

    def format1_identity(self) -> dict[str, object]:
        """Return it; the checkpoint is read again."""
        front_end = {"hop": HOP_SAMPLES, "text_length": TEXT_LENGTH}
        return self.format1_by(PUBLICATION.read(self.spec, self.source), front_end)
