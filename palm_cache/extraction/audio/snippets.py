"""Rows of a dataset to be heard and seen: their sound as a browser plays it, and its spectrogram."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from palm_cache.extraction.audio.decoding import decoding
from palm_cache.extraction.audio.waveforms import Excerpt, open_regular
from palm_cache.types import Place

LONGEST = 30.0
"""Seconds of a row that are played; of a longer one its middle, which is what encoders hear."""

WINDOW = 1024
"""Samples of the spectrogram's Hann window."""

FLOOR = 80.0
"""Decibels below the loudest point at which the spectrogram ends."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """What is heard of a row."""

    samples: NDArray[np.float32]
    """(frames,) mono, full scale 1."""
    rate: int
    """Hz, of the file."""
    start: float
    """Seconds from the beginning of the file."""
    seconds: float
    """How long the whole row is."""


def read_snippet(file: Place, start: float = 0.0, end: float | None = None) -> Snippet:
    """Read a row, or its middle where it is long; of the rest of its file only what the decoder needs.

    ``start`` and ``end`` are seconds of the file, ``None`` its end.
    Raises ``AudioError`` if the file cannot be read, or ends before the row begins.
    """
    with open_regular(file) as opened, decoding(opened) as sound:
        row = Excerpt.of(sound, (start, end))
        frames = min(row.frames, round(LONGEST * sound.rate))
        begin = (row.frames - frames) // 2
        samples = row.mono(begin, begin + frames).numpy()
        return Snippet(samples, sound.rate, (row.first + begin) / sound.rate, row.heard.seconds)


def playable(snippet: Snippet) -> tuple[bytes, str]:
    """Return the sound as a file of 16 bit that every browser plays, and its media type.

    FLAC, and WAV at the few sample rates that FLAC has not.
    """
    buffer = BytesIO()
    samples = np.clip(snippet.samples, -1, 1)
    try:
        soundfile.write(buffer, samples, snippet.rate, format="FLAC", subtype="PCM_16")
    except soundfile.SoundFileError:
        buffer = BytesIO()
        soundfile.write(buffer, samples, snippet.rate, format="WAV", subtype="PCM_16")
        return buffer.getvalue(), "audio/wav"
    return buffer.getvalue(), "audio/flac"


def spectrogram(snippet: Snippet, width: int = 400, height: int = 128) -> bytes:
    """Draw the power over time and frequency as a PNG of so many pixels, low frequencies at the bottom.

    The frequencies go linearly from 0 to half the sample rate.
    """
    from matplotlib import image

    hop = max(1, len(snippet.samples) // width)
    padded = np.pad(snippet.samples, (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: hop * width : hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1)[:, 1:]) ** 2
    bands = power.reshape(len(power), height, -1).mean(axis=2).T
    loudest = bands.max(initial=1e-10)
    decibels = 10 * np.log10(np.maximum(bands, loudest * 10 ** (-FLOOR / 10)))
    buffer = BytesIO()
    image.imsave(buffer, decibels, cmap="magma", format="png", origin="lower")
    return buffer.getvalue()
