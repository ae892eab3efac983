"""From channels to one, and what is left of the sound then: nothing that is lost goes unsaid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palm_cache.errors import AudioError
from palm_cache.extraction.audio.decoding import Sound

SILENT_PEAK = 1e-4
"""-80 dB of full scale, three steps of 16 bit: nothing but dither below it."""

CANCELLED_SHARE = 0.1
"""Channels cancel each other where their sum has less than this share of the sum of their powers. Channels
that have nothing to do with each other have all of it, and so has one that sounds alone."""

LOUD_PEAK = 100.0
"""40 dB above full scale: nobody mixes like that, but floats that count steps of 16 bits are as loud."""

SHORT_SECONDS = 0.01
"""Below this no sound can be told from a click."""

CANCELLED = "the channels cancel each other; only channel {} is heard"
SILENT = "nothing but silence: the peak is below -80 dB of full scale"
CONSTANT = "nothing but a constant value, which is silence"
LOUD = f"more than {LOUD_PEAK:g} times as loud as full scale; floats are to reach from -1 to 1"
SINGLE = "a single sample, which is no sound"


@dataclass(slots=True)
class SoundFacts:
    """What a file was like before it was mixed down and resampled, and what an encoder gets of it.

    Made by the caller, filled by :func:`~palm_cache.extraction.audio.waveforms.read_views` and
    :func:`~palm_cache.extraction.audio.waveforms.slide`.
    """

    rate: int = 0
    """Hz, of the file."""
    seconds: float = 0.0
    """How long the clip is, read or not."""
    frames: int = 0
    """Frames that were read."""
    low: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """(channels,) smallest sample."""
    high: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """(channels,) largest sample."""
    channels_alone: set[int] = field(default_factory=set)
    """Channels that were read alone, because all together cancel each other; the first is 1."""
    swing: float = 0.0
    """Half the distance from the lowest to the highest sample that an encoder of a lower rate gets."""
    encoder_rate: int = 0
    """Hz, of what that encoder gets."""

    def add(self, channels: NDArray[np.float32]) -> None:
        """Take note of a block (channels, frames) of the file."""
        low, high = np.minimum.reduce(channels, axis=1), np.maximum.reduce(channels, axis=1)
        self.low = np.minimum(self.low, low) if self.frames else low
        self.high = np.maximum(self.high, high) if self.frames else high
        self.frames += channels.shape[1]

    def get(self, waveform: Tensor, rate: int) -> None:
        """Take note of a waveform as an encoder gets it: with less of it where its rate is lower."""
        if rate < self.rate:
            self.swing, self.encoder_rate = max(self.swing, swing(waveform)), rate

    @property
    def silence(self) -> str:
        """Say why nothing can be heard of what was read; "" if something can, or nothing was read."""
        if not self.frames:
            return ""
        if float(np.maximum.reduce(self.high - self.low)) / 2 >= SILENT_PEAK:
            if not self.encoder_rate or self.swing >= SILENT_PEAK:
                return ""
            limit = self.encoder_rate / 2_000
            return f"silence up to {limit:g} kHz, where the encoder hears; the sound of the file lies above"
        if float(np.abs(self.high).max()) < SILENT_PEAK:
            return SILENT
        return SINGLE if self.frames == 1 else CONSTANT

    @property
    def remarks(self) -> tuple[str, ...]:
        """Say what should be known about a clip that is used all the same, silence included."""
        lines = [silence] if (silence := self.silence) else []
        if self.channels_alone:
            names = " or ".join(map(str, sorted(self.channels_alone)))
            lines.append(CANCELLED.format(names))
        if self.frames and float(np.maximum(self.high, -self.low).max()) > LOUD_PEAK:
            lines.append(LOUD)
        if not lines and self.frames < SHORT_SECONDS * self.rate:
            lines.append(f"only {1_000 * self.frames / self.rate:.2g} ms long")
        return tuple(lines)


def swing(waveform: Tensor) -> float:
    """Return half the distance from the lowest to the highest sample: the peak, wherever zero lies."""
    samples: NDArray[np.float32] = waveform.numpy()
    return float(np.maximum.reduce(samples) - np.minimum.reduce(samples)) / 2


def is_silent(waveform: Tensor) -> bool:
    """Tell whether a waveform never leaves the floor of :data:`SILENT_PEAK`, around whatever value."""
    return swing(waveform) < SILENT_PEAK


def read_mono(sound: Sound, first: int, last: int, heard: SoundFacts) -> Tensor:
    """Return frames ``first`` to ``last`` as the mean of the channels, (frames,) float32.

    Where that loses most of the power, as in stereo of opposite phase, it is the loudest channel.
    """
    parts: list[NDArray[np.float32]] = []
    products = np.zeros((sound.channels, sound.channels))
    for block in sound.blocks(first, last):
        channels = np.ascontiguousarray(block.T)  # one after the other: many times quicker to look at
        heard.add(channels)
        if sound.channels == 1:
            parts.append(channels[0])
        else:
            with np.errstate(invalid="ignore", over="ignore"):
                parts.append(block.mean(axis=1))
                channels -= channels.mean(axis=1, keepdims=True)
                products += channels @ channels.T
    mono = parts[0] if len(parts) == 1 else np.concatenate(parts)
    # The extremes of one channel are NaN or infinite if a sample is; a mean may be infinite by itself.
    extremes = (heard.low, heard.high) if sound.channels == 1 else mono
    if not np.isfinite(extremes).all():
        raise AudioError("NaN or infinity among the samples")
    loudest = _loudest_if_cancelled(products) if sound.channels > 1 else None
    if loudest is not None:
        heard.channels_alone.add(loudest + 1)
        mono = np.concatenate([block[:, loudest] for block in sound.blocks(first, last)])
    return torch.from_numpy(mono)


def _loudest_if_cancelled(products: NDArray[np.float64]) -> int | None:
    """Return the loudest channel if the channels cancel each other, by the sums of their products."""
    powers = products.diagonal()
    if not products.sum() < CANCELLED_SHARE * powers.sum():
        return None
    # Of channels that differ by rounding only, the first.
    return int(np.argmax(powers >= 0.999999 * powers.max()))
