from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import make_features, write_sample

from palm_cache.params import FitParams
from palm_cache.retrieval.stores import Stores
from palm_cache.types.runs import Training
from pipelines.benchmarks import watch
from pipelines.benchmarks.fit import SHAPES, Shape, describe, measure
from pipelines.benchmarks.gpu.__main__ import measure as measure_gpu
from pipelines.benchmarks.gpu.bench import OGG, TINY, WAYS, Bench
from pipelines.benchmarks.gpu.parts import PARTS, REPOSITORY, Step, extract_once
from pipelines.benchmarks.precision import by_example
from pipelines.benchmarks.search import make_store
from pipelines.benchmarks.search import measure as measure_search
from pipelines.benchmarks.watch import Row


def test_the_loop_by_hand_and_palm_cache_learn_the_same_weights() -> None:
    params = FitParams(heads=("palm",), shots=(5,), seeds=(0, 1), training=Training(epochs=3))
    shape = Shape("small", n_classes=4, n_folds=2)
    threads = torch.get_num_threads()
    measured = measure(shape, params, threads=(threads,), passes=1, every_run=True, dim=48)
    assert measured.n_runs == 2 * 2
    assert measured.single < 5e-4
    assert measured.double < 1e-9
    assert measured.loop.keys() == measured.ours.keys() == {threads}
    assert describe("all", [measured, measured]).split()[:2] == ["all", "8"]


def test_the_paper_has_105_runs() -> None:
    assert sum(shape.n_folds * len(FitParams().seeds) for shape in SHAPES) == 105


def steps(bench: Bench) -> list[Step]:
    def fail() -> Row:
        raise RuntimeError("no memory")

    return [("first", lambda: {"clips/s": 1234.5}), ("second", fail), ("third", lambda: {"clips/s": 2.5})]


def test_the_gpu_benchmark_goes_on_after_a_step_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTS, "steps", steps)
    report = measure_gpu(TINY, ["steps"], tmp_path)
    assert report["failed"] == {"steps: second": "RuntimeError: no memory"}
    assert report["parts"]["steps"] == [{"clips/s": 1234.5}, {"clips/s": 2.5}]
    assert json.loads((tmp_path / "gpu.json").read_text()) == report
    table = (tmp_path / "gpu.md").read_text()
    assert "1,234" in table
    assert "FAILED steps: second: RuntimeError: no memory" in table


def test_a_kill_of_the_gpu_benchmark_leaves_what_there_is_and_what_was_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> Row:
        raise KeyboardInterrupt

    monkeypatch.setitem(PARTS, "steps", lambda bench: [*steps(bench)[:1], ("endless", killed)])
    with pytest.raises(KeyboardInterrupt):
        measure_gpu(TINY, ["steps"], tmp_path)
    table = (tmp_path / "gpu.md").read_text()
    assert "1,234" in table
    assert "ENDED while steps: endless" in table


def test_the_gpu_benchmark_begins_nothing_when_no_time_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTS, "steps", steps)
    report = measure_gpu(replace(TINY, max_seconds=0), ["steps"], tmp_path)
    assert report["skipped"] == ["steps: first", "steps: second", "steps: third"]
    assert report["parts"] == {"steps": []}
    assert "NO TIME LEFT for steps: third" in (tmp_path / "gpu.md").read_text()


def test_how_busy_a_gpu_is_comes_from_its_own_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 40\necho 90\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_SAMPLES", 0.01)
    with watch.watching("cuda") as seen:
        while not seen.gpu:
            time.sleep(0.01)
    assert seen.row["GPU %"] == 40


@pytest.mark.slow
def test_every_part_of_the_gpu_benchmark_runs_at_tiny_sizes(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pipelines.benchmarks.gpu", "--dry-run", "--out", tmp_path]
    run = subprocess.run(words, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert not report["failed"]
    assert list(report["parts"]) == list(PARTS)
    assert all(report["parts"].values())


def test_the_gpu_benchmark_reads_extracts_and_says_how_fast(tmp_path: Path) -> None:
    bench = Bench(TINY, tmp_path, tmp_path)
    row = extract_once(bench, "CLAP fp32", bench.clap, WAYS["fp32"], OGG)
    assert row["clips/s"] > 0
    assert row["clips"] == "ogg 44.1 kHz"


@pytest.mark.parametrize("kind", ["one query", "ten queries", "ten diverse rows"])
def test_the_search_benchmark_makes_its_store_once_and_searches_it(tmp_path: Path, kind: str) -> None:
    first = make_store(tmp_path / "store.zarr", 3000, 16)
    assert make_store(tmp_path / "store.zarr", 3000, 16).header.id == first.header.id
    assert measure_search(tmp_path / "store.zarr", kind)["core seconds"] > 0


def test_precision_by_example_is_that_of_a_loop_over_rows(tmp_path: Path) -> None:
    features = make_features(n_classes=3, clips_per_class=20, failed=(4,))
    found = by_example(Stores([write_sample(tmp_path / "store.zarr", features)]), 5)
    audio, labels = features.audio[:, 0].numpy(), features.labels.numpy()
    unit = audio / np.linalg.norm(audio, axis=1, keepdims=True).clip(1e-9)
    for row in (0, 17, 59):
        others = [other for other in np.argsort(-(unit @ unit[row])).tolist() if other not in (row, 4)]
        assert found[row] == pytest.approx((labels[others[:5]] == labels[row]).mean())
    assert np.isnan(found[4])
