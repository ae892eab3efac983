"""What is heard of files whose headers do not know how long they are: all that is there."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sounds import RATE, SECONDS, SWEEP, all_of, encoded, faults, without_length

from palm_cache.extraction.audio.waveforms import duration, open_regular, read_views

LAME_DELAY = 576 + 529
"""Samples that LAME puts in front, and a decoder's own."""


def in_a_wav(mp3: bytes) -> bytes:
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8_000, 1, 0, 12, 1, 2, 417, 1, 0)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(mp3)) + mp3
    notes = bytes(len(mp3) % 2) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(notes)) + b"WAVE" + chunks + notes


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


def test_an_mp3_whose_writer_was_killed_is_heard_to_its_end(tmp_path: Path) -> None:
    """ffmpeg leaves room for the counts in the first frame and fills them in at the end."""
    content = bytearray(encoded("mp3"))
    at = content.index(b"Xing") + 8
    content[at : at + 108] = bytes(108)
    (tmp_path / "clip.mp3").write_bytes(content)
    assert len(all_of(tmp_path / "clip.mp3")) / RATE == pytest.approx(SECONDS, abs=0.2)


def test_an_mp3_behind_another_is_heard_too(tmp_path: Path) -> None:
    """The first frame of the first tells its own length only."""
    mp3 = encoded("mp3")
    for name, content in (("plain", mp3 + mp3), ("tags", mp3 + b"TAG".ljust(128, b"x") + mp3)):
        (tmp_path / f"{name}.mp3").write_bytes(content)
        assert len(all_of(tmp_path / f"{name}.mp3")) / RATE == pytest.approx(2 * SECONDS, abs=0.2)


def test_what_lies_behind_an_mp3_and_is_none_is_not_heard(tmp_path: Path) -> None:
    (tmp_path / "clip.mp3").write_bytes(encoded("mp3") + b"APETAGEX" + b"\xff\xfb\x90\x64picture" * 20_000)
    assert len(all_of(tmp_path / "clip.mp3")) == len(SWEEP)


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


def test_a_wav_of_a_stream_is_read_behind_whatever_lies_before_its_sound(tmp_path: Path) -> None:
    content = encoded("wav", SWEEP[: 2 * RATE])
    (tmp_path / "whole.wav").write_bytes(content)
    at = content.index(b"data")
    picture = b"id3 " + struct.pack("<I", 70_001) + bytes(70_002)
    (tmp_path / "clip.wav").write_bytes(wav_with(0, 0, content[:at] + picture + content[at:]))
    assert torch.equal(all_of(tmp_path / "clip.wav"), all_of(tmp_path / "whole.wav"))


def test_a_recording_of_nothing_has_nothing_whatever_comes_behind(tmp_path: Path) -> None:
    for ending, notes in (("wav", struct.pack("<I", 5_000)), ("caf", struct.pack(">q", 5_000)), ("au", b"")):
        content = encoded(ending, SWEEP[:0])
        for behind in (b"", b"info" + notes + bytes(5_000) if notes else b""):
            (tmp_path / f"clip.{ending}").write_bytes(content + behind)
            assert faults(tmp_path / f"clip.{ending}") == {"no audio in it (zero frames)"}


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_of_the_other_byte_order_is_read_whole_too(tmp_path: Path, size: int) -> None:
    content = bytearray(encoded("wav", SWEEP[: 4 * RATE], endian="BIG"))
    (tmp_path / "whole.wav").write_bytes(content)
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = struct.pack(">I", size)
    (tmp_path / "clip.wav").write_bytes(content)
    assert torch.equal(all_of(tmp_path / "clip.wav"), all_of(tmp_path / "whole.wav"))


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("ending", ["wav", "rf64", "w64", "au", "caf"])
def test_what_a_writer_that_was_killed_leaves_is_read(tmp_path: Path, ending: str, subtype: str) -> None:
    sound, path = SWEEP[: 2 * RATE], tmp_path / f"clip.{ending}"
    with soundfile.SoundFile(path, "w", RATE, 1, subtype=subtype, format=ending.upper()) as file:
        file.write(sound)
        left = path.read_bytes()
    path.write_bytes(left)
    np.testing.assert_allclose(all_of(path), sound, atol=1e-4)


@pytest.mark.parametrize(
    "stream",
    ["rf64", "rf64 ones", "w64", "w64 most", "aiff", "au", "au none", "au little", "caf", "caf none", "flac"],
)
def test_other_streams_of_unknown_length_are_read_whole(tmp_path: Path, stream: str) -> None:
    endless = stream.split()[0]
    little = {"endian": "LITTLE"} if stream == "au little" else {}
    content = encoded(endless, SWEEP[: 4 * RATE], **little)
    (tmp_path / f"whole.{endless}").write_bytes(content)
    patched = bytearray(content)
    unknown = {
        "rf64": [(b"ds64", 8, bytes(24))],
        "rf64 ones": [(b"ds64", 8, b"\xff" * 24)],
        "w64": [(b"riff", 16, b"\xff" * 8)],
        "w64 most": [(name, 16, b"\xff" * 7 + b"\x7f") for name in (b"riff", b"data")],
        "aiff": [
            (b"FORM", 4, b"\x7f\0\0\x48"),
            (b"SSND", 4, b"\x7f\0\0\x08"),
            (b"COMM", 10, b"\x3f\x80\0\0"),
        ],
        "au": [(b".snd", 8, b"\xff" * 4)],
        "au none": [(b".snd", 8, bytes(4))],
        "au little": [(b"dns.", 8, bytes(4))],
        "caf": [(b"data", 4, b"\xff" * 8)],
        "caf none": [(b"data", 4, bytes(8))],
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


def test_an_mp3_that_does_not_say_how_long_it_is_is_not_cut_short_by_damage(tmp_path: Path) -> None:
    mp3 = without_length(encoded("mp3"))
    middle = len(mp3) // 2
    (tmp_path / "clip.mp3").write_bytes(mp3[:middle] + bytes(200_000) + mp3[middle:])
    for said in faults(tmp_path / "clip.mp3"):
        assert said.startswith("cut off or damaged: it can be decoded up to ")
