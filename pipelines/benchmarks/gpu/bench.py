"""What is measured and on what: sizes, recipes, and audio and weights made on the spot."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import joblib
import numpy as np
import soundfile
import torch
from transformers import ClapConfig

from palm_cache.extraction.encoders.devices import feeding_processes
from palm_cache.params import Recipe
from palm_cache.types import Clip
from pipelines.benchmarks.random_clap import save_random_clap, tiny_config

WAYS = {
    "bf16": Recipe(precision="bf16"),
    "tf32": Recipe(precision="tf32"),
    "fp32": Recipe(),
    "bf16 compiled": Recipe(precision="bf16", compile=True),
}
"""The recipes that are compared."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Clips of one format."""

    ending: str
    rate: int

    @property
    def name(self) -> str:
        """How the tables call it."""
        return f"{self.ending} {self.rate / 1000:g} kHz"


WAV, WAV_48, OGG = Kind("wav", 44_100), Kind("wav", 48_000), Kind("ogg", 44_100)
"""CLAP hears 48 kHz: the first and the last are resampled."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    clips: Mapping[Kind, int]
    seconds: float
    batch: int
    rounds: int
    """Batches over which the encoder alone is timed, thrice, after some that do not count."""
    device: str
    ways: Mapping[str, Recipe]
    clap: ClapConfig
    tests: tuple[str, ...]
    """Folders or files of tests."""
    max_seconds: float
    """After which nothing further is begun."""


FULL = Sizes(
    {WAV: 8192, WAV_48: 4096, OGG: 1024}, 10.0, 128, 5, "cuda", WAYS, ClapConfig(), ("tests/extraction",), 420
)

TINY = Sizes(
    {WAV: 24, WAV_48: 16, OGG: 8},
    1.0,
    2,
    1,
    "cpu",
    {"bf16": WAYS["bf16"], "fp32": WAYS["fp32"]},  # for a CPU, compiling takes minutes
    tiny_config(),
    ("tests/extraction/test_gpu.py",),
    math.inf,
)


@dataclass
class Bench:
    """What the parts share: sizes, time, and a folder of audio and weights, made when first needed."""

    sizes: Sizes
    folder: Path
    out: Path
    begun: float = field(default_factory=time.monotonic)
    ceilings: dict[str, float] = field(default_factory=dict)
    """Clips per second of an encoder alone, by the name of the way."""
    decoding: dict[Kind, float] = field(default_factory=dict)
    """Clips per second that are read, at best."""
    _sounds: dict[Kind, list[Clip]] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """Time in which something may be begun."""
        return self.begun + self.sizes.max_seconds - time.monotonic()

    @property
    def processes(self) -> int:
        """How many processes feed the device."""
        most = feeding_processes(torch.device(self.sizes.device), 10**9)
        return most if self.sizes.device != "cpu" else 2

    @cached_property
    def clap(self) -> str:
        """Spec of a CLAP with random weights."""
        save_random_clap(self.folder / "clap", self.sizes.clap)
        return f"clap:{self.folder / 'clap'}"

    def sounds(self, kind: Kind) -> list[Clip]:
        """Return the clips of a kind, no two alike."""
        if kind not in self._sounds:
            folder, count = self.folder / kind.name, self.sizes.clips[kind]
            folder.mkdir(exist_ok=True)
            parts = [range(start, min(start + 64, count)) for start in range(0, count, 64)]
            write = joblib.delayed(write_sounds)
            written = joblib.Parallel(-1)(write(folder, kind, part, self.sizes.seconds) for part in parts)
            self._sounds[kind] = [clip for clips in written for clip in clips]
        return self._sounds[kind]


def write_sounds(folder: Path, kind: Kind, numbers: range, seconds: float) -> list[Clip]:
    """Write noises of which no two are alike."""
    samples = round(kind.rate * seconds)
    noise = np.random.default_rng(0).integers(-8000, 8000, samples, dtype=np.int16)
    clips = []
    for number in numbers:
        file = folder / f"{number}.{kind.ending}"
        noise[:100] = number  # several, so that Vorbis keeps it
        soundfile.write(file, np.roll(noise, number), kind.rate)
        clips.append(Clip(file, file.name, -1))
    return clips
