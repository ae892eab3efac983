from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from samples import assert_same, read_arrays, write_tone
from spectrum import Run, SpectrumEncoder

from palm_cache.extraction import reading
from palm_cache.store.places import local

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are trusted as soon as they are written, which tests cannot wait for."""
    monkeypatch.setattr(local, "RACY_NS", 0)


@pytest.mark.usefixtures("trusted")
def test_a_run_with_nothing_to_do_opens_no_audio(
    run: Run, monkeypatch: pytest.MonkeyPatch, encoder: SpectrumEncoder
) -> None:
    run()

    def refuse(path: object) -> None:
        raise AssertionError(f"{path} was opened")

    with monkeypatch.context() as patch:
        patch.setattr(reading, "open_regular", refuse)
        assert run().embedded == 0
        with pytest.raises(AssertionError, match="was opened"):
            run(check="content")


def test_only_what_changed_is_embedded_again(run: Run, out: Path, folder: Path) -> None:
    run()
    before = read_arrays(out)
    write_tone(folder / "audios" / "train_0_1.wav", 333)
    assert run().embedded == 1
    after = read_arrays(out)
    assert not np.array_equal(before["audio"][1], after["audio"][1])
    assert np.array_equal(np.delete(before["audio"], 1, 0), np.delete(after["audio"], 1, 0))


def test_a_touched_file_is_not_a_changed_one(run: Run, folder: Path) -> None:
    run()
    for file in (folder / "audios").iterdir():
        os.utime(file, (0, 0))
    assert run().embedded == 0


@pytest.mark.usefixtures("trusted")
def test_clocks_that_jump_hide_no_change_and_feign_none(run: Run, folder: Path, out: Path) -> None:
    run()
    changed = folder / "audios" / "train_0_0.wav"
    before = changed.stat()
    write_tone(changed, 210, seconds=0.5)  # as long as the old one
    assert changed.stat().st_size == before.st_size
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    for file in (folder / "audios").iterdir():
        if file != changed:
            os.utime(file, (2**32, 2**32))
    assert run().embedded == 1


def test_a_file_that_changes_within_the_tick_of_its_clock_is_seen(run: Run, folder: Path) -> None:
    file = folder / "audios" / "train_0_0.wav"
    for number in range(3):
        write_tone(file, 210 + number, seconds=0.5)
        assert run().embedded == (18 if number == 0 else 1)


def test_a_clock_that_runs_backwards_changes_nothing(
    run: Run, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run()
    whole = read_arrays(out)
    shutil.rmtree(out.parents[1])
    clock = itertools.count(2**33, -3600)
    with monkeypatch.context() as patch:
        for name, factor in (("time", 1), ("time_ns", 10**9)):
            patch.setattr(time, name, lambda factor=factor: next(clock) * factor)
        assert run().embedded == done.embedded
        assert run().embedded == 0
        write_tone(folder / "audios" / "train_1_1.wav", 333)
        assert run().embedded == 1
    write_tone(folder / "audios" / "train_1_1.wav", 607, seconds=0.6, seed=101)  # as it was
    assert run().embedded == 0  # the cache still knows it
    assert_same(read_arrays(out), whole)


def test_moved_added_and_removed_clips_keep_what_is_known(run: Run, out: Path, folder: Path) -> None:
    run()
    (folder / "audios" / "train_0_0.wav").rename(folder / "audios" / "moved.wav")
    write_tone(folder / "audios" / "new.wav", 500)
    lines = (folder / "train.csv").read_text().splitlines()
    lines = [lines[0], "audios/new.wav,low tone", "audios/moved.wav,low tone", *lines[3:]]
    (folder / "train.csv").write_text("\n".join(lines))
    assert run().embedded == 1
    rebuilt = read_arrays(out)
    shutil.rmtree(out.parents[1])
    run()
    assert_same(rebuilt, read_arrays(out))
