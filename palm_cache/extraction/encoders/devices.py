"""Which devices this machine has, and how much work at once suits each."""

from __future__ import annotations

import joblib
import torch

from palm_cache.errors import EncoderError
from palm_cache.params.checks import check_device

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
