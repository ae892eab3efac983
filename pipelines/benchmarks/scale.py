"""How a store behaves as it grows: a whole extraction, and the use of it, with an encoder that costs nothing.

``python -m pipelines.benchmarks.scale [--rows 10000,100000,1000000] [--folder DIR]``

One short file under as many names as there are rows; ``mini`` reads the class names, but instead of its audio
tower every clip gets its loudness, 512 times. So what is measured is everything but the encoder: opening,
hashing and decoding files, batches, chunks, the store. Each number of rows has a process of its own, for its
peak memory. A million rows take 2.2 GB of disk for a while.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
import torch
from torch import Tensor

from palm_cache.adaptation.tasks import few_shot
from palm_cache.extraction import extract as stage_one
from palm_cache.extraction.encoders.mini import MiniEncoder
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip, ClipTable, Features, Fold

RATE = 16_000
N_CLASSES = 500
SHOTS = 16
BATCH = 64


class NullEncoder:
    """``mini`` without an audio tower: a clip's embedding is its loudness, in every dimension."""

    def __init__(self) -> None:
        self._mini = MiniEncoder.load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mini, name)

    def embed_audio(self, waveforms: Tensor) -> Tensor:
        """Return (batch, dim)."""
        return waveforms.square().mean(dim=(1, 2)).sqrt()[:, None].expand(-1, self._mini.dim)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one number of rows costs; seconds unless said."""

    rows: int
    extract: float
    again: float
    """A second extraction, which finds that nothing is to be done."""
    open: float
    read: float
    """All of it, checksums and all, twice its tables."""
    draw: float
    """16 shots of each of 500 classes."""
    extract_bytes: int
    """Peak memory of the process, extraction over."""
    files: int
    bytes: int


def make_table(file: Path, n_rows: int) -> ClipTable:
    """Return a dataset of one file under many names, a tenth of it test clips."""
    names = tuple(f"class {number:03}" for number in range(N_CLASSES))
    clips = tuple(Clip(file, f"{row:08}.wav", row % N_CLASSES) for row in range(n_rows))
    rows = torch.arange(n_rows)
    test = (rows // N_CLASSES) % 10 == 0
    return ClipTable("Many", names, clips, (Fold(rows[~test], rows[test]),), ())


def measure(n_rows: int, folder: Path) -> Measured:
    """Extract, look again, open, read and draw."""
    file, out = folder / "clip.wav", folder / "many.zarr"
    tone = 0.1 * np.sin(np.arange(RATE // 10) * 440 * 2 * np.pi / RATE)
    soundfile.write(file, tone.astype(np.float32), RATE)
    table, params, encoder = make_table(file, n_rows), ExtractParams(batch_size=BATCH), NullEncoder()
    with patch.object(stage_one, "load_encoder", lambda *_, **__: encoder):
        first, done = _timed(lambda: stage_one.extract(table, "mini", out, params))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        again, nothing = _timed(lambda: stage_one.extract(table, "mini", out, params))
    if (done.embedded, nothing.embedded) != (n_rows, 0):
        raise RuntimeError(f"embedded {done.embedded} clips, then {nothing.embedded}, of {n_rows}")
    opened, store = _timed(lambda: FeatureStore(out))
    read, features = _timed(store.read)
    draw, _ = _timed(lambda: _draw(features))
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return Measured(n_rows, first, again, opened, read, draw, peak, len(files), size)


def _draw(features: Features) -> None:
    few_shot(features, fold=1, shots=SHOTS, seed=0)


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def main() -> None:
    """Measure every number of rows in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", help="comma-separated", default="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, help="where to work", default=Path(tempfile.gettempdir()))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(measure(options.one, options.folder))))
        return
    columns = "extract s   us/row   again s   open s   read s   draw s   peak GB     files       GB"
    print(f"     rows   {columns}", flush=True)
    for number in (int(word) for word in options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            words = ["-m", "pipelines.benchmarks.scale", "--one", str(number), "--folder", folder]
            done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
        print(describe(Measured(**json.loads(done.stdout.splitlines()[-1]))), flush=True)


def describe(one: Measured) -> str:
    """Return a line of the table."""
    return (
        f"{one.rows:9}{one.extract:12.1f}{1e6 * one.extract / one.rows:9.0f}{one.again:10.1f}{one.open:9.3f}"
        f"{one.read:9.2f}{one.draw:9.3f}{one.extract_bytes / 1e9:10.2f}{one.files:10}{one.bytes / 1e9:9.2f}"
    )


if __name__ == "__main__":
    main()
