"""CLAP through transformers: any unfused ``ClapModel`` checkpoint, from the hub or a directory.

The towers are transformers' own. The processor's log-mel, a numpy loop over clips, is done here in torch
for a whole batch; the tests hold both against ``get_audio_features`` and ``get_text_features``.

Y. Wu et al., "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and
Keyword-to-Caption Augmentation", ICASSP 2023.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer, ClapModel

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import (
    Precision,
    TowerCall,
    Window,
    embed_prompts,
    exact_float32,
    hash_weights,
    prepare_tower,
    run_tower,
)
from palm_cache.extraction.encoders.hub import from_directory_or_hub, load_part
from palm_cache.extraction.encoders.tokens import lay_out
from palm_cache.types import PromptTokens

QUIETEST_POWER = 1e-10
"""Mel power that counts as silence: -100 dB, as in the processor."""

PADDINGS: dict[str, Literal["tile", "repeat-pad"]] = {"repeatpad": "repeat-pad", "repeat": "tile"}
"""The processor's paddings that are known here."""

ADVICE = "give a directory that save_pretrained of model and processor wrote, or a hub id"


class ClapAudioTower(nn.Module):
    """What ``get_audio_features`` does behind the processor's log-mel."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.htsat: Any = model.audio_model
        self.projection: Any = model.audio_projection

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed, (batch, frames, mels) -> (batch, dim), unit length."""
        # What is longer than a window was cropped before; only fused models look at is_longer.
        pooled = self.htsat(input_features=log_mel[:, None], is_longer=None).pooler_output
        return normalize(self.projection(pooled), dim=-1)


class ClapTextTower:
    """CLAP's text model; satisfies :class:`~palm_cache.types.TextTower`."""

    most_prompts = 64

    def __init__(
        self, spec: str, model: Any, tokenizer: Any, device: torch.device, precision: Precision
    ) -> None:
        self.dim = int(model.config.projection_dim)
        self.token_dim = int(model.config.text_config.hidden_size)
        self._spec, self._model, self._tokenizer = spec, model, tokenizer
        self._device, self._precision = device, precision
        # RoBERTa counts positions from its padding index on.
        self._limit = model.config.text_config.max_position_embeddings - tokenizer.pad_token_id - 1

    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        """Tokenise texts, each with open places behind its start token.

        Raises
        ------
        EncoderError
            If a text has more tokens than the model has positions.
        """
        rows = self._tokenizer(list(texts))["input_ids"] if texts else []
        table = lay_out(
            texts,
            rows,
            n_context,
            padding=self._tokenizer.pad_token_id,
            limit=self._limit,
            reader=self._spec,
        )
        embeddings = self._model.text_model.get_input_embeddings()(table.ids.to(self._device))
        return PromptTokens(embeddings.float().cpu(), table.mask, table.context)

    def encode(self, embeddings: Tensor, tokens: PromptTokens) -> Tensor:
        """Encode (..., n_prompts, length, token_dim) -> (..., n_prompts, dim), unit length."""
        *rows, length, _ = embeddings.shape
        mask = tokens.mask.expand(*rows, length).reshape(-1, length)
        with (
            exact_float32(self._device),
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"),
        ):
            encoded = self._model.text_model(
                inputs_embeds=embeddings.flatten(0, -3).to(self._device),
                attention_mask=mask.to(self._device, torch.int64),
            )
            features = normalize(self._model.text_projection(encoded.pooler_output), dim=-1)
        return features.float().cpu().view(*rows, self.dim)


class ClapEncoder:
    """CLAP; satisfies :class:`~palm_cache.extraction.encoders.base.Encoder`.

    Parameters
    ----------
    source : str
        Where the model comes from: a hub id or a directory.
    model : ClapModel
    extractor : ClapFeatureExtractor
        Its constants define window and log-mel.
    tokenizer : PreTrainedTokenizerFast
    device : torch.device
    precision : {"fp32", "bf16"}
        bf16 runs the towers, not the log-mel, under autocast.

    Raises
    ------
    EncoderError
        If the checkpoint is fused, or its processor pads in a way that is not known here.
    """

    def __init__(
        self,
        source: str,
        model: Any,
        extractor: Any,
        tokenizer: Any,
        device: torch.device,
        precision: Precision = "fp32",
    ) -> None:
        _check_unfused(source, model, extractor)
        if extractor.padding not in PADDINGS:
            raise EncoderError(
                f"clap:{source}: its processor pads with {extractor.padding!r}; "
                f"known here: {', '.join(PADDINGS)}"
            )
        self.spec = f"clap:{source}"
        self.dim = int(model.config.projection_dim)
        self.sample_rate = int(extractor.sampling_rate)
        self.window = Window(
            samples=int(extractor.nb_max_samples), most=1, padding=PADDINGS[extractor.padding]
        )
        self.identity: Mapping[str, object] = {
            "encoder": "clap",
            "weights_sha256": hash_weights(model.state_dict()),
            "front_end": _front_end_constants(extractor),
            "tokenizer_sha256": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "transformers": version("transformers").split(".")[0],
            "precision": precision,
        }
        prepare_tower(model, device, "fp32")
        tower = ClapAudioTower(model)
        prepare_tower(tower, device, precision)
        self.audio_tower: TowerCall = tower
        self._text = ClapTextTower(self.spec, model, tokenizer, device, precision)
        self.device, self.precision = device, precision
        self._hop, self._fft = int(extractor.hop_length), int(extractor.fft_window_size)
        # The processor takes Slaney's mel bank for unfused models.
        self._mel = torch.from_numpy(extractor.mel_filters_slaney).float().to(device)
        self._hann = torch.hann_window(self._fft, device=device)

    @classmethod
    def load(cls, source: str, device: torch.device, precision: Precision = "fp32") -> ClapEncoder:
        """Load a checkpoint.

        Parameters
        ----------
        source : str
            Hub id, e.g. ``"laion/clap-htsat-unfused"``, or a directory that ``save_pretrained`` wrote.

        Raises
        ------
        EncoderError
            If it is not there, cannot be reached, is incomplete or is another kind of model.
        """
        return cls(source, *load_parts(source), device=device, precision=precision)

    @torch.inference_mode()
    def embed_audio(self, waveforms: Tensor) -> Tensor:
        """Embed waveforms, (batch, 1, samples) -> (batch, dim), unit length as CLAP gives them."""
        with exact_float32(self.device):
            return run_tower(self, self.log_mel(waveforms)).cpu()

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts, -> (n_prompts, dim), unit length as CLAP gives them.

        Raises
        ------
        EncoderError
            If a prompt has more tokens than the text tower has positions.
        """
        return embed_prompts(self._text, prompts)

    def text_tower(self) -> ClapTextTower:
        """Return the text tower for prompt learning."""
        return self._text

    @torch.inference_mode()
    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Return the processor's log-mel power in dB, (batch, 1, samples) -> (batch, frames, mels)."""
        spectrum = torch.stft(
            waveforms[:, 0].to(self.device, non_blocking=True),
            self._fft,
            self._hop,
            window=self._hann,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self._mel
        return 10 * mel.clamp_min(QUIETEST_POWER).log10()


def _check_unfused(source: str, model: Any, extractor: Any) -> None:
    if model.config.audio_config.enable_fusion or extractor.truncation == "fusion":
        raise EncoderError(
            f"clap:{source}: a fused checkpoint; its embeddings of long clips depend on random crops. "
            "Use an unfused one, e.g. clap:laion/clap-htsat-unfused"
        )


def _front_end_constants(extractor: Any) -> dict[str, object]:
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


def load_parts(source: str) -> tuple[Any, Any, Any]:
    """Load transformers' own model, feature extractor and tokenizer; raise as :meth:`ClapEncoder.load`."""
    what = f"clap:{source}"
    return from_directory_or_hub(what, source, lambda place, local: _load_parts(what, place, local), ADVICE)


def _load_parts(what: str, place: str, local: bool) -> tuple[Any, Any, Any]:
    config = load_part(
        what, "config.json", lambda: AutoConfig.from_pretrained(place, local_files_only=local), ADVICE
    )
    if config.model_type != "clap":
        raise EncoderError(f"{what}: holds a model of type {config.model_type!r}, not clap")
    model, report = load_part(
        what,
        "weights (model.safetensors)",
        lambda: ClapModel.from_pretrained(
            place, local_files_only=local, output_loading_info=True, dtype=torch.float32
        ),
        ADVICE,
    )
    # transformers fills what is missing with random numbers and a warning.
    wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if wrong:
        raise EncoderError(
            f"{what}: {len(wrong)} weights are missing or misshaped, e.g. {wrong[0]}; "
            "not a complete ClapModel checkpoint"
        )
    extractor = load_part(
        what,
        "preprocessor_config.json",
        lambda: AutoFeatureExtractor.from_pretrained(place, local_files_only=local),
        ADVICE,
    )
    tokenizer = load_part(
        what, "tokenizer files", lambda: AutoTokenizer.from_pretrained(place, local_files_only=local), ADVICE
    )
    return model, extractor, tokenizer
