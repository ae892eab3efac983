from __future__ import annotations

from pathlib import Path

import pytest

from palm_cache.extraction import known_files
from palm_cache.extraction.known_files import KnownFiles, file_cache
from palm_cache.types import Clip, Clips


def test_what_is_read_of_files_is_recorded_before_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "FILES_LEARNED", 2)
    clips = Clips.of(Clip(tmp_path / f"{row}.wav", f"{row}.wav", None) for row in range(3))
    known = KnownFiles.of(clips, file_cache(tmp_path / "cache"), trusted=True)
    for row in range(3):
        known.learn(row, bytes([row + 1]) * 32, bytes([row + 7]) * 32, "")
    assert file_cache(tmp_path / "cache").n_keys == 2
    known.remember()
    assert file_cache(tmp_path / "cache").n_keys == 3
    assert known.seen.all()
