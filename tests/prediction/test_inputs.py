from __future__ import annotations

import os
from pathlib import Path

import pytest

from palm_cache.errors import DataError
from palm_cache.prediction.answers import Failure
from palm_cache.prediction.inputs import find_recordings


@pytest.fixture(autouse=True)
def sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.WAV", "a.flac", "notes.txt", "deep/er/c.mp3", "deep/d.m4a", ".hidden/e.wav", "._a.flac"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def find(*inputs: str, stdin: bytes = b"") -> list[str | tuple[str, str]]:
    found = find_recordings(inputs, lambda: stdin)
    return [(entry.path, entry.reason) if isinstance(entry, Failure) else str(entry) for entry in found]


def test_a_folder_is_searched_below_in_order_for_what_looks_like_audio() -> None:
    """Also for audio that cannot be decoded: it is named later, not passed over."""
    assert find(".") == ["a.flac", "b.WAV", "deep/d.m4a", "deep/er/c.mp3"]
    assert find("deep", ".") == ["deep/d.m4a", "deep/er/c.mp3", "a.flac", "b.WAV"]


def test_a_file_that_is_named_is_taken_whatever_it_is_called() -> None:
    assert find("notes.txt", "._a.flac") == ["notes.txt", "._a.flac"]


def test_a_file_that_is_not_there_is_told_with_the_one_that_may_be_meant() -> None:
    assert find("absent.wav", "note.txt", "deep/ere/c.mp3", "a\0b", "x" * 300) == [
        ("absent.wav", "no such file"),
        ("note.txt", "no such file; did you mean notes.txt?"),
        ("deep/ere/c.mp3", "no such file; did you mean deep/er/c.mp3?"),
        ("a%00b", "no such file"),
        ("x" * 300, "no such file"),
    ]


def test_patterns_find_files_and_folders() -> None:
    assert find("*.flac", "**/*.mp3") == ["a.flac", "deep/er/c.mp3"]
    assert find("de?p") == ["deep/d.m4a", "deep/er/c.mp3"]
    assert find("[xyz].wav") == [("[xyz].wav", "no file is called like this")]


def test_a_name_that_looks_like_a_pattern_is_a_name_where_it_exists() -> None:
    Path("take[1].wav").touch()
    assert find("take[1].wav") == ["take[1].wav"]


def test_linked_folders_are_searched_and_circles_end() -> None:
    """Also where a folder holds nothing but links."""
    Path("links").mkdir()
    for name, target in (("one", "../deep"), ("two", "../deep/er"), ("round", "."), ("up", "..")):
        Path("links", name).symlink_to(target, target_is_directory=True)
    Path("links/f.wav").symlink_to("../a.flac")
    assert find("links") == ["links/f.wav", "links/one/d.m4a", "links/two/c.mp3"]


def test_each_file_is_taken_once() -> None:
    assert find("a.flac", "*.flac", ".", "a.flac")[0] == "a.flac"
    assert find("a.flac", "*.flac", ".").count("a.flac") == 1
    here = str(Path.cwd())
    assert find("deep", f"{here}/deep", f"{here}/./deep/../deep/d.m4a") == ["deep/d.m4a", "deep/er/c.mp3"]


@pytest.mark.parametrize("stdin", [b"b.WAV\ndeep/er\r\n\nabsent.wav", b"b.WAV\0deep/er\0absent.wav\0"])
def test_standard_input_is_a_list_of_paths(stdin: bytes) -> None:
    absent = ("absent.wav", "no such file")
    assert find("-", "a.flac", stdin=stdin) == ["b.WAV", "deep/er/c.mp3", absent, "a.flac"]


def test_nul_separated_names_may_hold_line_breaks() -> None:
    Path("a\nb.wav").touch()
    assert find("-", stdin=b"a\nb.wav\0a.flac\0") == ["a\nb.wav", "a.flac"]


def test_a_name_that_is_not_utf_8_arrives_as_it_is() -> None:
    Path(os.fsdecode(b"caf\xe9.wav")).touch()
    (entry,) = find_recordings(["-"], lambda: b"caf\xe9.wav\n")
    assert os.fsencode(entry) == b"caf\xe9.wav"


def test_audio_on_standard_input_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        DataError, match="standard input holds audio, not a list of paths; write it to a file"
    ):
        find("-", stdin=b"RIFF\x00\x00")


def test_an_empty_folder_or_list_is_named() -> None:
    Path("void").mkdir()
    assert find("void") == [("void", "no audio files in this folder")]
    assert find("-", stdin=b"\n") == [("-", "no paths on standard input")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open everything")
def test_a_folder_that_cannot_be_opened_is_named() -> None:
    Path("locked").mkdir(mode=0)
    assert find("locked") == [("locked", "cannot be opened: Permission denied")]


def test_a_folder_that_is_there_is_no_pattern_whatever_it_is_called(tmp_path: Path) -> None:
    Path("birds[1]").mkdir()
    Path("birds[1]/a.wav").touch()
    Path("birds1").mkdir()
    Path("birds1/b.wav").touch()
    assert find("birds[1]/*.wav") == ["birds[1]/a.wav"]
    assert find("birds[12]/*.wav") == ["birds1/b.wav"]


def test_a_url_is_no_file_and_its_password_is_not_shown() -> None:
    assert find("http://me:hidden@host/x.wav") == [
        ("http://host/x.wav", "is a URL; fetch the file and name it here")
    ]
