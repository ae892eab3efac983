"""aiSFX as an encoder of one's own: a real network, trained on libraries of sound effects, around palm-cache.

``--encoder python:pipelines.encoders.aisfx:Aisfx`` takes the weights of the installed package ``aisfx``
(``pip install --no-deps aisfx==0.1.2``: its pins are old), ``...:Aisfx:FILE`` those of its wheel or
checkpoint. Only its weights are used; network and front end are written anew. Clips are read in blocks of
2.3 s, at most 13 of them (30 s), whose vectors are averaged; the original cuts blocks from the spectrogram of
the whole file.

A. B. Ma, A. Lerch, "Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR
2022; weights CC BY 4.0.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import Encoder, EncoderCard, Request, Window
from palm_cache.extraction.encoders.checkpoints import load_plain

SAMPLE_RATE = 44_100  # Hz
FFT_SAMPLES = 2048
HOP_SAMPLES = 1024
N_MELS = 96
BLOCK_FRAMES = 100
LOUDEST = 9.457798957824707
"""Largest value of a spectrogram in training, which the network's input is divided by."""
CHANNELS = (64, 128, 256, 512)
CHECKPOINT = "aisfx/models/checkpoint.pth"


class Network(nn.Module):
    """Four blocks of two convolutions, (batch, frames, mels) -> (batch, 512)."""

    def __init__(self) -> None:
        super().__init__()
        for number, (n_in, n_out) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), start=1):
            block = nn.Module()
            block.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
            block.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
            block.bn1, block.bn2 = nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)
            self.add_module(f"conv_block{number}", block)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Embed blocks of a spectrogram."""
        x = spectrogram[:, None]
        for number in range(1, len(CHANNELS) + 1):
            block = self.get_submodule(f"conv_block{number}")
            x = functional.relu(block.bn1(block.conv1(x)))
            x = functional.relu(block.bn2(block.conv2(x)))
            x = functional.max_pool2d(x, 2 if number < len(CHANNELS) else 1)
        return x.mean(dim=3).amax(dim=2)


class Aisfx(Encoder):
    """aiSFX."""

    card = EncoderCard(
        name="aisfx",
        spec="python:pipelines.encoders.aisfx:Aisfx[:WHEEL]",
        description="trained on sound-effects libraries",
        source="the package aisfx of the Python registry",
        window="2.3 s, up to 13 of them, 44.1 kHz",
        dim="512",
        licence="CC BY 4.0",
        citation="Ma and Lerch, ISMIR 2022",
    )

    @classmethod
    def load(cls, request: Request) -> Self:
        """Load the weights from the installed package, its wheel or its checkpoint."""
        network = Network()
        network.load_state_dict(read_weights(request.source))
        return cls(
            request,
            network,
            dim=CHANNELS[-1],
            sample_rate=SAMPLE_RATE,
            window=Window((BLOCK_FRAMES - 1) * HOP_SAMPLES, max_windows=13, padding="tile"),
            constants={"front_end": [FFT_SAMPLES, HOP_SAMPLES, N_MELS, LOUDEST]},
        )

    def front_end(self, waveforms: Tensor) -> Tensor:
        """Return log-mel relative to a clip's peak, (batch, windows, samples) -> (..., frames, mels)."""
        loud = waveforms.abs().amax(dim=(1, 2), keepdim=True)
        scaled = waveforms / torch.where(loud > 0, loud, 1)
        spectrum = torch.stft(
            scaled.flatten(0, 1),
            FFT_SAMPLES,
            HOP_SAMPLES,
            window=torch.hann_window(FFT_SAMPLES, device=waveforms.device),
            pad_mode="constant",
            return_complex=True,
        )
        bank = melscale_fbanks(FFT_SAMPLES // 2 + 1, 0.0, SAMPLE_RATE / 2, N_MELS, SAMPLE_RATE)
        mel = spectrum.abs().square().transpose(1, 2) @ (bank / bank.sum(dim=0)).to(waveforms.device)
        return ((1 + 10_000 * mel).log10() / LOUDEST).unflatten(0, waveforms.shape[:2])

    def embed_windows(self, waveforms: Tensor) -> Tensor:
        """Embed, the mean over a clip's blocks."""
        blocks = self.front_end(waveforms)
        return self.run_tower(blocks.flatten(0, 1)).unflatten(0, blocks.shape[:2]).mean(dim=1)


def read_weights(source: str) -> Mapping[str, Tensor]:
    """Read the network's weights, without running anything of the package.

    Raises
    ------
    EncoderError
        If they are not there.
    """
    found = importlib.util.find_spec("aisfx") if not source else None
    folder = found.submodule_search_locations[0] if found and found.submodule_search_locations else ""
    file = Path(source).expanduser() if source else Path(folder, "models", "checkpoint.pth")
    if not file.is_file():
        raise EncoderError(
            f"aisfx: no weights at {file}; pip install --no-deps aisfx==0.1.2, or name its wheel: :Aisfx:FILE"
        )
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            content = load_plain(io.BytesIO(wheel.read(CHECKPOINT)))
    else:
        content = load_plain(file)
    weights, _ = content
    start = "embedding_net."
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
