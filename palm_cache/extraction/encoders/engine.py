"""What computes an encoder's towers: which device, in which precision, through which runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import joblib
import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError
from palm_cache.params import Precision, Recipe, Runtime
from palm_cache.params.checks import check_device

TowerCall = Callable[[Tensor], Tensor]
"""From what an encoder's front end gives, on its device, to vectors."""

CPU_BATCH, GPU_BATCH = 4, 128
"""Stretches that go through an audio tower at once. On a CPU: activations of 4 fit its cache, those of 16
cost a third more. On a GPU the launches of 4 cost as much as those of 128."""

MAX_CPU_WORKERS = 16
"""With more, Python's lock would be what they wait for; beyond it they split their operations."""

MAX_READERS = 4
"""Threads that read files beside each other in one process that feeds a GPU. Each clip needs Python's lock
some hundred times, and handing it over is what more threads wait for: on 16 cores, 4 of them read 513 clips/s
and 16 only 498."""

READERS_A_PROCESS = 2
"""Where several processes feed a GPU."""

CLIPS_A_PROCESS = 2048
"""Clips that make up for the start of a process that feeds a GPU, some ten seconds."""

MEMORY_A_PROCESS = 8 << 30
"""Bytes of a GPU that a process may take."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where and how towers compute; encoders are made with one, none is changed afterwards."""

    device: torch.device
    precision: Precision = "fp32"
    runtime: Runtime = "torch"
    compiled: bool = False
    """Whether torch compiles the audio tower."""

    @classmethod
    def of(cls, recipe: Recipe, device: str = "auto") -> Engine:
        """Choose what a recipe asks for on this machine.

        Raises
        ------
        EncoderError
            If the device, the runtime or a compiler is not there.
        """
        if recipe.runtime == "openvino":
            from palm_cache.extraction.encoders.openvino import check_openvino, openvino_device

            check_openvino(recipe.precision)
            chosen = openvino_device(device)
        else:
            chosen = choose_device(device)
        if recipe.compile:
            from palm_cache.extraction.encoders.compiled import check_compiler

            check_compiler(chosen)
        return cls(chosen, recipe.precision, recipe.runtime, recipe.compile)

    @property
    def identity(self) -> dict[str, object]:
        """What of it decides numbers beyond rounding."""
        identity: dict[str, object] = {"precision": self.precision}
        if self.runtime == "openvino":
            from palm_cache.extraction.encoders.openvino import release

            identity["runtime"] = f"openvino {release()}"
        if self.compiled and self.precision == "bf16":
            # In fp32 it moves embeddings by rounding, 1e-7, as they do from machine to machine; in bf16 a
            # compiled tower rounds less often.
            identity["compiled"] = True
        return identity

    @property
    def text(self) -> Engine:
        """What computes the text tower: torch, in full precision where OpenVINO has the audio tower."""
        precision: Precision = "fp32" if self.runtime == "openvino" else self.precision
        return replace(self, precision=precision, runtime="torch", compiled=False)

    def tower(self, tower: nn.Module, key: Callable[[], str]) -> TowerCall:
        """Make an audio tower ready to compute here.

        Parameters
        ----------
        tower : nn.Module
            In full precision.
        key : callable
            Gives what names its converted form among those that are kept.
        """
        if self.runtime == "openvino":
            from palm_cache.extraction.encoders.openvino import OpenVinoTower

            freeze(tower, self.device)
            return OpenVinoTower(tower, key(), self.precision)
        freeze(tower, self.device, self.precision)
        if self.compiled:
            from palm_cache.extraction.encoders.compiled import CompiledTower

            return CompiledTower(tower, self.device)
        return tower

    @contextmanager
    def products(self) -> Iterator[None]:
        """Compute float32 products as the precision says, whatever the process has chosen.

        Exactly, but for ``tf32`` on NVIDIA's GPUs; a device without TF32 computes exactly there too.
        """
        precision = "tf32" if self.precision == "tf32" and self.device.type == "cuda" else "ieee"
        backends = _product_backends()
        before = [backend.fp32_precision for backend in backends]
        for backend in backends:
            backend.fp32_precision = precision
        try:
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value

    @contextmanager
    def lowered(self) -> Iterator[None]:
        """Compute a tower in the precision: :meth:`products`, and autocast for bf16."""
        with (
            self.products(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            yield


CPU = Engine(torch.device("cpu"))
"""Torch in full precision on the CPU."""


def _product_backends() -> list[Any]:
    """Return torch's switches for float32 products; on CPUs a process may have chosen bf16 for them."""
    backends: Any = torch.backends
    switches = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    if torch.cuda.is_available():
        switches += [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    return switches


def freeze(tower: nn.Module, device: torch.device, precision: Precision = "fp32") -> None:
    """Put a tower on its device for good.

    In bf16, weights that autocast would convert anew for every batch are held converted; the numbers
    are the same.
    """
    tower.eval().requires_grad_(False).to(device)
    if precision == "bf16":
        for module in tower.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(torch.bfloat16)


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that is really there.

    Raises
    ------
    ParameterError
        If there is no such kind of device.
    EncoderError
        If it is absent on this machine.
    """
    check_device(name)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EncoderError(
            f"device {name!r}: {torch.cuda.device_count()} CUDA devices here; set `device` to auto or cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise EncoderError(f"device {name!r}: no Apple GPU here; set `device` to auto or cpu")
    return device


def default_batch(device: torch.device) -> int:
    """Return how many stretches suit a device."""
    return CPU_BATCH if device.type == "cpu" else GPU_BATCH


def n_readers(device: torch.device) -> int:
    """Return how many threads read files in this process."""
    threads = torch.get_num_threads()
    return threads if device.type == "cpu" else min(threads, MAX_READERS)


def feeding_processes(device: torch.device, n_clips: int) -> int:
    """Return how many processes embed so many clips on one device."""
    if device.type != "cuda":
        return 1
    room: int = torch.cuda.get_device_properties(device).total_memory // MEMORY_A_PROCESS
    cores: int = joblib.cpu_count()
    return max(1, min(cores // READERS_A_PROCESS, room, n_clips // CLIPS_A_PROCESS))


def cpu_workers() -> tuple[int, int]:
    """Return how many workers embed at once on a CPU, and how many of torch's threads each of them has."""
    threads = torch.get_num_threads()
    workers = min(threads, MAX_CPU_WORKERS)
    return workers, threads // workers
