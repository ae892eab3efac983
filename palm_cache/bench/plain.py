"""Embedding files one by one: the loop that one would write by hand, which palm-cache is measured against.

soundfile, resampling, the processor and the model of transformers, batch 1, on the CPU, every operation on
all threads; encoders that transformers has no processor for embed every file themselves. Long clips are
cropped at their centre, as palm-cache does, so that both see the same audio.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.functional import resample

from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.registry import load_encoder, split_spec
from palm_cache.params import Recipe

EmbedFile = Callable[[Path], NDArray[np.float32]]


def plain_loop(spec: str, recipe: Recipe) -> EmbedFile:
    """Load an encoder in full precision and return what embeds one file, -> (dim,).

    Parameters
    ----------
    spec : str
    recipe : Recipe
        Of it only the tokenizer counts.

    Raises
    ------
    UnknownNameError, EncoderError
        If the encoder cannot be loaded.
    """
    name, source = split_spec(spec)
    if name == "clap":
        return _clap(source)
    encoder = load_encoder(spec, Recipe(tokenizer=recipe.tokenizer), device="cpu")

    def embed(file: Path) -> NDArray[np.float32]:
        waveform = _load(file, encoder.sample_rate, encoder.window.stretch)
        return encoder.embed_audio(cut_windows(waveform, encoder.window)[None])[0].numpy()

    return embed


def _clap(source: str) -> EmbedFile:
    from palm_cache.extraction.encoders.clap import load_parts

    parts = load_parts(source)
    model, extractor = parts.model.eval(), parts.extractor

    @torch.no_grad()
    def embed(file: Path) -> NDArray[np.float32]:
        waveform = _load(file, extractor.sampling_rate, extractor.nb_max_samples).numpy()
        inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        # The processor calls a lone clip long, which no evaluation of a fused model does.
        inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
        vector: NDArray[np.float32] = model.get_audio_features(**inputs).pooler_output[0].numpy()
        return vector

    return embed


def _load(file: Path, sample_rate: int, samples: int) -> Tensor:
    """Return the centre of a file, (at most samples,)."""
    sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
    waveform: Tensor = resample(torch.from_numpy(sound.mean(axis=1)), rate, sample_rate)
    start = max(0, len(waveform) - samples) // 2
    return waveform[start : start + samples]
