"""Weights and waveforms from nothing but their names, the same in every environment; numpy only."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fill(name: str, shape: Sequence[int]) -> NDArray[Any]:
    """Draw a weight that keeps signals alive through all layers; its name is the seed."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    spectrum = "bn0" in name  # its numbers are those of a log-mel in dB
    if name.endswith("running_mean"):
        draw = 2 * draw - 20 if spectrum else 0.1 * draw
    elif name.endswith("running_var"):
        draw = 250 + 25 * np.abs(draw) if spectrum else 1 + 0.1 * np.abs(draw)
    elif len(shape) >= 2:
        draw = draw / np.sqrt(np.prod(shape[1:]))
    else:
        draw = 1 + 0.1 * draw if name.endswith("weight") else 0.02 * draw
    return np.asarray(draw, np.float32)


def waveform(seconds: float, rate: int) -> NDArray[np.float32]:
    """Return a tone that slides, in noise that grows, (samples,)."""
    samples = round(seconds * rate)
    time = np.arange(samples) / rate
    noise = np.random.RandomState(samples).standard_normal(samples) * np.linspace(0.01, 0.1, samples)
    return (0.3 * np.sin(2 * np.pi * (300 + 40 * time) * time) + noise).astype(np.float32)
