"""The contract between extraction and an audio-language model.

An encoder is two frozen towers. Extraction decodes and cuts waveforms to the encoder's
:class:`Window`; the encoder turns them, and prompts, into vectors of one shared space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from palm_cache.errors import EncoderError
from palm_cache.params import Precision
from palm_cache.types import TextTower

__all__ = [
    "Encoder",
    "Precision",
    "Window",
    "choose_device",
    "embed_prompts",
    "exact_float32",
    "full_identity",
    "hash_weights",
]


@dataclass(frozen=True, slots=True)
class Window:
    """How an encoder wants its waveforms cut.

    A clip longer than ``samples * most`` is cropped to that length; what is left is cut into at
    most ``most`` windows that overlap evenly; a clip shorter than one window is padded to one.
    """

    samples: int
    """Samples of one window at the encoder's sample rate."""
    most: int
    """Windows whose embeddings the encoder averages, at most."""
    padding: Literal["tile", "repeat-pad"]
    """``tile``: repeat the clip and cut the last repetition. ``repeat-pad``: repeat the whole clip
    as often as it fits, then zeros (the CLAP processor's ``repeatpad``)."""


class Encoder(Protocol):
    """Two frozen towers into one space; ``tests/contracts.py`` checks what is promised here."""

    spec: str
    """What the user asked for, e.g. ``"clap:laion/clap-htsat-unfused"``."""
    dim: int
    """Length of an embedding."""
    sample_rate: int
    """Hz."""
    window: Window
    identity: Mapping[str, object]
    """Everything that decides the numbers, JSON-serialisable: hash of the weights, front-end
    constants, tokenizer, precision. The store's fingerprint is the hash of it."""

    def embed_audio(self, waveforms: Tensor) -> Tensor:
        """Embed waveforms that were cut to :attr:`window`.

        Parameters
        ----------
        waveforms : Tensor, shape (batch, windows, samples)
            float32 on the CPU, mono, full scale 1.

        Returns
        -------
        Tensor, shape (batch, dim)
            float32 on the CPU, not normalised. A row depends on its own waveform only.
        """
        ...

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts.

        Returns
        -------
        Tensor, shape (n_prompts, dim)
            float32 on the CPU, not normalised. A row depends on its own prompt only.

        Raises
        ------
        EncoderError
            If a prompt is longer than the text tower can read.
        """
        ...

    def text_tower(self) -> TextTower:
        """Return the text tower for prompt learning; with no context it gives :meth:`embed_text`."""
        ...


TEXT_BATCH = 64
"""Prompts that go through a text tower at once."""


@torch.inference_mode()
def embed_prompts(tower: TextTower, prompts: Sequence[str]) -> Tensor:
    """Embed prompts through a text tower, batch by batch, -> (n_prompts, dim)."""
    features = [torch.zeros(0, tower.dim)]
    for start in range(0, len(prompts), TEXT_BATCH):
        tokens = tower.tokens(prompts[start : start + TEXT_BATCH], n_context=0)
        features.append(tower.encode(tokens.embeddings, tokens))
    return torch.cat(features)


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of names, types, shapes and bytes of weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that is really there.

    Raises
    ------
    EncoderError
        If the device is unknown or absent on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise EncoderError(f"device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EncoderError(
            f"device {name!r}: {torch.cuda.device_count()} CUDA devices here; use --device auto or cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise EncoderError(f"device {name!r}: no Apple GPU here; use --device auto or cpu")
    return device


def full_identity(encoder: Encoder) -> dict[str, object]:
    """Return everything that decides an encoder's numbers, its shape and window included."""
    window = encoder.window
    return {
        **encoder.identity,
        "dim": encoder.dim,
        "sample_rate": encoder.sample_rate,
        "window": [window.samples, window.most, window.padding],
    }


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Keep CUDA from rounding float32 products to TF32, whatever the process has chosen."""
    if device.type != "cuda":
        yield
        return
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
