from __future__ import annotations

import errno
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from samples import assert_same, flip_bit, read_arrays
from spectrum import Run

from palm_cache.extraction import known_files
from palm_cache.extraction.known_files import KnownFiles, file_cache, known_contents
from palm_cache.store.places import local, states
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


def test_a_cache_that_takes_no_record_of_files_gives_what_it_knows(
    run: Run, out: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that others share for reading alone."""
    monkeypatch.setattr(local, "RACY_NS", 0)
    run()
    whole = read_arrays(out)
    shutil.rmtree(out)
    (files,) = cache.glob("files-*")
    shutil.rmtree(files)
    files.write_text("no folder")
    done = run()
    assert (done.embedded, done.failures) == (0, ())
    (note,) = done.notes
    assert note.startswith(f"the next run reads the files again: {files}: cannot write: ")
    assert_same(read_arrays(out), whole)


def cannot_write(*_: object) -> AbstractContextManager[Path]:
    raise OSError(errno.EROFS, "Read-only file system")


def test_of_damage_in_what_is_known_of_files_the_files_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "RACY_NS", 0)
    files = [tmp_path / f"{row}.wav" for row in range(3)]
    for file in files:
        file.write_text(file.name)
    keys = np.frombuffer(b"".join(filter(None, states(files))), np.uint8).reshape(-1, 32)
    file_cache(tmp_path / "cache").add(keys, keys[::-1])
    contents = known_contents(tmp_path / "cache", "stat")
    assert contents is not None
    assert np.array_equal(contents(list(map(str, files))), keys[::-1])
    (segment,) = (tmp_path / "cache").rglob("*.safetensors")
    flip_bit(segment, segment.read_bytes().index(keys[::-1].tobytes()))
    with monkeypatch.context() as patch:
        patch.setattr(local.LocalFolder, "replacing", cannot_write)
        assert not contents(list(map(str, files))).any()
    assert not contents(list(map(str, files))).any()
