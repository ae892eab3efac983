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
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Self, cast

from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTokenizer

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import Encoder, Request, Window, hash_weights
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.checkpoints import read_tensors
from palm_cache.extraction.encoders.engine import Engine, freeze
from palm_cache.extraction.encoders.pengi_towers import (
    AUDIO,
    DIM,
    HOP_SAMPLES,
    SAMPLE_RATE,
    TEXT,
    WINDOW_SAMPLES,
    CaptionTower,
    build_towers,
)
from palm_cache.extraction.encoders.pretrained import hash_tokenizer, load_vocabulary
from palm_cache.extraction.encoders.text import PromptTower
from palm_cache.extraction.encoders.tokens import TokenTable, lay_out
from palm_cache.types import PromptTokens

TEXT_LENGTH = 40
"""Tokens of a prompt, start and end included; shorter ones are padded to it as published."""

GET_IT = "get base.pth from https://zenodo.org/records/8387083"

_UNUSED = re.compile(r"\.htsat\.(tscam_conv|head)\.|\.attn_mask$|\.position_ids$")
"""AudioSet's classifiers, and tables that are computed."""


class PengiTextTower(PromptTower):
    """PENGI's caption encoder.

    Parameters
    ----------
    tower : CaptionTower
    tokenizer : PreTrainedTokenizerFast
        CLIP's.
    """

    def __init__(self, tower: CaptionTower, tokenizer: Any, engine: Engine) -> None:
        freeze(tower, engine.device)
        super().__init__(
            engine,
            dim=DIM,
            token_dim=int(tower.clip.config.hidden_size),
            identity={
                "implementation": 1,
                "weights_sha256": hash_weights(tower.state_dict()),
                "text_length": TEXT_LENGTH,
                "tokenizer_sha256": hash_tokenizer(tokenizer),
                "transformers": version("transformers").split(".")[0],
            },
        )
        self._tower, self._tokenizer = tower, tokenizer

    def token_table(self, texts: Sequence[str], n_context: int = 0) -> TokenTable:
        """Tokenise texts, padded to :data:`TEXT_LENGTH` with the end token as published.

        Raises
        ------
        EncoderError
            If a text does not fit.
        """
        rows = self._tokenizer(list(texts))["input_ids"] if texts else []
        table = lay_out(
            texts,
            rows,
            n_context,
            padding=self._tokenizer.eos_token_id,
            limit=TEXT_LENGTH,
            reader="PENGI",
        )
        room = (0, TEXT_LENGTH - table.ids.shape[1])
        ids = functional.pad(table.ids, room, value=self._tokenizer.eos_token_id)
        return TokenTable(ids, functional.pad(table.mask, room, value=False), table.context)

    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        """Tokenise texts, each with open places behind its start token; the padding is trimmed.

        Raises
        ------
        EncoderError
            If a text does not fit.
        """
        table = self.token_table(texts, n_context)
        longest = int(table.mask.sum(dim=1).max()) if texts else 0
        embeddings = self._tower.clip.embeddings.token_embedding(
            table.ids[:, :longest].to(self.engine.device)
        )
        return PromptTokens(embeddings.cpu(), table.mask[:, :longest], table.context)

    def encode_rows(self, embeddings: Tensor, mask: Tensor, context: slice) -> Tensor:
        """Encode, (rows, length, token_dim) -> (rows, dim)."""
        return cast(Tensor, self._tower(embeddings, mask.sum(dim=1) - 1))


class PengiEncoder(Encoder):
    """PENGI.

    Parameters
    ----------
    request : Request
    state : mapping of str to Tensor
        Weights of both encoders under their official names.
    tokenizer : PreTrainedTokenizerFast
    whole_sha256 : callable, optional
        Gives the hash of all weights, for stores of format 1.

    Raises
    ------
    EncoderError
        If weights are missing, surplus or misshaped.
    """

    card = CARDS["pengi"]

    def __init__(
        self,
        request: Request,
        state: Mapping[str, Tensor],
        tokenizer: Any,
        whole_sha256: Callable[[], str] | None = None,
    ) -> None:
        audio, text = build_towers(request.spec, state)
        super().__init__(
            request,
            audio,
            dim=DIM,
            sample_rate=SAMPLE_RATE,
            window=Window(samples=WINDOW_SAMPLES, padding="tile"),
            constants={
                "front_end": {"hop": HOP_SAMPLES},
                "transformers": version("transformers").split(".")[0],
            },
            text=PengiTextTower(text, tokenizer, request.engine),
        )
        self._audio, self._whole_sha256 = audio, whole_sha256

    @classmethod
    def load(cls, request: Request) -> Self:
        """Load the authors' checkpoint, e.g. ``"base.pth"``, and CLIP's tokenizer, which the recipe names."""
        state = read_checkpoint(request.source)
        tokenizer = load_tokenizer(request.recipe.tokenizer)
        return cls(request, state, tokenizer, lambda: hash_weights(read_checkpoint(request.source)))

    def format1_identity(self) -> dict[str, object] | None:
        """Return it; the checkpoint is read again."""
        text = cast(PromptTower, self._text).identity
        if self._whole_sha256 is None:
            return None
        return {
            "encoder": "pengi",
            "weights_sha256": self._whole_sha256(),
            "front_end": {"hop": HOP_SAMPLES, "text_length": TEXT_LENGTH},
            "tokenizer_sha256": text["tokenizer_sha256"],
            "transformers": text["transformers"],
        }

    def front_end(self, waveforms: Tensor) -> Tensor:
        """Return log-mel power in dB, (batch, 1, samples) -> (batch, frames, N_MELS)."""
        return self._audio.log_mel(waveforms[:, 0])


def load_tokenizer(source: str) -> Any:
    """Load CLIP's tokenizer from a directory or a hub.

    Raises
    ------
    EncoderError
        If it is not there or another model's.
    """
    subject = f"tokenizer {source}"
    advice = "give a directory with CLIP's vocab.json and merges.txt, or a hub id (--tokenizer)"
    tokenizer = load_vocabulary(subject, CLIPTokenizer, source, advice)
    config = CLIPTextConfig()
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    if ids != (config.bos_token_id, config.eos_token_id) or len(tokenizer) > config.vocab_size:
        raise EncoderError(
            f"{subject}: not CLIP's: start and end token are {ids[0]} and {ids[1]} among {len(tokenizer)} "
            f"tokens, PENGI wants {config.bos_token_id} and {config.eos_token_id} among {config.vocab_size}; "
            f"{advice}"
        )
    return tokenizer


def read_checkpoint(source: str) -> dict[str, Tensor]:
    """Read the weights of audio and caption encoder from a checkpoint, under their official names.

    Nothing but tensors is unpickled, and of them only what is wanted leaves the disk.

    Raises
    ------
    EncoderError
        If it is missing, damaged or something else.
    """
    subject = f"pengi:{source}"
    return read_tensors(subject, source, "model", "PENGI", GET_IT, unused=_UNUSED, begin=(AUDIO, TEXT))
