from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import image
from samples import write_tone

from palm_cache.errors import AudioError, ReadingError
from palm_cache.extraction.audio import snippets
from palm_cache.extraction.audio.snippets import playable, read_snippet, spectrogram


def test_a_stretch_is_read_as_it_lies_in_the_file_and_goes_into_flac_as_it_is(tmp_path: Path):
    write_tone(tmp_path / "tone.wav", 440, seconds=3, rate=22_050)
    whole, rate = soundfile.read(tmp_path / "tone.wav", dtype="float32")
    snippet = read_snippet(tmp_path / "tone.wav", 1.0, 2.5)
    assert (snippet.start, snippet.seconds, snippet.rate) == (1.0, 1.5, rate)
    np.testing.assert_array_equal(snippet.samples, whole[rate : rate * 5 // 2])
    sound, media_type = playable(snippet)
    played, played_rate = soundfile.read(BytesIO(sound), dtype="float32")
    assert (played_rate, media_type) == (rate, "audio/flac")
    np.testing.assert_allclose(played, snippet.samples, atol=2**-15)


def test_of_a_long_row_the_middle_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(snippets, "LONGEST", 2.0)
    write_tone(tmp_path / "tone.wav", 440, seconds=5)
    whole, rate = soundfile.read(tmp_path / "tone.wav", dtype="float32")
    snippet = read_snippet(tmp_path / "tone.wav", 1.0, None)
    assert (snippet.start, snippet.seconds) == (2.0, 4.0)
    np.testing.assert_array_equal(snippet.samples, whole[2 * rate : 4 * rate])


@pytest.mark.parametrize("rate", [96_001, 700_000])
def test_a_rate_that_flac_has_not_is_played_as_wav(tmp_path: Path, rate: int):
    write_tone(tmp_path / "bat.wav", 20_000, seconds=0.1, rate=rate)
    sound, media_type = playable(read_snippet(tmp_path / "bat.wav"))
    assert media_type == "audio/wav"
    assert soundfile.info(BytesIO(sound)).samplerate == rate


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="nothing here counts what is read")
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_of_a_long_file_little_but_the_row_is_read(tmp_path: Path, ending: str):
    file = tmp_path / f"night.{ending}"
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(16_000 * 300), 16_000)

    def read_so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read_so_far()
    read_snippet(file, 200.0, 201.0)
    assert read_so_far() - before < file.stat().st_size / 10


@pytest.mark.parametrize("frequency", [1000, 6000])
def test_a_tone_is_a_bright_line_at_its_frequency(tmp_path: Path, frequency: float):
    write_tone(tmp_path / "tone.wav", frequency, seconds=2)
    pixels = image.imread(BytesIO(spectrogram(read_snippet(tmp_path / "tone.wav"), width=100, height=64)))
    assert pixels.shape[:2] == (64, 100)
    brightest = pixels[:, 10:-10, :3].sum(axis=(1, 2)).argmax()  # row 0 is the top
    assert 63 - brightest == pytest.approx(64 * frequency / 8000, abs=1)


def test_a_very_short_row_and_silence_have_a_spectrogram_too(tmp_path: Path):
    soundfile.write(tmp_path / "click.wav", np.array([0.5], np.float32), 16_000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000, np.float32), 16_000)
    for name in ("click.wav", "silence.wav"):
        assert spectrogram(read_snippet(tmp_path / name)).startswith(b"\x89PNG")


def test_what_cannot_be_read_is_said(tmp_path: Path):
    write_tone(tmp_path / "tone.wav", 440)
    with pytest.raises(AudioError, match="the clip starts at 3 s, but its file ends at 1 s"):
        read_snippet(tmp_path / "tone.wav", 3.0, 4.0)
    with pytest.raises(ReadingError, match="no such file"):
        read_snippet(tmp_path / "absent.wav")
