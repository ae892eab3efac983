"""How cache and store behave as they grow, with an encoder that costs nothing.

``python -m pipelines.benchmarks.scale [--rows 10000,100000,1000000] [--folder DIR]``

As many short files as there are rows, each different; ``mini`` reads the class names, but instead of its
audio tower every clip gets the loudness of its beginning, 512 times. So what is measured is everything but
the encoder: reading the table, looking at, opening, hashing and decoding files, batches, the cache, the
store. Each number of rows has a process of its own, for its peak memory. A million rows take 11 GB of disk
for a while.

``--read`` times reading a store of 100,000 x 1,024 whole, against ``np.load`` of the same numbers.
``--workers`` says how much memory a worker of ``--jobs 2`` takes, and ``mini`` alone.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
from torch import Tensor

from palm_cache.adaptation.tasks import few_shot
from palm_cache.bench.runners import peak_bytes
from palm_cache.extraction import extract as stage_one
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.encoders.mini import MiniEncoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.known_files import known_contents
from palm_cache.params import Recipe, Resources
from palm_cache.store.features import FeatureStore
from pipelines.benchmarks.search import write_vectors

RATE = 16_000
SAMPLES = RATE // 10
N_CLASSES = 500
SHOTS = 16
HEADER_BYTES = 44
"""Of a WAV file."""
BATCH = 64


def null_encoder() -> MiniEncoder:
    """Return ``mini`` without an audio tower: an embedding is how loud a clip begins, in every dimension."""
    encoder = load_encoder("mini", device="cpu")

    def embed(waveforms: Tensor) -> Tensor:
        beginning = waveforms[..., : SAMPLES // 10]  # to hear all would cost as much as to read it
        return beginning.square().mean(dim=(1, 2)).sqrt()[:, None].expand(-1, encoder.dim)

    encoder.embed_audio = embed  # type: ignore[method-assign]
    return encoder  # type: ignore[return-value]


def make_files(folder: Path, n_rows: int) -> Path:
    """Write a dataset of short files, each different, a tenth of it test clips; return its table."""
    encoded = io.BytesIO()
    soundfile.write(encoded, np.random.default_rng(0).uniform(-0.25, 0.25, SAMPLES), RATE, format="WAV")
    content = encoded.getvalue()
    table = folder / "Many.csv"
    for row in range(n_rows):
        if row % 1000 == 0:
            (folder / f"{row // 1000:04}").mkdir(parents=True)
        own = struct.pack("<q", row)
        (folder / _name(row)).write_bytes(content[:HEADER_BYTES] + own + content[HEADER_BYTES + 8 :])
    with table.open("w", encoding="ascii") as lines:
        lines.write("path,label,split\n")
        for row in range(n_rows):
            part = "train" if (row // N_CLASSES) % 10 else "test"
            lines.write(f"{_name(row)},class {row % N_CLASSES:03},{part}\n")
    return table


def add_file(table: Path) -> None:
    """Add one clip more to a dataset."""
    name = "0000/one more.wav"
    (table.parent / name).write_bytes((table.parent / _name(0)).read_bytes()[:-2] + b"\1\1")
    with table.open("a", encoding="ascii") as lines:
        lines.write(f"{name},class 000,train\n")


def _name(row: int) -> str:
    return f"{row // 1000:04}/{row % 1000:03}.wav"


def measure(n_rows: int, folder: Path) -> dict[str, float]:
    """Extract, look again, add a clip, open, read and draw; return what each costs, mostly seconds."""
    table = make_files(folder / "audio", n_rows)
    time.sleep(2.1)  # files that have just been written are not trusted
    out, cache = folder / "features" / "many.zarr", folder / "features" / ".cache"
    encoder, resources = null_encoder(), Resources(batch_size=BATCH)
    with patch.object(stage_one, "load_encoder", lambda *_, **__: encoder):

        def extract() -> tuple[float, stage_one.Extraction]:
            reading, clips = _timed(lambda: read_dataset(str(table), contents=known_contents(cache, "stat")))
            return reading, stage_one.extract(clips, "mini", out, Recipe(), resources, cache=cache)

        before = _memory()
        first, (_, done) = _timed(extract)
        again, (reading, nothing) = _timed(extract)
        add_file(table)
        added, (_, one) = _timed(extract)
        peak = peak_bytes()
    if (done.embedded, nothing.embedded, one.embedded) != (n_rows, 0, 1):
        raise RuntimeError(f"embedded {done.embedded}, {nothing.embedded} and {one.embedded} of {n_rows}")
    opened, store = _timed(lambda: FeatureStore(out))
    read, features = _timed(store.read)
    draw, _ = _timed(lambda: few_shot(features, fold=1, shots=SHOTS, seed=0))
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    cached = sum(1 for path in cache.rglob("*.safetensors"))
    return {
        "rows": n_rows,
        "extract": first,
        "extract again": again,
        "of which reading the table": reading,
        "extract one more": added,
        "open": opened,
        "read all": read,
        f"draw {SHOTS} shots of {N_CLASSES} classes": draw,
        "GB at the start": before / 1e9,
        "peak GB": peak / 1e9,
        "files of the store": len(files),
        "GB of the store": size / 1e9,
        "segments of the cache": cached,
    }


def measure_workers(folder: Path, n_rows: int = 10_000) -> None:
    """Print the peak memory of worker processes and of one that only loads the encoder; Linux only."""
    table = read_dataset(str(make_files(folder / "audio", n_rows)))
    out = folder / "features" / "many.zarr"
    stage_one.extract(table, "mini", out, Recipe(), Resources(jobs=2))
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    roles = {int(number): Path(f"/proc/{number}/cmdline").read_text() for number in children}
    workers = [_peak(number) for number, words in roles.items() if "loky" in words and "tracker" not in words]
    code = (
        "from palm_cache.extraction import extract; from pipelines.benchmarks import scale; "
        "extract.load_encoder('mini', device='cpu'); print(scale._peak('self'))"
    )
    alone = int(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout)
    peaks = " and ".join(f"{peak / 1e9:.2f}" for peak in workers)
    print(f"{n_rows} rows: workers {peaks} GB, a process that has loaded mini {alone / 1e9:.2f} GB")


def _peak(process: int | str) -> int:
    """Return the most memory that a process has had, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def compare_reading(folder: Path, n_rows: int = 100_000, dim: int = 1024, rounds: int = 5) -> None:
    """Print how fast a store and ``np.load`` give the same numbers, warm, in turns."""
    audio = np.random.default_rng(0).standard_normal((n_rows, 1, dim), dtype=np.float32)
    path, plain = folder / "many.zarr", folder / "many.npy"
    write, _ = _timed(lambda: write_vectors(path, n_rows, dim, audio.__getitem__))
    np.save(plain, audio)
    gigabytes = audio.nbytes / 1e9
    ratios = []
    for _ in range(rounds):
        store, _ = _timed(lambda: FeatureStore(path).audio())
        load, _ = _timed(lambda: np.load(plain))
        ratios.append((load / store, gigabytes / store, gigabytes / load))
    share, ours, theirs = sorted(ratios)[rounds // 2]
    print(f"{n_rows} x {dim}: store {ours:.2f} GB/s, np.load {theirs:.2f}: {share:.2f} of it")
    print(f"written at {gigabytes / write:.2f} GB/s, manifest and all")


def main() -> None:
    """Measure every number of rows in a process of its own, which prints a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", help="comma-separated", default="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, help="where to work", default=Path(tempfile.gettempdir()))
    parser.add_argument("--read", action="store_true", help="compare reading with np.load")
    parser.add_argument("--workers", action="store_true", help="measure the memory of worker processes")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read or options.workers:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            (compare_reading if options.read else measure_workers)(Path(folder))
        return
    if options.one:
        print(json.dumps(measure(options.one, options.folder)))
        return
    for number in options.rows.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            words = ["-m", "pipelines.benchmarks.scale", "--one", number, "--folder", folder]
            subprocess.run([sys.executable, *words], check=True)


if __name__ == "__main__":
    main()
