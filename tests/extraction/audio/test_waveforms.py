from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchaudio.functional import resample

from palm_cache.errors import AudioError, ReadingError
from palm_cache.extraction.audio import waveforms
from palm_cache.extraction.audio.resampling import resampling_ratio
from palm_cache.extraction.audio.waveforms import (
    content_hash,
    crop_start,
    cut_windows,
    decoder_version,
    duration,
    open_regular,
    read_views,
    slide,
)
from palm_cache.extraction.encoders.base import Window
from palm_cache.types.audio_names import is_audio_name

RATE = 16_000


def tone(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    sound = 0.4 * np.sin(2 * np.pi * (300 * time + 40 * time**2))[:, None]
    return (sound + 0.05 * rng.standard_normal((len(time), channels))).squeeze().astype(np.float32)


def views(path: Path, *, samples: int = 10 * RATE, count: int = 1, rate: int = RATE) -> list[torch.Tensor]:
    with open_regular(path) as file:
        sha = content_hash(file)
        return read_views(file, sample_rate=rate, samples=samples, views=count, content_sha256=sha)


def reason(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        views(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("ending", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 1e-2),
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "FLOAT", 0),
        ("wav", "DOUBLE", 0),
        ("flac", "PCM_16", 1e-4),
        ("aiff", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.2),
        ("mp3", "MPEG_LAYER_III", 0.3),
    ],
)
def test_every_container_is_decoded(tmp_path: Path, ending: str, subtype: str, tolerance: float) -> None:
    sound = tone(1.0)
    soundfile.write(tmp_path / f"clip.{ending}", sound, RATE, subtype=subtype)
    decoded = views(tmp_path / f"clip.{ending}")[0]
    assert decoded.dtype == torch.float32
    assert decoded.shape == (RATE,)
    assert np.abs(decoded.numpy() - sound).max() <= tolerance


@pytest.mark.parametrize(("ending", "container"), [("sph", "NIST"), ("voc", "VOC")])
def test_files_of_old_corpora_are_sounds(tmp_path: Path, ending: str, container: str) -> None:
    file, sound = tmp_path / f"clip.{ending}", tone(1.0)
    soundfile.write(file, sound, RATE, format=container, subtype="PCM_16")
    assert is_audio_name(file)
    assert np.abs(views(file)[0].numpy() - sound).max() <= 1e-4


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_16_bits_are_decoded_to_the_numbers_of_libsndfile(tmp_path: Path, ending: str) -> None:
    sound = np.random.default_rng(0).integers(-(2**15), 2**15, 100_000, dtype=np.int16)
    sound[:3] = -(2**15), 2**15 - 1, -1
    soundfile.write(tmp_path / f"clip.{ending}", sound, RATE)
    expected, _ = soundfile.read(tmp_path / f"clip.{ending}", dtype="float32")
    np.testing.assert_array_equal(views(tmp_path / f"clip.{ending}")[0].numpy(), expected)


def test_channels_are_averaged(tmp_path: Path) -> None:
    sound = tone(0.5, channels=5)
    soundfile.write(tmp_path / "clip.wav", sound, RATE, subtype="FLOAT")
    np.testing.assert_allclose(views(tmp_path / "clip.wav")[0], sound.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 1_000, 48_001])
@pytest.mark.parametrize("new", [16_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("old", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000])
def test_resampling_is_torchaudios(tmp_path: Path, old: int, new: int, frames: int) -> None:
    sound = tone(frames / old, old).reshape(-1)
    soundfile.write(tmp_path / "clip.wav", sound, old, subtype="FLOAT")
    expected = resample(torch.from_numpy(sound), old, new)
    resampled = views(tmp_path / "clip.wav", rate=new, samples=10**9)[0]
    torch.testing.assert_close(resampled, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 8_000, 44_101, 768_000])
def test_a_crop_of_a_long_file_is_the_crop_of_the_whole(tmp_path: Path, rate: int) -> None:
    sound = tone(3.0, rate, channels=2)
    soundfile.write(tmp_path / "clip.wav", sound, rate, subtype="FLOAT")
    whole = views(tmp_path / "clip.wav", samples=10**9)[0]
    samples = 7_001
    crops = views(tmp_path / "clip.wav", samples=samples, count=4)
    with open_regular(tmp_path / "clip.wav") as file:
        sha = content_hash(file)
    for view, crop in enumerate(crops):
        start = crop_start(len(whole), samples, view, sha)
        torch.testing.assert_close(crop, whole[start : start + samples], atol=1e-5, rtol=0)
    assert crop_start(len(whole), samples, 0, sha) == (len(whole) - samples) // 2


def test_a_view_at_the_start_is_read_there_whatever_was_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(3.0), RATE, subtype="FLOAT")
    monkeypatch.setattr(waveforms, "crop_start", lambda total, samples, view, sha: [20_000, 0][view])
    whole = views(tmp_path / "clip.wav")[0]
    centre, start = views(tmp_path / "clip.wav", samples=RATE, count=2)
    assert torch.equal(centre, whole[20_000 : 20_000 + RATE])
    assert torch.equal(start, whole[:RATE])


@pytest.mark.parametrize("stretch", [(0.0, None), (0.5, 2.25), (1.0, None), (2.0, 99.0), (0.0, np.inf)])
def test_a_stretch_of_a_file_is_read_as_if_it_were_cut_out(
    tmp_path: Path, stretch: tuple[float, float | None]
) -> None:
    sound = tone(3.0, 44_100, channels=2)
    soundfile.write(tmp_path / "long.wav", sound, 44_100, subtype="FLOAT")
    start, end = round(stretch[0] * 44_100), round(min(stretch[1] or 3.0, 3.0) * 44_100)
    soundfile.write(tmp_path / "cut.wav", sound[start:end], 44_100, subtype="FLOAT")
    for samples in (10 * RATE, RATE // 2):
        with open_regular(tmp_path / "long.wav") as long, open_regular(tmp_path / "cut.wav") as cut:
            how = {"sample_rate": RATE, "samples": samples}
            found = read_views(long, **how, views=3, content_sha256="a", stretch=stretch)
            expected = read_views(cut, **how, views=3, content_sha256="a")
            assert all(map(torch.equal, found, expected))
            windows, whole = slide(long, **how, hop=999, stretch=stretch), slide(cut, **how, hop=999)
            for (at, window), (expected_at, expected_window) in zip(windows, whole, strict=True):
                assert at == expected_at
                assert torch.equal(window, expected_window)


@pytest.mark.parametrize(
    ("stretch", "expected"),
    [
        ((3.0, None), "the clip starts at 3 s, but its file ends at 1 s"),
        ((1.0, 2.0), "the clip starts at 1 s, but its file ends at 1 s"),
        ((0.5, 0.5), "the clip ends at 0.5 s, where it has not begun: it starts at 0.5 s"),
        ((0.5, 0.25), "the clip ends at 0.25 s, where it has not begun: it starts at 0.5 s"),
        ((-1.0, None), "the clip starts at -1 s"),
        ((np.nan, None), "the clip starts at nan s"),
        ((0.0, np.nan), "the clip ends at nan s, where it has not begun: it starts at 0 s"),
    ],
)
def test_a_stretch_that_is_none_is_refused(
    tmp_path: Path, stretch: tuple[float, float | None], expected: str
) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(1.0), RATE)
    with open_regular(tmp_path / "clip.wav") as file, pytest.raises(AudioError) as caught:
        read_views(file, sample_rate=RATE, samples=RATE, views=1, content_sha256="", stretch=stretch)
    assert str(caught.value) == expected


def test_views_of_a_short_clip_are_the_clip(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(0.3), RATE)
    found = views(tmp_path / "clip.wav", count=3)
    assert [len(view) for view in found] == [4_800] * 3


@given(total=st.integers(1, 10**7), samples=st.integers(1, 10**6), view=st.integers(0, 50))
def test_crops_lie_inside_the_clip_and_never_move(total: int, samples: int, view: int) -> None:
    if total >= samples:
        start = crop_start(total, samples, view, "a" * 64)
        assert 0 <= start <= total - samples
        assert start == crop_start(total, samples, view, "a" * 64)


def test_odd_rates_cost_no_memory_and_keep_the_pitch(tmp_path: Path) -> None:
    """The resampler's kernel for 44,101:16,000 as it stands would take gigabytes."""
    for rate in (44_101, 16_001, 47_999, 7_919, 767_999):
        ratio = resampling_ratio(rate, RATE)
        assert max(ratio.numerator, ratio.denominator) <= 1_000
        assert abs(float(ratio) * rate / RATE - 1) < 1e-4
    soundfile.write(tmp_path / "clip.wav", tone(1.0, 44_101), 44_101)
    assert abs(len(views(tmp_path / "clip.wav")[0]) - RATE) <= 1


def test_common_rates_are_exact() -> None:
    rates = (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000)
    for old in rates:
        for new in (16_000, 44_100, 48_000):
            assert resampling_ratio(old, new) * old == new


def test_a_long_file_is_read_where_its_view_lies(tmp_path: Path) -> None:
    """Half an hour in stereo is 230 MB as float32; a view of ten seconds must not need a tenth of that."""
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for minute in range(30):
            file.write(tone(60, channels=2, seed=minute))
    tracemalloc.start()
    try:
        found = views(path, count=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(view) for view in found] == [10 * RATE] * 2
    assert peak < 20e6


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "cannot be decoded: format not recognised"),
        (b"RIFF\x00\x00\x00\x00WAVE", "cannot be decoded"),
        (os.urandom(4096), "cannot be decoded"),
    ],
    ids=["empty", "web page", "bare header", "noise"],
)
def test_what_is_no_audio_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "clip.wav").write_bytes(content)
    assert expected in reason(tmp_path / "clip.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(tmp_path: Path, value: float) -> None:
    sound = tone(0.5)
    sound[100] = value
    soundfile.write(tmp_path / "clip.wav", sound, RATE, subtype="FLOAT")
    assert reason(tmp_path / "clip.wav") == "NaN or infinity among the samples"


@pytest.mark.parametrize("rate", [999, 768_001])
def test_sample_rates_that_make_no_sense_are_refused(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(0.1), rate)
    assert f"a sample rate of {rate} Hz makes no sense" in reason(tmp_path / "clip.wav")


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to("/dev/zero")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    assert reason(tmp_path / "folder.wav") == "a directory, not a file"
    assert reason(tmp_path / "pipe.wav") == "a named pipe, not a file"
    assert reason(tmp_path / "link.wav") == "a device, not a file"
    assert reason(tmp_path / "nothing.wav") == "no such file"
    assert "cannot be opened" in reason(tmp_path / "loop.wav")
    assert "cannot be opened" in reason(tmp_path / "nul\0.wav")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff", "w64"])
def test_a_disk_that_fails_is_not_the_contents_fault(tmp_path: Path, ending: str) -> None:
    """A directory in the file's place: every read of it fails, as on a disk or share that is away."""
    with soundfile.SoundFile(tmp_path / f"clip.{ending}", "w", RATE, 1) as sound:
        for second in np.array_split(tone(65.0), 65):
            sound.write(second)
    directory = os.open(tmp_path, os.O_RDONLY)
    with open_regular(tmp_path / f"clip.{ending}") as file:
        windows = slide(file, sample_rate=RATE, samples=RATE, hop=RATE)
        next(windows)
        os.dup2(directory, file.fileno())
        with pytest.raises(ReadingError, match="cannot be"):
            list(windows)
        with pytest.raises(ReadingError, match="cannot be"):
            duration(file)
    os.close(directory)


def test_only_what_its_bytes_say_is_the_contents_fault(tmp_path: Path) -> None:
    (tmp_path / "page.wav").write_text("<html>")
    (tmp_path / "empty.wav").touch()
    for name in ("absent.wav", "nul\0.wav", "."):
        with pytest.raises(ReadingError):
            views(tmp_path / name)
    for name in ("page.wav", "empty.wav"):
        with pytest.raises(AudioError) as caught:
            views(tmp_path / name)
        assert not isinstance(caught.value, ReadingError)


def test_a_failure_can_be_recorded_beside_what_decoded() -> None:
    assert decoder_version().startswith(f"libsndfile {soundfile.__libsndfile_version__}, soundfile ")


@given(length=st.integers(1, 700), samples=st.integers(1, 100), most=st.integers(1, 6), tile=st.booleans())
def test_windows_cover_a_clip_from_its_first_sample_to_its_last(
    length: int, samples: int, most: int, tile: bool
) -> None:
    window = Window(samples, most, "tile" if tile else "repeat-pad")
    waveform = torch.arange(1.0, length + 1)
    windows = cut_windows(waveform, window)
    assert windows.shape == (min(most, max(1, -(-length // samples))), samples)
    if samples <= length <= samples * most:
        assert windows[0, 0] == 1
        assert windows[-1, -1] == length
        assert set(waveform.tolist()) == set(windows.flatten().tolist())


def test_short_clips_are_tiled_or_repeated_and_padded() -> None:
    waveform = torch.tensor([1.0, 2.0, 3.0])
    assert cut_windows(waveform, Window(8, 1, "tile")).tolist() == [[1, 2, 3, 1, 2, 3, 1, 2]]
    assert cut_windows(waveform, Window(8, 1, "repeat-pad")).tolist() == [[1, 2, 3, 1, 2, 3, 0, 0]]


def test_all_of_a_real_messy_collection_is_decoded(game_sfx: Path) -> None:
    files = sorted((game_sfx / "audios").iterdir())
    for file in files[::8]:
        waveform = views(file, samples=12 * RATE)[0]
        assert torch.isfinite(waveform).all()
        assert 0 < len(waveform) <= 12 * RATE


def windows_of(path: Path, *, samples: int, hop: int) -> list[tuple[int, torch.Tensor]]:
    with open_regular(path) as file:
        return list(slide(file, sample_rate=RATE, samples=samples, hop=hop))


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
@pytest.mark.parametrize(("samples", "hop"), [(32_000, 32_000), (20_000, 7_001), (700_000, 100_000)])
def test_windows_of_a_recording_are_those_of_the_whole(
    tmp_path: Path, rate: int, samples: int, hop: int
) -> None:
    """Over more than one block, with and without overlap, and with windows longer than a block."""
    soundfile.write(tmp_path / "clip.wav", tone(71.3, rate), rate, subtype="FLOAT")
    whole = views(tmp_path / "clip.wav", samples=10**9)[0]
    found = windows_of(tmp_path / "clip.wav", samples=samples, hop=hop)
    starts = [start for start, _ in found]
    assert starts[:-1] == list(range(0, len(whole) - samples, hop))
    assert starts[-1] == len(whole) - samples
    for start, window in found:
        torch.testing.assert_close(window, whole[start : start + samples], atol=1e-5, rtol=0)


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3"])
def test_windows_of_a_compressed_recording_are_those_of_the_whole(tmp_path: Path, ending: str) -> None:
    # In blocks: libsndfile's Vorbis encoder overflows its stack on long arrays.
    with soundfile.SoundFile(tmp_path / f"clip.{ending}", "w", 44_100, 1) as sound:
        for second in np.array_split(tone(65.0, 44_100), 65):
            sound.write(second)
    whole = views(tmp_path / f"clip.{ending}", samples=10**9)[0]
    found = windows_of(tmp_path / f"clip.{ending}", samples=RATE, hop=RATE)
    assert len(found) == 65
    for start, window in found:
        torch.testing.assert_close(window, whole[start : start + RATE], atol=1e-3, rtol=0)


def test_a_recording_shorter_than_a_window_is_one_window(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(0.3), RATE, subtype="FLOAT")
    ((start, window),) = windows_of(tmp_path / "clip.wav", samples=RATE, hop=RATE)
    assert start == 0
    assert torch.equal(window, views(tmp_path / "clip.wav")[0])


def test_windows_before_the_damage_are_read(tmp_path: Path) -> None:
    sound = tone(70.0)
    sound[65 * RATE] = np.nan
    soundfile.write(tmp_path / "clip.wav", sound, RATE, subtype="FLOAT")
    with open_regular(tmp_path / "clip.wav") as file:
        windows = slide(file, sample_rate=RATE, samples=RATE, hop=RATE)
        assert [next(windows)[0] for _ in range(60)] == [RATE * second for second in range(60)]
        with pytest.raises(AudioError, match="NaN or infinity among the samples"):
            next(windows)


def test_sliding_over_a_long_recording_needs_no_more_memory_than_over_a_short_one(tmp_path: Path) -> None:
    peaks = []
    for minutes in (1, 10):
        with soundfile.SoundFile(tmp_path / f"{minutes}.flac", "w", 8_000, 1) as sound:
            for minute in range(minutes):
                sound.write(tone(60.0, 8_000, seed=minute))
        with open_regular(tmp_path / f"{minutes}.flac") as file:
            tracemalloc.start()
            assert sum(1 for _ in slide(file, sample_rate=8_000, samples=8_000, hop=8_000)) == 60 * minutes
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_the_duration_is_the_headers(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.flac", tone(1.25, 44_100), 44_100)
    with open_regular(tmp_path / "clip.flac") as file:
        assert duration(file) == pytest.approx(1.25)
