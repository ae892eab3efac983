"""From a synthesised sound to a recording of it: placed, repeated, in a room, by a microphone."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.mini.world.dsp import (
    RATE,
    Sound,
    add,
    drive,
    log_uniform,
    low_pass,
    noise,
    peak,
    reverberate,
)
from pipelines.mini.world.family import Family

CLIP_SAMPLES = 3 * RATE


def record(family: Family, rng: Generator) -> NDArray[np.float32]:
    """Draw one clip of a family.

    Returns
    -------
    ndarray, shape (CLIP_SAMPLES,)
        float32, at most full scale 1.
    """
    with np.errstate(under="ignore"):
        sound = peak(trim(family.synthesise(rng)))
        clip = arrange(rng, sound, family.most_repeats)
        clip = microphone(rng, room(rng, clip))
    return (clip * log_uniform(rng, 0.05, 1.0)).astype(np.float32)


def trim(sound: Sound) -> Sound:
    """Cut off what is 60 dB below the peak, at both ends."""
    loud = np.flatnonzero(np.abs(sound) > 1e-3 * np.max(np.abs(sound)))
    return sound[loud[0] : loud[-1] + 1] if len(loud) else sound


def arrange(rng: Generator, sound: Sound, most_repeats: int) -> Sound:
    """Fill a clip: a cut of a long sound; a short one once, repeated with pauses, or tiled."""
    if len(sound) >= CLIP_SAMPLES:
        start = rng.integers(0, len(sound) - CLIP_SAMPLES + 1)
        return sound[start : start + CLIP_SAMPLES].copy()
    way = rng.random()
    if way < 0.3 or most_repeats == 1:
        rest = rng.integers(0, RATE // 3) if rng.random() < 0.3 else 0
        tile = np.concatenate([sound, np.zeros(rest)])
        return np.resize(np.roll(tile, rng.integers(len(tile)) if most_repeats == 1 else 0), CLIP_SAMPLES)
    clip = np.zeros(CLIP_SAMPLES)
    count = 1 if way < 0.6 else int(rng.integers(1, most_repeats + 1))
    pause = rng.uniform(0, 0.6)
    at = int(rng.uniform(0, 1) ** 2 * (CLIP_SAMPLES - len(sound)))
    for _ in range(count):
        add(clip, respeed(sound, rng.uniform(0.95, 1.05)), at, rng.uniform(0.6, 1))
        at += int(len(sound) + pause * rng.uniform(0.6, 1.4) * RATE)
    return clip


def respeed(sound: Sound, factor: float) -> Sound:
    """Play faster or slower."""
    return np.interp(np.arange(0, len(sound) - 1, factor), np.arange(len(sound)), sound)


def room(rng: Generator, clip: Sound) -> Sound:
    """Add the room's answer and, mostly, something in the background."""
    if rng.random() < 0.5:
        clip = reverberate(rng, clip, log_uniform(rng, 0.08, 1.8), rng.uniform(0.05, 0.6))
    if rng.random() < 0.7:
        ground = noise(rng, len(clip), rng.uniform(-9, 2))
        if rng.random() < 0.4:
            ground = ground * np.interp(np.linspace(0, 5, len(clip)), np.arange(6), rng.uniform(0.3, 1, 6))
        wanted = np.sqrt(np.mean(clip**2)) * 10 ** (-rng.uniform(-2, 40) / 20)
        clip = clip + ground * wanted / np.sqrt(np.mean(ground**2))
    return clip


def microphone(rng: Generator, clip: Sound) -> Sound:
    """Colour, saturate, band-limit and quantise; peak 1."""
    freqs = np.maximum(np.fft.rfftfreq(len(clip), 1 / RATE), 30)
    gain = (freqs / 1000) ** (rng.normal(0, 2.0) / 6.02)
    for _ in range(rng.integers(0, 3)):
        centre, width = log_uniform(rng, 80, 7000), rng.uniform(0.3, 1.2)
        gain = gain * 10 ** (rng.uniform(-9, 9) / 20 * np.exp(-((np.log2(freqs / centre) / width) ** 2)))
    clip = peak(np.fft.irfft(np.fft.rfft(clip) * gain, len(clip)))
    if rng.random() < 0.15:
        clip = drive(clip, log_uniform(rng, 1.2, 8))
    if rng.random() < 0.3:
        clip = low_pass(clip, log_uniform(rng, 2500, 7500), 4)
    if rng.random() < 0.08:
        clip = np.round(peak(clip) * 127) / 127
    return peak(clip)
