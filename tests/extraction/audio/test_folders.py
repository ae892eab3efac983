from __future__ import annotations

import os
from pathlib import Path

import pytest
import soundfile

from palm_cache.extraction.audio.folders import audio_below
from palm_cache.types.audio_names import AUDIO_ENDINGS, is_audio_name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder whose audio is all behind links, with circles of every kind, beside another folder."""
    files = (
        "a.wav",
        "deep/b.flac",
        "deep/._b.flac",
        ".trash/c.wav",
        "$RECYCLE.BIN/c.wav",
        "lost+found/c.wav",
    )
    for name in ("tree/own/d.mp3", *(f"far/{file}" for file in files)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    root = tmp_path / "tree"
    (root / "linked").symlink_to("../far", target_is_directory=True)
    (root / "again").symlink_to(tmp_path / "far" / "deep", target_is_directory=True)
    (root / "self").symlink_to(".", target_is_directory=True)
    (root / "up").symlink_to("..", target_is_directory=True)
    (root / "own" / "back").symlink_to(root, target_is_directory=True)
    (tmp_path / "far" / "home").symlink_to(root, target_is_directory=True)
    (root / "loop").symlink_to("loop")
    (root / "e.WAV").symlink_to(tmp_path / "far" / "a.wav")
    (root / "gone.wav").symlink_to("nowhere.wav")
    return root


def test_links_are_followed_and_no_folder_is_entered_twice(tree: Path) -> None:
    found = [path.relative_to(tree).as_posix() for path in audio_below(tree)]
    assert found == ["e.WAV", "gone.wav", "again/b.flac", "linked/a.wav", "own/d.mp3"]


def test_a_linked_folder_is_searched_as_itself(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "entry").symlink_to(tree, target_is_directory=True)
    assert list(audio_below(tmp_path / "entry")) == [
        tmp_path / "entry" / path.relative_to(tree) for path in audio_below(tree)
    ]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open everything")
def test_a_folder_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    problems: list[OSError] = []
    assert list(audio_below(tmp_path, problems.append)) == []
    assert [problem.filename for problem in problems] == [str(tmp_path / "locked")]


def test_audio_is_known_by_its_ending_however_it_is_written() -> None:
    for name in ("a.wav", "A.WAV", "b.Flac", "take.1.opus", "c.m4a"):
        assert is_audio_name(name)
    for name in ("notes.txt", "wav", ".wav", "._a.wav", "a.wav.part"):
        assert not is_audio_name(name)


def test_what_libsndfile_writes_under_its_own_name_is_known() -> None:
    formats = {f".{name.lower()}" for name in soundfile.available_formats()}
    common = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au", ".caf", ".w64", ".rf64"}
    assert common <= formats & AUDIO_ENDINGS
