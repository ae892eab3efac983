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

from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.extract import extract
from palm_cache.extraction.work import audio_cache
from palm_cache.params import Recipe
from palm_cache.store.cache import Cache
from palm_cache.store.features import FeatureStore
from palm_cache.store.prune import known_recipes

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("PALM_CACHE_KILLS", "5"))
CLASSES = [f"tone {number}" for number in range(3 * KILLS)]
CLIPS = 12 * len(CLASSES)
"""So many that they are not all embedded before the last kill."""

COMMAND = """
import palm_cache.extraction.work as work, palm_cache.extraction.encoders.mini as mini, time
work.SEGMENT_SECONDS = 0.05
from palm_cache.cli import app; app()
"""


def start(folder: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", COMMAND, "extract", "--dataset", str(folder), "--out", str(out), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def known(out: Path) -> int:
    """Return how many contents the cache knows."""
    return cache_of(out).n_keys


def distinct(out: Path) -> int:
    """Return how many different contents the cache knows."""
    recipes = known_recipes(out.parent / ".cache", out.parent)
    return sum(recipe.contents for recipe in recipes if recipe.kind == "audio")


def cache_of(out: Path) -> Cache:
    return audio_cache(out.parent / ".cache", load_encoder("mini", device="cpu"), Recipe())


def wait_for_a_segment(process: subprocess.Popen[str], out: Path) -> None:
    before, deadline = segments(out), time.monotonic() + 120
    while segments(out) <= before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def segments(out: Path) -> set[str]:
    return {file.name for file in out.parent.glob(".cache/audio-*/*.safetensors")}


def embedded_now(stdout: str) -> int:
    match = re.search(r"\((\d+) embedded now", stdout)
    assert match, stdout
    return int(match[1])


def test_killed_at_random_moments_it_loses_at_most_what_was_in_flight(tmp_path: Path) -> None:
    folder = write_palm_folder(tmp_path / "Tones", classes=CLASSES, train=8, test=4)
    whole, out = tmp_path / "whole" / "x.zarr", tmp_path / "killed" / "x.zarr"
    began, process = time.monotonic(), start(folder, whole)
    wait_for_a_segment(process, whole)
    starting = time.monotonic() - began
    stdout, stderr = process.communicate(timeout=240 + 2 * KILLS)
    assert embedded_now(stdout) == CLIPS, stderr
    moments = random.Random(0)
    for number in range(KILLS):
        before = distinct(out)
        process = start(folder, out)
        if number % 2:  # at any moment: while it starts, looks at the cache, or works
            time.sleep(moments.uniform(0, 1.2 * starting))
        else:  # about when a segment is written
            wait_for_a_segment(process, out)
            time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL if number % 5 else signal.SIGTERM)
        process.communicate()
        assert distinct(out) >= before  # what was known stays known
        assert known(out) == distinct(out)  # and is not embedded again
    finishing = start(folder, out)
    kept = distinct(out)
    stdout, stderr = finishing.communicate(timeout=240 + 2 * KILLS)
    assert finishing.returncode == 0, stderr
    assert embedded_now(stdout) == CLIPS - kept
    assert FeatureStore(out).problems() == []
    assert sorted(path.name for path in out.parent.iterdir()) == [".cache", "x.zarr"]
    assert not [*out.parent.glob(".cache/audio-*/.*.partial"), *out.parent.glob(".cache/files-*/.*.partial")]
    assert_same(read_arrays(out), read_arrays(whole))


def test_workers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    folder = write_palm_folder(tmp_path / "Tones", classes=[str(number) for number in range(20)], train=12)
    out = tmp_path / "orphaned" / "x.zarr"
    process = start(folder, out, "--jobs", "2")
    wait_for_a_segment(process, out)
    process.kill()
    process.communicate(timeout=20)  # ends when the last process that has the pipes does
    kept = distinct(out)
    assert 0 < kept <= 280
    assert extract(read(folder), "mini", out).embedded == 280 - kept


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_at_once_on_one_dataset_share_the_work_and_leave_one_store(
    tmp_path: Path, processes: int
) -> None:
    classes = [str(number) for number in range(30)]
    folder = write_palm_folder(tmp_path / "Tones", classes=classes, train=12, test=2)
    whole, out = tmp_path / "whole" / "x.zarr", tmp_path / "shared" / "x.zarr"
    extract(read(folder), "mini", whole)
    running = [start(folder, out) for _ in range(processes)]
    total = 0
    for process in running:
        stdout, stderr = process.communicate(timeout=240)
        assert process.returncode == 0, stderr
        total += embedded_now(stdout)
    # How many are embedded twice hangs on how long a machine lets the processes wait for each other.
    assert 420 <= total < processes * 420
    assert FeatureStore(out).problems() == []
    assert_same(read_arrays(out), read_arrays(whole))


def test_several_processes_make_the_same_store(tmp_path: Path) -> None:
    folder = write_palm_folder(tmp_path / "Tones", train=80, test=20)
    stores = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs / "x.zarr"
        stdout, stderr = start(folder, out, "--jobs", jobs).communicate(timeout=240)
        assert "200 clips" in stdout, stderr
        stores.append(FeatureStore(out).read())
    np.testing.assert_array_equal(stores[0].audio, stores[1].audio)
    assert stores[0].digest == stores[1].digest
