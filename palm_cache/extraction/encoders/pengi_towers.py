"""PENGI's audio and caption tower, on transformers' own HTSAT and CLIP text model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ClapAudioConfig, ClapAudioModel, CLIPTextConfig, CLIPTextModel

from palm_cache.extraction.encoders.base import Encoder, Request, Window, decibels
from palm_cache.extraction.encoders.checkpoints import official_htsat
from palm_cache.extraction.encoders.pretrained import TRANSFORMERS
from palm_cache.extraction.encoders.text import PromptTower

SAMPLE_RATE = 44_100  # Hz
FFT_SAMPLES = 1024
HOP_SAMPLES = 320
N_MELS = 64
DIM = 1024

AUDIO, TEXT = "audio_encoder.", "caption_encoder."
"""How the official names of the towers' weights begin."""

FRONT_END = {
    "kernel_real": "spectrogram_extractor.stft.conv_real.weight",
    "kernel_imag": "spectrogram_extractor.stft.conv_imag.weight",
    "mel": "logmel_extractor.melW",
}
"""How :class:`MelTower`'s buffers are called officially."""


class Projection(nn.Module):
    """Projection into the shared space, (..., n_in) -> (..., n_out)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(n_in, n_out, bias=False)
        self.linear2 = nn.Linear(n_out, n_out, bias=False)
        self.layer_norm = nn.LayerNorm(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Project; the dropout of training is left out."""
        embedded = self.linear1(x)
        normed: Tensor = self.layer_norm(embedded + self.linear2(functional.gelu(embedded)))
        return normed


class MelTower(nn.Module):
    """An audio tower with room for the checkpoint's STFT kernels and mel bank."""

    seconds: int
    """Of a window."""
    kernel_real: Tensor
    kernel_imag: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        n_bins = FFT_SAMPLES // 2 + 1
        self.register_buffer("kernel_real", torch.zeros(n_bins, 1, FFT_SAMPLES))
        self.register_buffer("kernel_imag", torch.zeros(n_bins, 1, FFT_SAMPLES))
        self.register_buffer("mel", torch.zeros(n_bins, N_MELS))

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Return log-mel power in dB, (batch, samples) -> (batch, frames, N_MELS)."""
        # With the checkpoint's kernels, as published: torch.stft is quicker by a tenth of the whole
        # and 3e-5 away.
        padded = functional.pad(waveforms[:, None], (FFT_SAMPLES // 2, FFT_SAMPLES // 2), mode="reflect")
        real = functional.conv1d(padded, self.kernel_real, stride=HOP_SAMPLES)
        imag = functional.conv1d(padded, self.kernel_imag, stride=HOP_SAMPLES)
        mel = (real.square() + imag.square()).transpose(1, 2) @ self.mel
        return decibels(mel)


class PengiAudioTower(MelTower):
    """HTSAT and the projection into the shared space."""

    seconds = 7

    def __init__(self) -> None:
        super().__init__()
        self.htsat: Any = ClapAudioModel(ClapAudioConfig())
        self.projection = Projection(self.htsat.config.hidden_size, DIM)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed, (batch, frames, N_MELS) -> (batch, DIM)."""
        pooled = self.htsat(input_features=log_mel[:, None]).pooler_output
        projected: Tensor = self.projection(pooled)
        return projected


class CaptionTower(nn.Module):
    """CLIP's text model and the projection into the shared space, from token embeddings on."""

    def __init__(self) -> None:
        super().__init__()
        model = CLIPTextModel(CLIPTextConfig())
        # transformers 5.0 keeps the model's parts one level deeper than later versions do.
        self.clip: Any = getattr(model, "text_model", model)
        # Positions are counted in forward; the checkpoint would leave this table empty.
        self.clip.embeddings.register_buffer("position_ids", None)
        width = model.config.hidden_size
        self.clip_text_projection = nn.Linear(width, width, bias=False)
        self.projection = Projection(width, DIM)

    def forward(self, embeddings: Tensor, ends: Tensor) -> Tensor:
        """Encode, (batch, length, width) -> (batch, DIM); ``ends`` (batch,) is where the first end token is.

        ``CLIPTextModel`` itself takes token ids only, hence its parts one by one. What is behind the end
        does not count: attention is causal.
        """
        length = embeddings.shape[1]
        hidden = embeddings + self.clip.embeddings.position_embedding.weight[:length]
        # An explicit mask: without one, being causal would depend on how attention is computed.
        blocked = torch.full((length, length), -torch.inf, device=hidden.device).triu(1)
        encoded = self.clip.encoder(inputs_embeds=hidden, attention_mask=blocked[None, None])
        states = self.clip.final_layer_norm(encoded.last_hidden_state)
        pooled = states[torch.arange(len(states), device=states.device), ends]
        projected: Tensor = self.projection(self.clip_text_projection(pooled))
        return projected


class MicrosoftEncoder(Encoder):
    """An encoder whose audio tower holds its own log-mel, as PENGI's makers have it."""

    def __init__(self, request: Request, audio: MelTower, text: PromptTower) -> None:
        super().__init__(
            request,
            audio,
            dim=DIM,
            sample_rate=SAMPLE_RATE,
            window=Window(audio.seconds * SAMPLE_RATE, padding="tile"),
            constants={"front_end": {"hop": HOP_SAMPLES}, **TRANSFORMERS},
            text=text,
        )
        self._audio = audio

    def front_end(self, waveforms: Tensor) -> Tensor:
        """Return log-mel power in dB, (batch, 1, samples) -> (batch, frames, N_MELS)."""
        return self._audio.log_mel(waveforms[:, 0])


def empty_towers() -> tuple[PengiAudioTower, CaptionTower]:
    """Make both towers without weights: no time for random numbers that are overwritten."""
    with torch.device("meta"):
        return PengiAudioTower(), CaptionTower()


def official(name: str) -> str:
    """Return Microsoft's name of a weight of PENGI, and of what its makers built likewise."""
    if name.startswith(TEXT):
        return name.replace(f"{TEXT}clip.", f"{TEXT}base.")
    name = name.removeprefix(AUDIO)
    if name in FRONT_END:
        return f"{AUDIO}base.htsat.{FRONT_END[name]}"
    return AUDIO + official_htsat(name.replace("htsat.audio_encoder.", "base.htsat."))
