"""Audio encoders of transformers that read no text: AST, wav2vec2, HuBERT, WavLM, data2vec, Whisper's ...

A clip passes the model's own feature extractor alone, unpadded, and goes through the model with clips whose
features have the same shape: neither padding nor companions can move it. Its vector is what the model pools
(AST), else the mean over time of a hidden layer, over the frames that hold sound.
"""

from __future__ import annotations

import json
import re
from math import ceil
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoFeatureExtractor, AutoModel

from palm_cache.errors import EncoderError, described
from palm_cache.extraction.encoders.base import Encoder, Request, Window, sounds_in
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.pretrained import (
    TRANSFORMERS,
    Parts,
    Repository,
    from_directory_or_hub,
    hash_config,
    needs_code,
)
from palm_cache.extraction.encoders.third_party import check_promises
from palm_cache.store.fingerprint import REMOTE_CODE

LONGEST_SECONDS = 30
"""Of sound that goes through a model at once, where the model itself has no limit."""

SHORTEST_SECONDS = (0.1, 0.2, 0.5, 1.0)
"""What is shorter is repeated up to the first of them that holds enough frames for a model."""

FRAME_ADDERS = (
    "CohereAsrFeatureExtractor",
    "NemotronAsrStreamingFeatureExtractor",
    "ParakeetFeatureExtractor",
    "SeamlessM4TFeatureExtractor",
)
"""Extractors that add a frame to a clip and mask it: it counted as sound once."""

KNOWN = ("audio-spectrogram-transformer", "whisper")
"""Model types that are not tried when they are loaded: they read whole windows only, which takes seconds."""

UNUSED = ("masked_spec_embed",)
"""Weights that only training needs."""


class HiddenLayer(nn.Module):
    """A model as a function of its features: what it pools, or a hidden layer.

    Parameters
    ----------
    layer : int, optional
        0 is what goes into the first layer, 1 what comes out of it.
    """

    def __init__(self, model: Any, layer: int | None) -> None:
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, dim) where the model pools, else (batch, frames, dim)."""
        if self.layer is not None:
            output = self.model(features, output_hidden_states=True)
            return cast(Tensor, output.hidden_states[self.layer])
        output = self.model(features)
        # Models that bring their own code may call their last layer hidden_states.
        names = ("pooler_output", "last_hidden_state", "hidden_states")
        outputs = [value for name in names if (value := getattr(output, name, None)) is not None]
        vectors = outputs[0] if outputs else output
        return cast(Tensor, vectors[-1] if isinstance(vectors, tuple | list) else vectors)


class HfEncoder(Encoder):
    """Any audio encoder of transformers.

    Parameters
    ----------
    layer : int, optional
        Hidden layer whose mean over time is taken.

    Raises
    ------
    EncoderError
        If there is no such layer, or the feature extractor makes no sense.
    """

    card = CARDS["hf"]

    def __init__(self, request: Request, parts: Parts, layer: int | None = None) -> None:
        self._extractor, config = parts.extractor, parts.model.config
        rate = self._extractor.sampling_rate
        if not isinstance(rate, int) or rate <= 0:
            raise EncoderError(
                f"{request.spec}: its feature extractor's file is damaged: sampling_rate {rate!r}"
            )
        depth = int(getattr(config, "num_hidden_layers", 0))
        if layer is not None and layer > depth:
            raise EncoderError(
                f"{request.spec}: layer {layer} of a model with {depth}; 0 is what goes into the first"
            )
        tower = HiddenLayer(parts.model, layer)
        self._shortest = ceil(SHORTEST_SECONDS[0] * rate)
        dim = config.hidden_size if config.model_type in KNOWN else self._try(request.spec, tower, rate)
        self.one_shape = (
            self._features(torch.zeros(rate)).shape == self._features(torch.zeros(2 * rate)).shape
        )
        super().__init__(
            request,
            tower,
            dim=dim,
            sample_rate=rate,
            window=Window(window_samples(self._extractor), padding="nan"),
            constants={
                **({"implementation": 2} if type(self._extractor).__name__ in FRAME_ADDERS else {}),
                "model_type": config.model_type,
                "config_sha256": hash_config(config),
                "front_end": front_end_constants(self._extractor),
                "layer": layer,
                "shortest": self._shortest,
                **({REMOTE_CODE: parts.code} if parts.code else {}),
                **TRANSFORMERS,
            },
            made_with=parts.made_with,
        )

    @classmethod
    def load(cls, request: Request) -> Self:
        """Load a model and its feature extractor from the hub or a directory."""
        source, layer = split_layer(request)
        trusted = request.recipe.trust_remote_code
        parts = from_directory_or_hub(request.spec, source, _load_parts, trusted=trusted)
        encoder = cls(request, parts, layer)
        if parts.code:
            check_promises(encoder)
        return encoder

    def embed_windows(self, waveforms: Tensor) -> Tensor:
        """Embed, (batch, 1, samples) with NaN behind the sound -> (batch, dim)."""
        sounds = [sound.cpu() for sound in sounds_in(waveforms)]
        outputs = self.run_alike([self._features(sound) for sound in sounds])
        pooled = [self._pool(output, len(sound)) for output, sound in zip(outputs, sounds, strict=True)]
        return torch.stack(pooled)

    @torch.inference_mode()
    def _try(self, spec: str, tower: HiddenLayer, rate: int) -> int:
        """Find out how short a sound a model takes, and return the length of its vectors."""
        for seconds in SHORTEST_SECONDS:
            self._shortest = ceil(seconds * rate)
            try:
                return int(tower(self._features(torch.zeros(self._shortest))[None]).shape[-1])
            except Exception as error:  # somebody's code may raise anything
                failure = error
        raise EncoderError(
            f"{spec}: gives no hidden states for what its extractor makes: {described(failure)}"
        ) from failure

    def _features(self, sound: Tensor) -> Tensor:
        """Return what the model reads of a clip, by its own extractor."""
        if len(sound) < self._shortest:
            sound = sound.repeat(ceil(self._shortest / len(sound)))[: self._shortest]
        inputs = self._extractor(
            sound.numpy(), sampling_rate=self._extractor.sampling_rate, return_tensors="pt"
        )
        features: Tensor = inputs[self._extractor.model_input_names[0]][0]
        mask = inputs.get("attention_mask")
        if mask is not None and mask.shape[1:] == features.shape[:1]:  # not Whisper's, of whole windows
            features = features[mask[0].bool()]
        return features

    def _pool(self, output: Tensor, samples: int) -> Tensor:
        """Return the mean over the frames that hold sound, (frames, dim) -> (dim,)."""
        if output.ndim == 1:
            return output
        if hasattr(self._extractor, "n_samples"):  # Whisper's pads to a whole window
            output = output[: ceil(len(output) * max(samples, self._shortest) / self.window.samples)]
        return output.mean(dim=0)


def split_layer(request: Request) -> tuple[str, int | None]:
    """Split ``SOURCE#layer=N``.

    Raises
    ------
    EncoderError
        If something else follows the ``#``.
    """
    split = re.fullmatch(r"([^#]*)(?:#layer=(\d{1,4}))?", request.source)
    if split is None:
        option = request.source.partition("#")[2]
        raise EncoderError(f"{request.spec}: write #layer=N with a whole number from 0, not #{option}")
    return split[1], int(split[2]) if split[2] else None


def window_samples(extractor: Any) -> int:
    """Return how many samples an extractor makes one set of features of."""
    rate = int(extractor.sampling_rate)
    if hasattr(extractor, "n_samples"):  # Whisper's
        return int(extractor.n_samples)
    if type(extractor).__name__ == "ASTFeatureExtractor":  # frames of 25 ms every 10 ms
        return (int(extractor.max_length) - 1) * rate // 100 + rate // 40
    return LONGEST_SECONDS * rate


def front_end_constants(extractor: Any) -> dict[str, object]:
    """Return the constants of a feature extractor, as JSON can hold them."""
    cosmetic = {"processor_class", "auto_map", "_name_or_path", "image_processor_type"}
    constants = {}
    for name, value in extractor.to_dict().items():
        try:
            json.dumps(value)
        except TypeError:  # a table made of the others
            continue
        if name not in cosmetic:
            constants[name] = value
    return constants


def _load_parts(repository: Repository) -> Parts:
    subject, config = repository.subject, repository.config_of(HfEncoder.card)
    kind = str(config.get("model_type"))
    trusted = repository.code() if repository.options["trust_remote_code"] else {}
    known = kind in CONFIG_MAPPING and CONFIG_MAPPING[kind] in MODEL_MAPPING
    if not (known or trusted):
        if config.get("auto_map"):
            raise needs_code(subject, "config.json", f"auto_map: {', '.join(sorted(config['auto_map']))}")
        raise EncoderError(
            f"{subject}: transformers' AutoModel knows no model of type {kind!r}; load it in an encoder of "
            "your own: python:MODULE:CLASS"
        )
    extractor = repository.load(AutoFeatureExtractor)
    if not hasattr(extractor, "sampling_rate"):
        raise EncoderError(f"{subject}: a model of type {kind!r}; its features are not made of sound")
    model = repository.model(AutoModel, optional=UNUSED)
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    code = repository.hash_code(trusted) if trusted else ""
    return Parts(model, extractor, made_with=repository.provenance(), code=code)
