"""CLAP through transformers: any ``ClapModel`` checkpoint, fused or not, from the hub or a directory.

The towers are transformers' own. The processor's log-mel, a numpy loop over clips, is done here in torch
for a whole batch; the tests hold both against ``get_audio_features`` and ``get_text_features``.

A fused model hears a clip of at most one window as LAION's own evaluation does it: unfused. Of a longer one
it reads the whole log-mel, shrunk to a window's frames, and three windows of it. Where the originals draw
these at random from each third of the clip, here they lie in the middle of each.

Y. Wu et al., "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and
Keyword-to-Caption Augmentation", ICASSP 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad
from transformers import ClapFeatureExtractor, ClapModel

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import Encoder, Request, Window, decibels, sounds_in
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.engine import Engine
from palm_cache.extraction.encoders.pretrained import (
    TRANSFORMERS,
    Parts,
    from_directory_or_hub,
    hash_config,
)
from palm_cache.extraction.encoders.tokens import TokenTower

PADDINGS: dict[str, Literal["tile", "repeat-pad"]] = {"repeatpad": "repeat-pad", "repeat": "tile"}
"""The processor's paddings that are known here."""

FUSED_WINDOWS = 3
"""Windows of sound that a fused model reads at most: 30 s."""

MOST = {
    "sampling_rate": 1_000_000,
    "hop_length": 1 << 20,
    "max_length_s": 3_600,
    "fft_window_size": 1 << 16,
    "feature_size": 1 << 12,
}
"""Constants of a processor, all whole numbers from 1, and what none of them is above."""


class ClapAudioTower(nn.Module):
    """What ``get_audio_features`` does behind the processor's log-mel."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.htsat: Any = model.audio_model
        self.projection: Any = model.audio_projection
        self.fused = bool(model.config.audio_config.enable_fusion)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed, (batch, frames, mels), fused ones (batch, 4, frames, mels) -> (batch, dim), unit length."""
        images = log_mel if log_mel.ndim == 4 else log_mel[:, None]
        longer = images.new_full((len(images), 1), log_mel.ndim == 4) if self.fused else None
        pooled = self.htsat(input_features=images, is_longer=longer).pooler_output
        return normalize(self.projection(pooled), dim=-1)


class ClapTextTower(TokenTower):
    """CLAP's text model."""

    max_prompts = 64

    def __init__(
        self, spec: str, model: Any, tokenizer: Any, engine: Engine, limit: int | None = None
    ) -> None:
        config = model.config
        # RoBERTa counts positions from its padding index on.
        positions = config.text_config.max_position_embeddings - config.text_config.pad_token_id - 1
        super().__init__(
            spec,
            engine,
            nn.ModuleDict({"text": model.text_model, "projection": model.text_projection}),
            model.text_model.get_input_embeddings(),
            tokenizer,
            dim=int(config.projection_dim),
            limit=min(positions, limit or positions),
            config_sha256=hash_config(config.text_config, projection=config.projection_hidden_act),
        )

    def encode_rows(self, embeddings: Tensor, mask: Tensor, context: slice) -> Tensor:
        """Encode, -> (rows, dim), unit length."""
        encoded = self._tower["text"](inputs_embeds=embeddings, attention_mask=mask.to(torch.int64))
        return normalize(self._tower["projection"](encoded.pooler_output), dim=-1)


class ClapEncoder(Encoder):
    """CLAP; raises as :func:`check_processor`."""

    card = CARDS["clap"]

    more_constants: ClassVar[Mapping[str, object]] = {}
    """What a subclass does otherwise."""
    text_limit: ClassVar[int | None] = None
    """Tokens that it was trained to read at most, where that is less than it has positions."""

    def __init__(self, request: Request, parts: Parts) -> None:
        model, extractor = parts.model, parts.extractor
        check_processor(request.spec, model.config, extractor)
        tower = ClapAudioTower(model)
        self.one_shape = not tower.fused
        self._chunk = int(extractor.nb_max_samples)
        self._hop, self._fft = int(extractor.hop_length), int(extractor.fft_window_size)
        self._padding = PADDINGS[extractor.padding]
        self._constants = front_end_constants(extractor)
        window = Window(self._chunk, padding=self._padding)
        if tower.fused:
            window = Window(FUSED_WINDOWS * self._chunk, padding="nan")
        super().__init__(
            request,
            tower,
            dim=int(model.config.projection_dim),
            sample_rate=int(extractor.sampling_rate),
            window=window,
            constants={
                "config_sha256": hash_config(
                    model.config.audio_config, projection=model.config.projection_hidden_act
                ),
                "front_end": self._constants,
                **TRANSFORMERS,
                **self.more_constants,
            },
            text=ClapTextTower(request.spec, model, parts.tokenizer, request.engine, self.text_limit),
            made_with=parts.made_with,
        )
        # The processor takes Slaney's mel bank for unfused models.
        bank = extractor.mel_filters if tower.fused else extractor.mel_filters_slaney
        self._mel = torch.from_numpy(bank).float().to(self.device)
        self._hann = torch.hann_window(self._fft, device=self.device)
        self._fused = tower.fused

    @classmethod
    def load(cls, request: Request) -> Self:
        """Load a hub id, e.g. ``"laion/clap-htsat-unfused"``, or what ``save_pretrained`` wrote."""
        return cls(request, load_parts(request.source))

    def format1_identity(self) -> dict[str, object] | None:
        """Return it; format 1 knew no fused ones."""
        if self._fused:
            return None
        return self.format1_by(load_parts(self.source).model.state_dict(), self._constants)

    def front_end(self, waveforms: Tensor) -> Tensor:
        """Return log-mel power in dB, (batch, 1, samples) -> (batch, frames, mels)."""
        return self.log_mel(waveforms[:, 0])

    def embed_windows(self, waveforms: Tensor) -> Tensor:
        """Embed, (batch, 1, samples) -> (batch, dim), unit length as CLAP gives them."""
        if not self._fused:
            return super().embed_windows(waveforms)
        return torch.stack(self.run_alike([self._fused_features(sound) for sound in sounds_in(waveforms)]))

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Return the processor's log-mel power in dB, (batch, samples) -> (batch, frames, mels)."""
        spectrum = torch.stft(
            waveforms,
            self._fft,
            self._hop,
            window=self._hann,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self._mel
        return decibels(mel)

    def _fused_features(self, waveform: Tensor) -> Tensor:
        """Return log-mel of a clip: (frames, mels), of one longer than a window (4, frames, mels)."""
        short = self._chunk - len(waveform)
        if short > 0:
            times = self._chunk // len(waveform) + (self._padding == "tile")
            waveform = pad(waveform.repeat(times), (0, self._chunk))[: self._chunk]
        mel = self.log_mel(waveform[None])[0]
        frames = self._chunk // self._hop + 1
        return mel if len(mel) <= frames else fuse(mel, frames)


def fuse(mel: Tensor, frames: int) -> Tensor:
    """Take the whole of a log-mel, shrunk, and three windows of it: (total, mels) -> (4, frames, mels)."""
    shrunk = interpolate(mel[None, None], size=[frames, mel.shape[1]], mode="bilinear", align_corners=False)
    # As numpy.array_split makes thirds of all possible starts; where one is empty, the first start.
    thirds = torch.arange(len(mel) - frames + 1).tensor_split(3)
    starts = [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]
    return torch.stack([shrunk[0, 0], *(mel[start : start + frames] for start in starts)])


def check_processor(spec: str, config: Any, extractor: Any) -> None:
    """Check that a processor makes sense and fits the model.

    Raises
    ------
    EncoderError
        Naming what does not.
    """
    audio, fault = config.audio_config, ""
    if extractor.nb_max_samples <= max(extractor.fft_window_size, extractor.hop_length):
        fault = f"a window of {extractor.nb_max_samples} samples"
    elif not extractor.frequency_max <= extractor.sampling_rate / 2:
        fault = f"frequency_max {extractor.frequency_max} at {extractor.sampling_rate} Hz"
    elif extractor.feature_size != audio.num_mel_bins:
        fault = f"feature_size {extractor.feature_size} where the model reads {audio.num_mel_bins}"
    if fault:
        raise EncoderError(f"{spec}: its processor's file is damaged: {fault}")
    if audio.spec_size <= 0 or audio.spec_size % audio.num_mel_bins:
        raise EncoderError(
            f"{spec}: its config.json is damaged: spec_size {audio.spec_size} for {audio.num_mel_bins} mels"
        )
    if extractor.padding not in PADDINGS:
        raise EncoderError(
            f"{spec}: its processor pads with {extractor.padding!r}; known here: {', '.join(PADDINGS)}"
        )
    if bool(config.audio_config.enable_fusion) != (extractor.truncation == "fusion"):
        raise EncoderError(
            f"{spec}: model and processor do not go together: truncation {extractor.truncation!r} for "
            f"{'a fused' if config.audio_config.enable_fusion else 'an unfused'} model"
        )


def front_end_constants(extractor: Any) -> dict[str, object]:
    """Return the constants of a processor, as JSON can hold them."""
    names = (
        "feature_size",
        "sampling_rate",
        "hop_length",
        "max_length_s",
        "fft_window_size",
        "frequency_min",
        "frequency_max",
        "top_db",
        "truncation",
        "padding",
    )
    return {name: getattr(extractor, name) for name in names}


def load_parts(source: str) -> Parts:
    """Load transformers' own model, feature extractor and tokenizer; raise as :meth:`ClapEncoder.load`."""
    return from_directory_or_hub(
        f"clap:{source}",
        source,
        lambda repository: repository.parts(ClapEncoder.card, ClapModel, _load_extractor),
    )


def _load_extractor(place: str, **options: Any) -> Any:
    """Load the processor's constants once they are known to make sense: tables are made of them."""
    constants, _ = ClapFeatureExtractor.get_feature_extractor_dict(place, **options)
    for name, largest in MOST.items():
        value = constants.get(name, 1)
        if not isinstance(value, int) or not 0 < value <= largest:
            raise ValueError(f"{name} {value!r}")
    return ClapFeatureExtractor.from_pretrained(place, **options)
