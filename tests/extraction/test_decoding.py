"""What is decoded of files whose headers are wrong: all that is there, never a part of it as the whole."""

from __future__ import annotations

import io
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from palm_cache.errors import AudioError
from palm_cache.extraction.audio import crop_start, duration, open_regular, read_views, slide

RATE = 44_100
SECONDS = 12.0
TIME = np.arange(int(SECONDS * RATE)) / RATE
SWEEP = (0.4 * np.sin(2 * np.pi * (300 * TIME + 70 * TIME**2))).astype(np.float32)
LAME_DELAY = 576 + 529
"""Samples that LAME puts in front, and a decoder's own."""
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


def in_a_wav(mp3: bytes) -> bytes:
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8_000, 1, 0, 12, 1, 2, 417, 1, 0)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(mp3)) + mp3
    notes = bytes(len(mp3) % 2) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(notes)) + b"WAVE" + chunks + notes


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


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("wrapping", ["bare", "tagged", "in a WAV", "twice"])
def test_an_mp3_that_does_not_say_how_long_it_is_is_heard_to_its_end(
    tmp_path: Path, mode: str, wrapping: str
) -> None:
    """Loud first, so that a guess from the first frames is far too short, or the other way round."""
    for name, order in (("loud first", slice(None)), ("quiet first", slice(None, None, -1))):
        sound = SWEEP * np.linspace(1, 0, len(SWEEP), dtype=np.float32) ** 4
        told = encoded("mp3", sound[order], bitrate_mode=mode, compression_level=0.5)
        mp3 = without_length(told)
        seconds = SECONDS
        if wrapping == "tagged":
            mp3 = b"ID3\x03\0\0" + bytes([0, 20, 0, 0]) + b"\xff\xfb\x90\x64" * (20 * 2**14 // 4) + mp3
            mp3 += b"TAG".ljust(128, b"x")
        elif wrapping == "in a WAV":
            mp3 = in_a_wav(mp3)
        elif wrapping == "twice":
            mp3, seconds = mp3 + mp3, 2 * SECONDS
        (tmp_path / f"{name}.mp3").write_bytes(mp3)
        whole = all_of(tmp_path / f"{name}.mp3")
        assert len(whole) / RATE == pytest.approx(seconds, abs=0.2)
        # Without its first frame nobody knows how many samples the encoder put in front.
        expected = soundfile.read(io.BytesIO(told), dtype="float32")[0]
        heard = whole[LAME_DELAY : LAME_DELAY + len(expected)]
        np.testing.assert_allclose(heard, expected[: len(heard)], atol=1e-4)


def test_an_mp3_behind_another_is_heard_too(tmp_path: Path) -> None:
    """The first frame of the first tells its own length only."""
    mp3 = encoded("mp3")
    for name, content in (("plain", mp3 + mp3), ("tags", mp3 + b"TAG".ljust(128, b"x") + mp3)):
        (tmp_path / f"{name}.mp3").write_bytes(content)
        assert len(all_of(tmp_path / f"{name}.mp3")) / RATE == pytest.approx(2 * SECONDS, abs=0.2)


def test_what_lies_behind_an_mp3_and_is_none_is_not_heard(tmp_path: Path) -> None:
    (tmp_path / "clip.mp3").write_bytes(encoded("mp3") + b"APETAGEX" + b"\xff\xfb\x90\x64picture" * 20_000)
    assert len(all_of(tmp_path / "clip.mp3")) == len(SWEEP)


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


def wav_with(riff: int, data: int, content: bytes) -> bytes:
    patched = bytearray(content)
    at = content.index(b"data") + 4
    patched[4:8], patched[at : at + 4] = struct.pack("<I", riff), struct.pack("<I", data)
    return bytes(patched)


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "IMA_ADPCM"])
@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0, 0),
        (36, 0),
        (0x7FFFF024, 0x7FFFF000),
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (0x80000024, 0x80000000),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF - 44),
        ("size", "size"),
        ("size", 0),
    ],
)
def test_a_wav_of_a_stream_is_read_whole(
    tmp_path: Path, subtype: str, riff: int | str, data: int | str
) -> None:
    content = encoded("wav", SWEEP[: 4 * RATE], subtype=subtype)
    (tmp_path / "whole.wav").write_bytes(content)
    size = len(content)
    patched = wav_with(*(size if number == "size" else number for number in (riff, data)), content)
    (tmp_path / "clip.wav").write_bytes(patched)
    expected, whole = all_of(tmp_path / "whole.wav"), all_of(tmp_path / "clip.wav")
    torch.testing.assert_close(whole[: len(expected)], expected, atol=0, rtol=0)
    assert len(whole) - len(expected) < 600  # less than a block of ADPCM


def test_a_recording_of_nothing_has_nothing_whatever_comes_behind(tmp_path: Path) -> None:
    content = encoded("wav", SWEEP[:0])
    for name, behind in (("bare", b""), ("noted", b"LIST" + struct.pack("<I", 5_000) + bytes(5_000))):
        (tmp_path / f"{name}.wav").write_bytes(content + behind)
        assert faults(tmp_path / f"{name}.wav") == {"no audio in it (zero frames)"}


@pytest.mark.parametrize("stream", ["rf64", "rf64 ones", "w64", "aiff", "au", "caf", "flac"])
def test_other_streams_of_unknown_length_are_read_whole(tmp_path: Path, stream: str) -> None:
    endless = stream.split()[0]
    content = encoded(endless, SWEEP[: 4 * RATE])
    (tmp_path / f"whole.{endless}").write_bytes(content)
    patched = bytearray(content)
    unknown = {
        "rf64": [(b"ds64", 8, bytes(24))],
        "rf64 ones": [(b"ds64", 8, b"\xff" * 24)],
        "w64": [(b"riff", 16, b"\xff" * 8)],
        "aiff": [
            (b"FORM", 4, b"\x7f\0\0\x48"),
            (b"SSND", 4, b"\x7f\0\0\x08"),
            (b"COMM", 10, b"\x3f\x80\0\0"),
        ],
        "au": [(b".snd", 8, b"\xff" * 4)],
        "caf": [(b"data", 4, b"\xff" * 8)],
        "flac": [(b"fLaC", 21, bytes([content[21] & 0xF0]) + bytes(4))],
    }
    for chunk, offset, size in unknown[stream]:
        at = content.index(chunk) + offset
        patched[at : at + len(size)] = size
    assert bytes(patched) != content
    (tmp_path / f"clip.{endless}").write_bytes(patched)
    assert torch.equal(all_of(tmp_path / f"clip.{endless}"), all_of(tmp_path / f"whole.{endless}"))


@pytest.mark.parametrize("size", [0xFFFFFFFF, "wrapped", 0])
def test_a_wav_beyond_four_gigabytes_is_heard_to_its_end(tmp_path: Path, size: int | str) -> None:
    """Its header has no room for its size. A sparse file: two tones in 4.4 GB of nothing."""
    path, seconds = tmp_path / "night.wav", 50_000
    head = encoded("wav", SWEEP[:0])
    sound_bytes = seconds * RATE * 2
    with path.open("wb") as file:
        declared = sound_bytes % 2**32 if size == "wrapped" else size
        file.write(wav_with(declared, declared, head))
        for second in (seconds // 2 - 1, seconds - 2):
            file.seek(len(head) + second * RATE * 2)
            file.write((SWEEP[: 2 * RATE] * 32_767).astype("<i2").tobytes())
    assert path.stat().st_size == len(head) + sound_bytes > 2**32
    with open_regular(path) as file:
        assert duration(file) == seconds
        for stretch in (None, (seconds - 2.0, None)):
            (view,) = read_views(
                file, sample_rate=RATE, samples=2 * RATE, views=1, content_sha256="", stretch=stretch
            )
            np.testing.assert_allclose(view, SWEEP[: 2 * RATE], atol=1e-4)


def test_a_gsm_recording_is_read(tmp_path: Path) -> None:
    sound = SWEEP[: 8 * 8_000]
    soundfile.write(tmp_path / "clip.wav", sound, 8_000, subtype="GSM610")
    with open_regular(tmp_path / "clip.wav") as file:
        how = {"sample_rate": 8_000, "views": 3, "content_sha256": "a"}
        whole = read_views(file, samples=10**9, **how)[0]
        assert len(whole) == pytest.approx(len(sound), abs=400)
        crops = read_views(file, samples=8_000, **how)
    assert torch.equal(crops[0], whole[(len(whole) - 8_000) // 2 :][:8_000])


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
        assert said.startswith(("cut off", "cannot be decoded: flac decoder lost sync")), said


def test_an_mp3_that_does_not_say_how_long_it_is_is_not_cut_short_by_damage(tmp_path: Path) -> None:
    mp3 = without_length(encoded("mp3"))
    middle = len(mp3) // 2
    (tmp_path / "clip.mp3").write_bytes(mp3[:middle] + bytes(200_000) + mp3[middle:])
    for said in faults(tmp_path / "clip.mp3"):
        assert said.startswith("cut off or damaged: it can be decoded up to ")


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
