"""Perception Encoder Audio (PE-A) through transformers: sound of any length, and text by ModernBERT.

A clip goes through the model with clips of its own length, padded by reflection to whole frames as the
processor does: no mask is needed. Models were trained with a sigmoid, ``s a . t + b``; vectors are as the
model gives them.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PeAudioFeatureExtractor, PeAudioModel

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import Encoder, Request, Window, sounds_in
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.engine import Engine
from palm_cache.extraction.encoders.pretrained import (
    TRANSFORMERS,
    Parts,
    Repository,
    from_directory_or_hub,
    hash_config,
)
from palm_cache.extraction.encoders.tokens import TokenTower

LONGEST_SECONDS = 30
"""Of sound that goes through the model at once."""


class PeAudioTower(nn.Module):
    """Waveforms (batch, samples), whole frames -> (batch, dim)."""

    def __init__(self, model: Any, frames: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.frames = model.audio_encoder, model.audio_head, frames

    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed."""
        output = self.encoder(waveforms[:, None])
        vectors: Tensor = self.head(output.last_hidden_state if self.frames else output.pooler_output)
        return vectors.mean(dim=1) if self.frames else vectors


class PeAudioTextTower(TokenTower):
    """ModernBERT and PE-A's head for text."""

    def __init__(self, spec: str, parts: Parts, engine: Engine) -> None:
        model, config = parts.model, parts.model.config.text_config
        super().__init__(
            spec,
            engine,
            nn.ModuleDict({"text": model.text_model, "head": model.text_audio_head}),
            model.text_model.get_input_embeddings(),
            parts.tokenizer,
            dim=int(config.hidden_size),
            limit=int(config.max_position_embeddings),
            config_sha256=hash_config(config),
        )

    def encode_rows(self, embeddings: Tensor, mask: Tensor, context: slice) -> Tensor:
        """Encode, -> (rows, dim)."""
        output = self._tower["text"](
            inputs_embeds=embeddings, attention_mask=mask.to(torch.int64), output_hidden_states=True
        )
        vectors: Tensor = self._tower["head"](output.hidden_states[-1][:, 0])
        return vectors


class PeAudioEncoder(Encoder):
    """PE-A; of a model that was trained frame by frame the mean over its frames is taken.

    Raises
    ------
    EncoderError
        If the feature extractor makes no sense.
    """

    one_shape = False
    card = CARDS["pe-audio"]

    def __init__(self, request: Request, parts: Parts) -> None:
        extractor, config = parts.extractor, parts.model.config
        frames = any("FrameLevel" in name for name in config.architectures or ())  # as of pe-a-frame-*
        rate, hop = extractor.sampling_rate, extractor.hop_length
        if not all(isinstance(number, int) and number > 0 for number in (rate, hop)):
            raise EncoderError(
                f"{request.spec}: its processor's file is damaged: sampling_rate {rate!r}, hop_length {hop!r}"
            )
        self._hop = hop
        super().__init__(
            request,
            PeAudioTower(parts.model, frames),
            dim=int(config.text_config.hidden_size),
            sample_rate=rate,
            window=Window(LONGEST_SECONDS * rate, padding="nan"),
            constants={
                "config_sha256": hash_config(config.audio_config),
                "front_end": {"hop": hop, "frames": frames},
                **TRANSFORMERS,
            },
            text=PeAudioTextTower(request.spec, parts, request.engine),
            made_with=parts.made_with,
        )

    @classmethod
    def load(cls, request: Request) -> Self:
        """Load a checkpoint from the hub or a directory."""
        return cls(request, from_directory_or_hub(request.spec, request.source, _load_parts))

    def embed_windows(self, waveforms: Tensor) -> Tensor:
        """Embed, (batch, 1, samples) with NaN behind the sound -> (batch, dim)."""
        return torch.stack(self.run_alike([self._whole_frames(sound) for sound in sounds_in(waveforms)]))

    def _whole_frames(self, sound: Tensor) -> Tensor:
        missing = -len(sound) % self._hop
        # numpy's, which goes on reflecting where a sound is shorter than what is missing.
        return torch.from_numpy(np.pad(sound.cpu().numpy(), (0, missing), "reflect"))


def _load_parts(repository: Repository) -> Parts:
    return repository.parts(PeAudioEncoder.card, PeAudioModel, PeAudioFeatureExtractor.from_pretrained)
