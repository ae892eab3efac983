"""What the downmix does, and what counts as silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from palm_cache.extraction.audio.downmix import CONSTANT, SILENT, SINGLE, SoundFacts, is_silent
from palm_cache.extraction.audio.waveforms import open_regular, read_views, slide

RATE = 16_000
NOISE = np.random.default_rng(0).standard_normal((6 * RATE, 4)).astype(np.float32) / 10
TONE = 0.4 * np.sin(2 * np.pi * 440 * np.arange(6 * RATE, dtype=np.float32) / RATE)


def hear(
    path: Path, sound: np.ndarray, rate: int = RATE, samples: int = 10**9
) -> tuple[torch.Tensor, SoundFacts]:
    soundfile.write(path, sound, rate, subtype="FLOAT")
    heard = SoundFacts()
    with open_regular(path) as file:
        (waveform,) = read_views(
            file, sample_rate=RATE, samples=samples, views=1, content_sha256="", heard=heard
        )
    return waveform, heard


@pytest.mark.parametrize("samples", [10**9, RATE], ids=["whole", "crop"])
@pytest.mark.parametrize(
    ("gains", "alone"),
    [
        ((1, -1), 1),
        ((0.7, -1), 2),
        ((1, -1, 0.5, -0.5), 1),
        ((0.5, 0.5, -1), 3),
    ],
)
def test_of_channels_that_cancel_each_other_the_loudest_is_heard(
    tmp_path: Path, gains: tuple[float, ...], alone: int, samples: int
) -> None:
    sound = TONE[:, None] * np.array(gains, np.float32)
    waveform, heard = hear(tmp_path / "clip.wav", sound, samples=samples)
    start = max(0, (len(TONE) - samples) // 2)
    np.testing.assert_allclose(waveform, sound[start : start + samples, alone - 1], atol=1e-6)
    assert heard.remarks == (f"the channels cancel each other; only channel {alone} is heard",)
    assert heard.silence == ""


@pytest.mark.parametrize(
    "sound",
    [
        TONE[:, None] * np.float32([1, 1]),
        TONE[:, None] * np.float32([1, 0]),
        TONE[:, None] * np.float32([0, 0, 0, 0, 0, 1]),
        TONE[:, None] * np.float32([1, -0.3]),
        NOISE,
        NOISE[:, :2] + np.float32([0.5, -0.5]),
        np.stack([TONE, np.roll(TONE, 9)], axis=1),
    ],
    ids=["mono twice", "one of two", "one of six", "unequal", "unlike", "offsets", "shifted in phase"],
)
def test_channels_that_do_not_cancel_are_averaged(tmp_path: Path, sound: np.ndarray) -> None:
    waveform, heard = hear(tmp_path / "clip.wav", sound)
    np.testing.assert_allclose(waveform, sound.mean(axis=1), atol=1e-6)
    assert heard.remarks == ()


def test_of_a_long_recording_every_block_chooses_for_itself(tmp_path: Path) -> None:
    sound = np.tile(NOISE[:, :1], (20, 2))
    sound[60 * RATE :, 1] *= -1
    soundfile.write(tmp_path / "clip.wav", sound, RATE, subtype="FLOAT")
    heard = SoundFacts()
    with open_regular(tmp_path / "clip.wav") as file:
        windows = slide(file, sample_rate=RATE, samples=RATE, hop=RATE, heard=heard)
        for start, window in windows:
            np.testing.assert_allclose(window, sound[start : start + RATE, 0], atol=1e-6)
    assert heard.channels_alone == {1}
    assert heard.seconds == 120


@pytest.mark.parametrize("samples", [10**9, RATE], ids=["whole", "crop"])
@pytest.mark.parametrize(
    ("sound", "rate", "expected"),
    [
        (np.zeros((3 * RATE, 2)), RATE, SILENT),
        (NOISE * 1e-4, RATE, SILENT),
        (np.full(3 * RATE, 0.5), RATE, CONSTANT),
        (np.full((3 * RATE, 2), [0.5, -0.5]), RATE, CONSTANT),
        (np.full(3 * RATE, 0.5) + NOISE[: 3 * RATE, 0] * 1e-4, RATE, CONSTANT),
        (np.full(3 * RATE, -0.2), 44_100, CONSTANT),
        (np.ones(1) / 2, RATE, SINGLE),
        (np.ones((1, 2)) / 2, 8_000, SINGLE),
        (
            0.9 * np.sin(2 * np.pi * 20_000 * np.arange(3 * 48_000) / 48_000) * np.hanning(3 * 48_000),
            48_000,
            "silence up to 8 kHz, where the encoder hears; the sound of the file lies above",
        ),
    ],
    ids=["zeros", "dither", "DC", "two DCs", "DC and dither", "DC resampled", "one", "two ones", "bat"],
)
def test_silence_is_called_so_and_why(
    tmp_path: Path, sound: np.ndarray, rate: int, expected: str, samples: int
) -> None:
    _, heard = hear(tmp_path / "clip.wav", sound, rate, samples)
    assert heard.silence == expected
    assert heard.remarks == (expected,)


@pytest.mark.parametrize("gain", [3e-4, 1e-2, 1.0])
def test_quiet_is_not_silent(tmp_path: Path, gain: float) -> None:
    """Around whatever value, and in a few samples of many."""
    click = np.zeros(3 * RATE, np.float32)
    click[RATE] = 0.88
    for sound in (TONE * gain, 0.5 + TONE * gain, click * gain):
        assert hear(tmp_path / "clip.wav", sound)[1].silence == ""


def test_what_is_too_short_to_be_a_sound_is_said(tmp_path: Path) -> None:
    assert hear(tmp_path / "clip.wav", TONE[:80])[1].remarks == ("only 5 ms long",)
    assert hear(tmp_path / "clip.wav", TONE[:160])[1].remarks == ()


def test_of_nothing_nothing_is_said() -> None:
    assert SoundFacts().remarks == ()


def test_floats_that_count_steps_of_16_bits_are_remarked(tmp_path: Path) -> None:
    loud = "more than 100 times as loud as full scale; floats are to reach from -1 to 1"
    for steps in (TONE * 32768, -np.abs(TONE) * 32768):
        assert hear(tmp_path / "clip.wav", steps)[1].remarks == (loud,)
    assert hear(tmp_path / "clip.wav", TONE * 10)[1].remarks == ()


def test_a_window_is_silent_around_whatever_value() -> None:
    assert is_silent(torch.full((100,), 0.3))
    assert not is_silent(torch.tensor([0.0, 3e-4]))
