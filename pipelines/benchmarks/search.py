"""How long a search of many rows takes, and how much memory.

``python -m pipelines.benchmarks.search [--rows 1000000] [--dim 512] [--folder DIR]``

A store of random vectors is written, as extraction writes one, and kept in the folder for the next time. It
is searched once, so that the disk is warm, and then ten times. Each kind of search has a process of its own,
for its peak memory. What is measured is the search of an open store, without starting Python; ``command`` is
all of ``palm-cache search STORE --row 0``, Python's start included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palm_cache.bench.extraction import machine
from palm_cache.bench.runners import peak_bytes
from palm_cache.retrieval.ranking import diverse, nearest
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import FORMAT_VERSION, StoredRows, StoreHeader
from palm_cache.store.writing import write_store

TIMES = 10
MIB = 2**20


def make_store(place: Path, n_rows: int, dim: int) -> FeatureStore:
    """Write a store of random vectors, or find it."""
    generator = np.random.default_rng(1)

    def embeddings(some: slice) -> NDArray[np.float32]:
        return generator.standard_normal((some.stop - some.start, 1, dim), dtype=np.float32)

    if not place.exists():
        write_vectors(place, n_rows, dim, embeddings)
    return FeatureStore(place)


def write_vectors(
    place: Path, n_rows: int, dim: int, embeddings: Callable[[slice], NDArray[np.float32]]
) -> None:
    """Write a store of vectors as those of stretches of five seconds in recordings of an hour."""
    numbers, generator = np.arange(n_rows), np.random.default_rng(0)
    rows = StoredRows(
        names=[f"recordings/{number // 720:06}.flac" for number in numbers.tolist()],
        start=5.0 * (numbers % 720),
        end=5.0 * (numbers % 720) + 5,
        labels=np.full(n_rows, -1, np.int64),
        contents=generator.integers(0, 256, (n_rows, 32), dtype=np.uint8),
        errors={},
        folds=(),
    )
    header = StoreHeader(
        format_version=FORMAT_VERSION,
        id="",
        dataset="random",
        source="",
        encoder="mini",
        recipe={"encoder": "random"},
        fingerprint="0" * 64,
        text_recipe=None,
        dim=dim,
        token_dim=0,
        sample_rate=16_000,
        seconds=5.0,
        views=1,
        templates=(),
        class_names=(),
        rows_sha256="",
        text_sha256="",
        made_with={},
    )
    write_store(place, header, rows, np.zeros((0, 0, dim), np.float32), embeddings)


def measure(store: Path, kind: str) -> dict[str, object]:
    """Time one kind of search in this process."""
    opened = FeatureStore(store)
    queries = np.random.default_rng(1).standard_normal((10, opened.header.dim), dtype=np.float32)
    before = peak_bytes()
    searches = {
        "one query": lambda: nearest(opened, queries[0], 10),
        "ten queries": lambda: nearest(opened, queries, 10),
        "ten diverse rows": lambda: diverse(opened, [0], 10),
    }
    searches[kind]()
    seconds, cpu = [], []
    for _ in range(TIMES if kind != "ten diverse rows" else 1):
        started, busy = time.perf_counter(), time.process_time()
        searches[kind]()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - busy)
    return {
        "search": kind,
        "seconds, least": min(seconds),
        "seconds, median": float(np.median(seconds)),
        "core seconds": min(cpu),
        "memory above the libraries', MiB": (peak_bytes() - before) / MIB,
    }


def _command(store: Path) -> dict[str, object]:
    """Time the whole command."""
    program = "from palm_cache.cli import app; app()"
    words = [sys.executable, "-c", program, "search", str(store), "--row", "0"]
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return {"search": "command", "seconds, least": min(seconds)}


def main() -> None:
    """Print one JSON line for the machine and for every kind of search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "palm-cache-search"))
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    store = asked.folder / f"{asked.rows}x{asked.dim}.zarr"
    if asked.kind:
        print(json.dumps(measure(store, asked.kind)))
        return
    make_store(store, asked.rows, asked.dim)
    load = f"{os.getloadavg()[0]:.1f} processes were waiting for them"
    print(json.dumps({"machine": machine(), "load": load, "rows": asked.rows, "dim": asked.dim}))
    for kind in ("one query", "ten queries", "ten diverse rows"):
        words = [sys.executable, "-m", "pipelines.benchmarks.search", "--kind", kind]
        words += ["--rows", str(asked.rows), "--dim", str(asked.dim), "--folder", str(asked.folder)]
        print(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
    print(json.dumps(_command(store)))


if __name__ == "__main__":
    main()
