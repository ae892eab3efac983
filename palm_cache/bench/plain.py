"""Embedding files one by one: the loop that one would write by hand, which palm-cache is measured against.

soundfile, resampling, the processor and the model of transformers, batch 1, on the CPU, every operation on
all threads. Long clips are cropped at their centre, as palm-cache does, so that both see the same audio.
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

from palm_cache.extraction.encoders.registry import split_spec

EmbedFile = Callable[[Path], NDArray[np.float32]]


def plain_loop(spec: str) -> EmbedFile:
    """Load an encoder and return what embeds one file, -> (dim,).

    Raises
    ------
    UnknownNameError, EncoderError
        If the encoder cannot be loaded.
    """
    name, source = split_spec(spec)
    if name == "clap":
        return _clap(source)
    return _pengi(source) if name == "pengi" else _mini()


def _clap(source: str) -> EmbedFile:
    from palm_cache.extraction.encoders.clap import load_parts

    parts = load_parts(source)
    model, extractor = parts.model.eval(), parts.extractor

    @torch.no_grad()
    def embed(file: Path) -> NDArray[np.float32]:
        waveform = _load(file, extractor.sampling_rate, extractor.nb_max_samples).numpy()
        inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        vector: NDArray[np.float32] = model.get_audio_features(**inputs).pooler_output[0].numpy()
        return vector

    return embed


def _pengi(source: str) -> EmbedFile:
    from transformers import ClapFeatureExtractor

    from palm_cache.extraction.encoders import pengi_towers as pengi
    from palm_cache.extraction.encoders.pengi import read_checkpoint

    tower, _ = pengi.build_towers("pengi", read_checkpoint(source))
    tower.eval()
    extractor = ClapFeatureExtractor(
        sampling_rate=pengi.SAMPLE_RATE,
        hop_length=pengi.HOP_SAMPLES,
        max_length_s=pengi.SECONDS,
        truncation="rand_trunc",
        padding="repeat",
    )
    extractor.mel_filters_slaney = tower.mel.double().numpy()

    @torch.no_grad()
    def embed(file: Path) -> NDArray[np.float32]:
        waveform = _load(file, pengi.SAMPLE_RATE, pengi.SECONDS * pengi.SAMPLE_RATE).numpy()
        inputs = extractor(waveform, sampling_rate=pengi.SAMPLE_RATE, return_tensors="pt")
        pooled = tower.htsat(input_features=inputs["input_features"]).pooler_output
        vector: NDArray[np.float32] = tower.projection(pooled)[0].numpy()
        return vector

    return embed


def _mini() -> EmbedFile:
    """Return what embeds a file by ``mini``, of which transformers knows nothing."""
    from palm_cache.extraction.audio import cut_windows
    from palm_cache.extraction.encoders.mini import MiniEncoder

    encoder = MiniEncoder.load()

    @torch.no_grad()
    def embed(file: Path) -> NDArray[np.float32]:
        waveform = _load(file, encoder.sample_rate, encoder.window.stretch)
        return encoder.embed_audio(cut_windows(waveform, encoder.window)[None])[0].numpy()

    return embed


def _load(file: Path, sample_rate: int, samples: int) -> Tensor:
    """Return the centre of a file, (at most samples,)."""
    sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
    waveform: Tensor = resample(torch.from_numpy(sound.mean(axis=1)), rate, sample_rate)
    start = max(0, len(waveform) - samples) // 2
    return waveform[start : start + samples]
