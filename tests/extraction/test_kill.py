"""An extraction that is killed again and again, against one that ran through; with the real encoder."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from samples import assert_same, read_arrays, write_palm_folder

from palm_cache.errors import StoreError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import extract
from palm_cache.params import ExtractParams
from palm_cache.store.features import CHUNK_CLIPS, FeatureStore

KILLS = int(os.environ.get("PALM_CACHE_KILLS", "5"))
CHUNK = 8
CLASSES = [f"tone {number}" for number in range(3 * KILLS)]
CLIPS = 12 * len(CLASSES)
"""So many that they are not all embedded before the last kill."""

COMMAND = "from palm_cache.cli import app; app()"
# Small chunks, so that a small dataset has many.
IN_SMALL_CHUNKS = f"import palm_cache.store.features as features; features.CHUNK_CLIPS = {CHUNK}\n{COMMAND}"


def start(folder: Path, out: Path, *options: str, command: str = IN_SMALL_CHUNKS) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", command, "extract", "--dataset", str(folder), "--out", str(out), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def chunk_times(out: Path) -> dict[str, int]:
    chunks = out / "audio" / "c"
    files = [file for file in chunks.glob("*/0/0") if file.is_file()] if chunks.is_dir() else []
    return {file.parent.parent.name: file.stat().st_mtime_ns for file in files}


def wait_for_a_chunk(process: subprocess.Popen[str], out: Path) -> None:
    before, deadline = chunk_times(out), time.monotonic() + 60
    while chunk_times(out) == before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_at_random_moments_it_loses_at_most_the_chunk_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_palm_folder(tmp_path / "Tones", classes=CLASSES, train=8, test=4)
    monkeypatch.setattr("palm_cache.store.features.CHUNK_CLIPS", CHUNK)
    whole, out = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    began, process = time.monotonic(), start(folder, whole)
    wait_for_a_chunk(process, whole)
    starting = time.monotonic() - began
    process.communicate(timeout=120 + 2 * KILLS)
    assert FeatureStore(whole).missing() == []
    moments = random.Random(0)
    for number in range(KILLS):
        before = chunk_times(out)
        process = start(folder, out)
        if number % 2:  # at any moment: while it starts, looks at the store, or works
            time.sleep(moments.uniform(0, 1.2 * starting))
        else:  # about when a chunk is written
            wait_for_a_chunk(process, out)
            time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.communicate()
        kept = chunk_times(out)
        assert before.items() <= kept.items()  # nothing finished was computed again
        found = FeatureStore(out).problems() if out.exists() else []
        assert [problem for problem in found if not re.fullmatch(r"chunk \d+ is missing .*", problem)] == []
    assert 0 < len(kept) < len(chunk_times(whole))
    finishing = start(folder, out)
    stdout, stderr = finishing.communicate(timeout=120 + 2 * KILLS)
    assert finishing.returncode == 0, stderr
    there = CHUNK * len(kept)
    assert f"({CLIPS - there} embedded now, {there} already there)" in stdout
    assert FeatureStore(out).problems() == []
    assert not list(out.rglob("*.partial"))
    assert_same(read_arrays(out), read_arrays(whole))


def test_workers_die_with_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    folder = write_palm_folder(tmp_path / "Tones", classes=[str(number) for number in range(20)], train=12)
    out = tmp_path / "orphaned.zarr"
    process = start(folder, out, "--jobs", "2", command=COMMAND)
    wait_for_a_chunk(process, out)
    process.kill()
    process.communicate(timeout=20)  # ends when the last process that has the pipes does
    kept = len(FeatureStore(out).committed())
    assert 0 < kept < 5
    assert extract(read(folder), "mini", out, ExtractParams()).embedded == 280 - CHUNK_CLIPS * kept
    assert FeatureStore(out).problems() == []


def test_a_second_process_is_sent_away_until_the_first_one_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_palm_folder(tmp_path / "Tones", train=80, test=20)
    monkeypatch.setattr("palm_cache.store.features.CHUNK_CLIPS", CHUNK)
    table, out = read(folder), tmp_path / "one.zarr"
    first = start(folder, out)
    wait_for_a_chunk(first, out)
    first.send_signal(signal.SIGSTOP)  # alive, and holding the lock
    with pytest.raises(StoreError, match="another extraction is writing to this store; wait for it to end"):
        extract(table, "mini", out, ExtractParams())
    first.kill()
    first.communicate()
    kept = CHUNK * len(FeatureStore(out).committed())
    assert extract(table, "mini", out, ExtractParams()).embedded == 200 - kept


def test_several_processes_make_the_same_store(tmp_path: Path) -> None:
    folder = write_palm_folder(tmp_path / "Tones", train=80, test=20)
    stores = []
    for jobs in ("1", "2"):
        out = tmp_path / f"{jobs}.zarr"
        words = ["extract", "--dataset", str(folder), "--out", str(out), "--jobs", jobs]
        code = "from palm_cache.cli import app; app()"
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        assert "200 clips" in done.stdout
        stores.append(FeatureStore(out).read())
    np.testing.assert_allclose(stores[0].audio, stores[1].audio, atol=1e-5)
    assert stores[0].digest == stores[1].digest
