"""What is decoded of files: all that is there, never a part of it as the whole."""

from __future__ import annotations

import io
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sounds import RATE, SECONDS, SWEEP, all_of, encoded, faults, without_length

from palm_cache.errors import AudioError
from palm_cache.extraction.audio.streamed_headers import mend
from palm_cache.extraction.audio.waveforms import crop_start, open_regular, read_views, slide


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_is_decoded_in_blocks_and_from_its_middle_as_at_once(tmp_path: Path, mode: str) -> None:
    """A frame may lean on bits of many frames before it: libmpg123 alone does not go back far enough."""
    path = tmp_path / "clip.mp3"
    path.write_bytes(encoded("mp3", bitrate_mode=mode, compression_level=0.9))
    whole = all_of(path)
    with soundfile.SoundFile(path) as sound:
        at_once = sound.read(dtype="float32")
    np.testing.assert_allclose(whole, at_once, atol=1e-6)
    with open_regular(path) as file:
        crops = read_views(file, sample_rate=RATE, samples=RATE, views=9, content_sha256="b")
    for view, crop in enumerate(crops):
        start = crop_start(len(at_once), RATE, view, "b")
        np.testing.assert_allclose(crop, at_once[start : start + RATE], atol=1e-5)


@pytest.mark.parametrize("ending", ["ogg", "flac", "mp3", "wav"])
def test_the_end_of_a_file_is_found(tmp_path: Path, ending: str) -> None:
    """libsndfile loses its place in the last page of a Vorbis stream."""
    path = tmp_path / f"clip.{ending}"
    path.write_bytes(encoded(ending))
    whole = all_of(path)
    for start in (SECONDS - 1.5, SECONDS - 0.5, SECONDS - 0.1):
        with open_regular(path) as file:
            found = read_views(
                file, sample_rate=RATE, samples=10**9, views=1, content_sha256="", stretch=(start, None)
            )
        torch.testing.assert_close(found[0], whole[round(start * RATE) :], atol=1e-5, rtol=0)


def test_a_gsm_recording_is_read(tmp_path: Path) -> None:
    sound = SWEEP[: 8 * 8_000]
    soundfile.write(tmp_path / "clip.wav", sound, 8_000, subtype="GSM610")
    with open_regular(tmp_path / "clip.wav") as file:
        how = {"sample_rate": 8_000, "views": 3, "content_sha256": "a"}
        whole = read_views(file, samples=10**9, **how)[0]
        assert len(whole) == pytest.approx(len(sound), abs=400)
        crops = read_views(file, samples=8_000, **how)
    assert torch.equal(crops[0], whole[(len(whole) - 8_000) // 2 :][:8_000])


@pytest.mark.parametrize(
    ("form", "subtype"), [("PAF", "PCM_24"), ("SDS", "PCM_16"), ("SDS", "PCM_24"), ("AIFF", "DWVW_16")]
)
def test_a_crop_of_a_file_whose_end_libsndfile_does_not_find_by_itself_is_read(
    tmp_path: Path, form: str, subtype: str
) -> None:
    """Of PAF and SDS it gives nothing to whoever begins in the last block; in DWVW it cannot seek."""
    rate = 40_000  # SDS has whole nanoseconds between samples
    for frames in (120_000, 120_007):
        content = encoded(form, SWEEP[:frames], rate, subtype=subtype)
        (tmp_path / "clip").write_bytes(content)
        with open_regular(tmp_path / "clip") as file:
            how = {"sample_rate": rate, "views": 1, "content_sha256": ""}
            (whole,) = read_views(file, samples=10**9, **how)
            (crop,) = read_views(file, samples=rate, **how)
        assert len(whole) >= frames
        assert torch.equal(crop, whole[(len(whole) - rate) // 2 :][:rate])


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_a_wrong_rate_of_bytes_is_no_cut(tmp_path: Path, subtype: str) -> None:
    content = bytearray(encoded("wav", subtype=subtype))
    content[28:32] = struct.pack("<I", 99_999)
    (tmp_path / "clip.wav").write_bytes(content)
    assert len(all_of(tmp_path / "clip.wav")) >= len(SWEEP)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("wav", {}),
        ("wav", {"subtype": "IMA_ADPCM"}),
        ("wav", {"subtype": "GSM610"}),
        ("rf64", {}),
        ("aiff", {}),
        ("w64", {}),
        ("au", {}),
        ("caf", {}),
        ("flac", {}),
        ("ogg", {}),
        ("ogg", {"subtype": "OPUS"}),
        ("mp3", {}),
        ("mp3", {"bitrate_mode": "CONSTANT"}),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else value,
)
def test_a_long_file_that_is_cut_off_is_refused_wherever_its_crop_lies(
    tmp_path: Path, ending: str, how: dict[str, str], share: float
) -> None:
    """At 60 % the crop in the middle is there, and at 20 % it is not."""
    rate = 8_000 if how.get("subtype") == "GSM610" else 48_000 if how.get("subtype") == "OPUS" else RATE
    content = encoded(ending, rate=rate, **how)
    (tmp_path / f"clip.{ending}").write_bytes(content[: int(share * len(content))])
    for said in faults(tmp_path / f"clip.{ending}"):
        assert said.startswith("cut off"), said


def test_an_open_ogg_is_looked_through_once_however_many_stretches_are_read(tmp_path: Path) -> None:
    (tmp_path / "night.ogg").write_bytes(encoded("ogg"))

    class Counted(io.BufferedReader):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.taken += len(content)
            return content

    with Counted(io.FileIO(tmp_path / "night.ogg")) as file:
        mend(file)
        whole = file.taken
        mend(file)
        assert whole >= (tmp_path / "night.ogg").stat().st_size
        assert file.taken - whole < 100


def test_ogg_streams_in_a_row_are_refused_as_only_the_first_would_be_heard(tmp_path: Path) -> None:
    """Whether their serial numbers differ or not, as internet radio and ``cat`` leave them."""
    for name, parts in (("cat", (0, 0)), ("radio", (0, 1))):
        streams = [encoded("ogg", SWEEP[part * RATE :]) for part in parts]
        (tmp_path / f"{name}.ogg").write_bytes(b"".join(streams))
        assert faults(tmp_path / f"{name}.ogg") == {
            "several Ogg streams in one file, of which only the first can be decoded; "
            "convert it, e.g. with: ffmpeg -i FILE NEW.flac"
        }


FOREIGN = {
    "m4a": (b"\0\0\0\x20ftypM4A ", "MPEG-4 (m4a, mp4) is not read here"),
    "webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81", "Matroska or WebM is not read here"),
    "wma": (b"0&\xb2u\x8ef\xcf\x11", "Windows Media is not read here"),
    "aac": (b"\xff\xf1l@H\xbf\xfc\xde", "AAC is not read here"),
    "wv": (b"wvpk\xe4\n\x03\0", "WavPack is not read here"),
    "ape": (b"MAC \x96\x0f\0\0", "Monkey's Audio is not read here"),
    "amr": (b"#!AMR\n<\x91", "AMR is not read here"),
    "ac3": (b"\x0bw\xd1\x12\x14@", "AC-3 is not read here"),
    "wav": (b"RIFF\0\0\1\0WAVEfmt \x14\0\0\0\xff\0\1\0", "if other programs play it"),
    "oga": (encoded("ogg")[:28] + b"\x7fFLAC" + encoded("ogg")[33:], "if other programs play it"),
}


@pytest.mark.parametrize("ending", FOREIGN)
def test_audio_that_is_not_decoded_is_named_with_what_to_do(tmp_path: Path, ending: str) -> None:
    """By its content: files are called what they are not."""
    start, expected = FOREIGN[ending]
    (tmp_path / "clip.mp3").write_bytes(start.ljust(5_000, b"\x55"))
    for said in faults(tmp_path / "clip.mp3"):
        assert said.startswith("cannot be decoded: ")
        assert expected in said
        assert said.endswith(" convert it, e.g. with: ffmpeg -i FILE NEW.flac")


def test_what_is_no_audio_gets_no_such_advice(tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_text("<html>404</html>")
    assert faults(tmp_path / "clip.wav") == {"cannot be decoded: format not recognised"}
    (tmp_path / "clip.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (said,) = faults(tmp_path / "clip.wav")
    assert said.endswith("; it is a pointer of Git LFS; fetch the file itself: git lfs pull")


def test_decoders_write_nothing_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libmpg123 prints its doubts itself: about lengths, headers and broken frames."""
    rng = np.random.default_rng(0)
    mp3 = encoded("mp3")
    damaged = bytearray(mp3)
    for at in rng.integers(500, len(mp3), 300):
        damaged[at] = rng.integers(256)
    for name, content in (("cut", mp3[: len(mp3) // 2]), ("damaged", bytes(damaged)), ("twice", mp3 * 2)):
        (tmp_path / f"{name}.mp3").write_bytes(content)
        with open_regular(tmp_path / f"{name}.mp3") as file:
            try:
                list(slide(file, sample_rate=RATE, samples=RATE, hop=RATE))
            except AudioError:
                assert name != "twice"
    assert capfd.readouterr().err == ""


def test_a_stream_that_nobody_reads_to_its_end_leaves_nothing_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no /proc")
    (tmp_path / "clip.mp3").write_bytes(without_length(encoded("mp3", bitrate_mode="CONSTANT")))
    (tmp_path / "broken.mp3").write_bytes(b"\xff\xfb\x90\x64" + bytes(500_000))
    (tmp_path / "cut.mp3").write_bytes(without_length(encoded("mp3"))[:40_000] + bytes(200_000))
    before = len(list(descriptors.iterdir())), threading.active_count()
    for _ in range(3):
        for name in ("broken", "cut"):
            faults(tmp_path / f"{name}.mp3")
        with open_regular(tmp_path / "clip.mp3") as file:
            windows = slide(file, sample_rate=RATE, samples=RATE, hop=RATE)
            next(windows)
            windows.close()
    assert (len(list(descriptors.iterdir())), threading.active_count()) == before
