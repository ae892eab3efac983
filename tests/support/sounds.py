"""Encoded sounds, and what the reader hears of them in every way of reading."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from palm_cache.errors import AudioError
from palm_cache.extraction.audio.waveforms import duration, open_regular, read_views, slide

RATE = 44_100
SECONDS = 12.0
TIME = np.arange(int(SECONDS * RATE)) / RATE
SWEEP = (0.4 * np.sin(2 * np.pi * (300 * TIME + 70 * TIME**2))).astype(np.float32)
LAYER_3_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
"""Bit rates of MPEG 1, layer 3, by their index in a frame's header."""


def encoded(ending: str, sound: np.ndarray = SWEEP, rate: int = RATE, **how: object) -> bytes:
    """Return a file's bytes."""
    buffer = io.BytesIO()
    channels = 1 if sound.ndim == 1 else sound.shape[1]
    with soundfile.SoundFile(buffer, "w", rate, channels, format=ending.upper(), **how) as file:
        # In blocks: libsndfile's Vorbis encoder overflows its stack on long arrays.
        for block in np.array_split(sound, 1 + len(sound) // rate):
            file.write(block)
    return buffer.getvalue()


def without_length(mp3: bytes) -> bytes:
    """Return an MP3 without its first frame, in which the encoder says how long it is."""
    assert mp3[:2] == b"\xff\xfb"
    assert b"Xing" in mp3[:200] or b"Info" in mp3[:200]
    frame = 144_000 * LAYER_3_KBPS[mp3[2] >> 4] // RATE + (mp3[2] >> 1 & 1)
    assert mp3[frame : frame + 2] == b"\xff\xfb"
    return mp3[frame:]


def all_of(path: Path) -> torch.Tensor:
    """Return all of a file at its own rate, and see that every way of reading it agrees."""
    with open_regular(path) as file:
        (whole,) = read_views(file, sample_rate=RATE, samples=10**9, views=1, content_sha256="")
        windows = list(slide(file, sample_rate=RATE, samples=3 * RATE, hop=3 * RATE))
        (crop,) = read_views(file, sample_rate=RATE, samples=RATE, views=1, content_sha256="")
        assert duration(file) == pytest.approx(len(whole) / RATE)
    for start, window in windows:
        torch.testing.assert_close(window, whole[start : start + 3 * RATE], atol=1e-5, rtol=0)
    middle = (len(whole) - RATE) // 2
    torch.testing.assert_close(crop, whole[middle : middle + RATE], atol=1e-5, rtol=0)
    return whole


def faults(path: Path) -> set[str]:
    """Return what is said of a file that cannot be read whole, in whatever way it is read."""
    said = set()
    for samples in (10**9, RATE):
        with open_regular(path) as file, pytest.raises(AudioError) as caught:
            read_views(file, sample_rate=RATE, samples=samples, views=1, content_sha256="")
        said.add(str(caught.value))
    with open_regular(path) as file, pytest.raises(AudioError) as caught:
        list(slide(file, sample_rate=RATE, samples=RATE, hop=RATE))
    return said | {str(caught.value)}
