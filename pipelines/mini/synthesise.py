"""The training set: every family recorded many times, kept as mel power."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from palm_cache.extraction.encoders.mini_towers import MelFrontEnd
from pipelines.mini.world import FAMILIES, record

CHUNK = 60  # clips per task
SMALLEST = 1e-7  # mel power relative to the clip's mean: below what float16 and the encoder tell apart


def world_mels(clips: int, seed: int, cache: Path, jobs: int) -> NDArray[np.float16]:
    """Return log10 mel power of the training set, from the cache if it is there.

    Clip i is of family ``i % len(FAMILIES)`` and drawn from the seed ``(seed, i)``, so it does not
    depend on how the work was spread.

    Returns
    -------
    ndarray, shape (clips, frames, mels)
        float16, relative to the mean of each clip.
    """
    path = cache / f"world-{_source_digest()}-{clips}-seed{seed}.npy"
    if path.exists():
        return np.load(path)
    starts = range(0, clips, CHUNK)
    tasks = (joblib.delayed(_record_mels)(start, min(start + CHUNK, clips), seed) for start in starts)
    parts: list[NDArray[np.float16]] = []
    for part in joblib.Parallel(n_jobs=jobs, return_as="generator")(tasks):
        parts.append(part)
        done = sum(map(len, parts))
        print_progress("synthesised", done, clips)
    mels = np.concatenate(parts)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, mels)
    return mels


def _source_digest() -> str:
    """Hash the code of the world, so that a changed family is never taken from an old cache."""
    folder = Path(__file__).with_name("world")
    content = b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))
    return hashlib.sha256(content).hexdigest()[:12]


def _record_mels(start: int, stop: int, seed: int) -> NDArray[np.float16]:
    torch.set_num_threads(1)
    clips = [
        record(FAMILIES[i % len(FAMILIES)], np.random.default_rng((seed, i))) for i in range(start, stop)
    ]
    power = MelFrontEnd()(torch.from_numpy(np.stack(clips)))
    level = power.mean((1, 2), keepdim=True)
    return torch.log10(power / (level + 1e-12) + SMALLEST).half().numpy()


def print_progress(what: str, done: int, total: int, note: str = "") -> None:
    """Draw a progress bar on stderr."""
    bar = "#" * (30 * done // total)
    end = "\n" if done >= total else ""
    sys.stderr.write(f"\r{what} [{bar:<30}] {done}/{total} {note}{end}")
    sys.stderr.flush()
