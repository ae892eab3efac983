"""The contract between extraction and an audio-language model.

An encoder is two frozen towers. Extraction decodes and cuts waveforms to the encoder's
:class:`Window`; the encoder turns them, and prompts, into vectors of one shared space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError
from palm_cache.params import Long, Precision
from palm_cache.types import TextTower

__all__ = [
    "Encoder",
    "Long",
    "Precision",
    "TowerCall",
    "Window",
    "choose_device",
    "cpu_workers",
    "default_batch",
    "embed_prompts",
    "exact_float32",
    "full_identity",
    "hash_weights",
    "prepare_tower",
    "run_tower",
]


@dataclass(frozen=True, slots=True)
class Window:
    """How an encoder wants its waveforms cut.

    A stretch of at most ``samples * most`` is what the encoder takes for one embedding: it is cut into as few
    windows as hold it, which overlap evenly; a clip shorter than one window is padded to one.
    """

    samples: int
    """Samples of one window at the encoder's sample rate."""
    most: int
    """Windows whose embeddings the encoder averages, at most."""
    padding: Literal["tile", "repeat-pad"]
    """``tile``: repeat the clip and cut the last repetition. ``repeat-pad``: repeat the whole clip
    as often as it fits, then zeros (the CLAP processor's ``repeatpad``)."""
    long: Long = "crop"
    """What becomes of a clip longer than a stretch. ``crop``: a stretch is cut out of it. ``mean``: evenly
    spaced stretches cover it, as few as can, and their embeddings are averaged."""

    @property
    def stretch(self) -> int:
        """Samples that one embedding holds at most."""
        return self.samples * self.most


TowerCall = Callable[[Tensor], Tensor]
"""From an encoder's log-mel, on its device, to vectors, (batch, ...) -> (batch, dim of the tower)."""


class Encoder(Protocol):
    """Two frozen towers into one space; ``tests/contracts.py`` checks what is promised here.

    :meth:`embed_audio` may be called from several threads at once.
    """

    spec: str
    """What the user asked for, e.g. ``"clap:laion/clap-htsat-unfused"``."""
    dim: int
    """Length of an embedding."""
    sample_rate: int
    """Hz."""
    window: Window
    device: torch.device
    precision: Precision
    identity: Mapping[str, object]
    """Everything that decides the numbers, JSON-serialisable: hash of the weights, front-end
    constants, tokenizer, precision. The store's fingerprint is the hash of it."""
    audio_tower: TowerCall
    """The network behind the log-mel, apart so that a compiled one or another runtime can take its place."""

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Return what :attr:`audio_tower` reads of waveforms, (batch, windows, samples) -> (batch, ...)."""
        ...

    def embed_audio(self, waveforms: Tensor) -> Tensor:
        """Embed waveforms that were cut to :attr:`window`.

        Parameters
        ----------
        waveforms : Tensor, shape (batch, windows, samples)
            float32 on the CPU, mono, full scale 1.

        Returns
        -------
        Tensor, shape (batch, dim)
            float32 on the CPU, not normalised. A row depends on its own waveform only: its companions move it
        by rounding, less than 1e-5.
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


CPU_BATCH, GPU_BATCH = 4, 16
"""Stretches that go through an audio tower at once. On a CPU: activations of 4 fit its cache, those of 16
cost a third more."""


def default_batch(device: torch.device) -> int:
    """Return how many stretches suit a device."""
    return CPU_BATCH if device.type == "cpu" else GPU_BATCH


MOST_CPU_WORKERS = 16
"""With more, Python's lock would be what they wait for; beyond it they split their operations."""


def cpu_workers() -> tuple[int, int]:
    """Return how many workers embed at once on a CPU, and how many of torch's threads each of them has."""
    threads = torch.get_num_threads()
    workers = min(threads, MOST_CPU_WORKERS)
    return workers, threads // workers


def full_identity(encoder: Encoder) -> dict[str, object]:
    """Return everything that decides an encoder's numbers, its shape and window included."""
    window = encoder.window
    cut: list[object] = [window.samples, window.most, window.padding]
    return {
        **encoder.identity,
        "dim": encoder.dim,
        "sample_rate": encoder.sample_rate,
        "window": cut if window.long == "crop" else [*cut, window.long],
    }


def prepare_tower(tower: nn.Module, device: torch.device, precision: Precision) -> None:
    """Freeze a tower on its device.

    In bf16, weights that autocast would convert anew for every batch are held converted; the numbers
    are the same.
    """
    tower.eval().requires_grad_(False).to(device)
    if precision == "bf16":
        for module in tower.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(torch.bfloat16)


def run_tower(encoder: Encoder, log_mel: Tensor) -> Tensor:
    """Run an encoder's audio tower in its precision, on its device; float32."""
    with (
        exact_float32(encoder.device),
        torch.autocast(encoder.device.type, torch.bfloat16, enabled=encoder.precision == "bf16"),
    ):
        return encoder.audio_tower(log_mel).float()


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
