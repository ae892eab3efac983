"""An extraction that is killed again and again, against one that ran through; with the real encoder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from samples import write_palm_folder

from palm_cache.errors import StoreError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import extract
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore

KILLS = int(os.environ.get("PALM_CACHE_KILLS", "5"))
CHUNK = 8

# Small chunks, so that a small dataset has many.
COMMAND = (
    f"import palm_cache.store.features as features; features.CHUNK_CLIPS = {CHUNK}\n"
    "from palm_cache.cli import app; app()"
)


def start(folder: Path, out: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", COMMAND, "extract", "--dataset", str(folder), "--out", str(out)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def chunk_times(out: Path) -> dict[str, int]:
    chunks = out / "audio" / "c"
    files = [file for file in chunks.glob("*/0/0") if file.is_file()] if chunks.is_dir() else []
    return {file.parent.parent.name: file.stat().st_mtime_ns for file in files}


def test_killed_at_random_moments_it_loses_at_most_the_chunk_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = max(72, 12 * KILLS)  # at least three chunks a kill
    folder = write_palm_folder(tmp_path / "Tones", train=train, test=20)
    monkeypatch.setattr("palm_cache.store.features.CHUNK_CLIPS", CHUNK)
    whole, out = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    start(folder, whole).communicate(timeout=120)
    assert FeatureStore(whole).missing() == []
    moments = random.Random(0)
    for _ in range(KILLS):
        before = chunk_times(out)
        process = start(folder, out)
        # A kill before the first write is no test: wait for a sign of life, then a little longer.
        deadline = time.monotonic() + 60
        while chunk_times(out).keys() == before.keys() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = chunk_times(out)
        assert before.items() <= kept.items()  # nothing finished was computed again
    assert 0 < len(kept) <= 2 * (train + 20) // CHUNK
    finishing = start(folder, out)
    stdout, stderr = finishing.communicate(timeout=120)
    assert finishing.returncode == 0, stderr
    assert (
        f"({2 * (train + 20) - len(kept) * CHUNK} embedded now, {len(kept) * CHUNK} already there)" in stdout
    )
    assert FeatureStore(out).problems() == []
    assert not list(out.rglob("*.partial"))
    for name, array in zarr.open_group(whole, mode="r").members(max_depth=None):
        if isinstance(array, zarr.Array):
            assert np.array_equal(array[:], zarr.open_group(out, mode="r")[name][:]), name


def test_a_second_process_is_sent_away_until_the_first_one_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_palm_folder(tmp_path / "Tones", train=80, test=20)
    monkeypatch.setattr("palm_cache.store.features.CHUNK_CLIPS", CHUNK)
    table, out = read(folder), tmp_path / "one.zarr"
    first = start(folder, out)
    deadline = time.monotonic() + 60
    while not chunk_times(out) and time.monotonic() < deadline:
        time.sleep(0.005)
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
