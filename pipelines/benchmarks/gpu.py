"""What a GPU does, from the tests to clips per second; needs nothing but the repository and torch with CUDA.

``python -m pipelines.benchmarks.gpu [--out FOLDER] [--dry-run] [--parts decode,alone,...]``, or ``make gpu``.

It makes its own audio, a CLAP of published size with random weights and a PENGI of full size, runs the tests
that are marked ``cuda``, and then measures what ``PARTS`` name. Each clip has a content of its own, and each
run a fresh cache, so that all of them are embedded. A part that fails is named and the next one is begun. On
an H100 with 16 cores it takes less than eight minutes. The folder gets ``gpu.json`` and ``gpu.md``.

``--dry-run`` does the same on a CPU with tiny sizes, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import joblib
import numpy as np
import soundfile
import torch
from transformers import ClapConfig

from palm_cache.adaptation.fit import fit_runs
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.cuda_graphs import GraphedEncoder, can_record
from palm_cache.extraction.encoders.engine import MAX_READERS, feeding_processes
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.extract import Extractor
from palm_cache.extraction.reading import CuttingRule, read_clips
from palm_cache.params import FitParams, Recipe, Resources
from palm_cache.types import Clip, ClipTable, Fold
from pipelines.benchmarks.fit import SHAPES, make_features
from pipelines.benchmarks.random_clap import save_random_clap
from pipelines.benchmarks.random_pengi import random_state, save_checkpoint, save_small_tokenizer
from pipelines.benchmarks.watch import Row, describe, machine, watching

REPOSITORY = Path(__file__).parents[2]

WARM_BATCHES = 4
"""Batches that every process embeds before it counts: towers are compiled, launches recorded."""

SECONDS_TO_LOAD = 4.0
"""Until every process has loaded the libraries that read."""

WAYS = {
    "bf16": Recipe(precision="bf16"),
    "tf32": Recipe(precision="tf32"),
    "fp32": Recipe(),
    "bf16 compiled": Recipe(precision="bf16", compile=True),
}
"""The recipes that are compared."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Clips of one format."""

    ending: str
    rate: int

    @property
    def name(self) -> str:
        """How the tables call it."""
        return f"{self.ending} {self.rate / 1000:g} kHz"


WAV, WAV_48, OGG = Kind("wav", 44_100), Kind("wav", 48_000), Kind("ogg", 44_100)
"""CLAP hears 48 kHz: the first and the last are resampled."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    clips: Mapping[Kind, int]
    seconds: float
    batch: int
    rounds: int
    """Batches over which the encoder alone is timed, thrice, after some that do not count."""
    device: str
    ways: Mapping[str, Recipe]
    clap: ClapConfig
    tests: tuple[str, ...]
    """Folders or files of tests."""
    shapes: int
    """Of the datasets whose fit is timed, the first so many."""
    max_seconds: float
    """After which no further part is begun."""


FULL = Sizes(
    {WAV: 8192, WAV_48: 4096, OGG: 1024}, 10.0, 128, 5, "cuda", WAYS, ClapConfig(), ("tests",), 11, 420
)

TINY = Sizes(
    {WAV: 24, WAV_48: 16, OGG: 8},
    1.0,
    2,
    1,
    "cpu",
    {"bf16": WAYS["bf16"], "fp32": WAYS["fp32"]},  # for a CPU, compiling takes minutes
    ClapConfig(
        audio_config={
            "depths": [1, 1],
            "num_attention_heads": [1, 2],
            "patch_embeds_hidden_size": 8,
            "num_hidden_layers": 2,
            "hidden_size": 16,
        },
        text_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        projection_dim=24,
    ),
    ("tests/extraction/test_gpu.py",),
    1,
    math.inf,
)


@dataclass
class Bench:
    """What the parts share: sizes and a folder of audio and weights, made when they are first needed."""

    sizes: Sizes
    folder: Path
    out: Path
    ceilings: dict[str, float] = field(default_factory=dict)
    """Clips per second of an encoder alone, by the name of the way."""
    decoding: dict[Kind, float] = field(default_factory=dict)
    """Clips per second that are read, at best."""

    @property
    def processes(self) -> int:
        """How many processes feed the device."""
        most = feeding_processes(torch.device(self.sizes.device), 10**9)
        return most if self.sizes.device != "cpu" else 2

    @cached_property
    def clap(self) -> str:
        """Spec of a CLAP with random weights."""
        save_random_clap(self.folder / "clap", self.sizes.clap)
        return f"clap:{self.folder / 'clap'}"

    @cached_property
    def sounds(self) -> dict[Kind, list[Clip]]:
        """Clips of every kind, no two alike."""
        sounds = {}
        for kind, count in self.sizes.clips.items():
            folder = self.folder / kind.name
            folder.mkdir()
            parts = [range(start, min(start + 64, count)) for start in range(0, count, 64)]
            write = joblib.delayed(write_sounds)
            written = joblib.Parallel(-1)(write(folder, kind, part, self.sizes.seconds) for part in parts)
            sounds[kind] = [clip for clips in written for clip in clips]
        return sounds


def write_sounds(folder: Path, kind: Kind, numbers: range, seconds: float) -> list[Clip]:
    """Write noises of which no two are alike."""
    samples = round(kind.rate * seconds)
    noise = np.random.default_rng(0).integers(-8000, 8000, samples, dtype=np.int16)
    clips = []
    for number in numbers:
        file = folder / f"{number}.{kind.ending}"
        noise[:100] = number  # several, so that Vorbis keeps it
        soundfile.write(file, np.roll(noise, number), kind.rate)
        clips.append(Clip(file, file.name, 0))
    return clips


# What is measured: each part gives rows of one table.


def run_tests(bench: Bench) -> Iterator[Row]:
    """Run the tests marked ``cuda``."""
    words = [sys.executable, "-m", "pytest", "-m", "cuda", "-rfEs", "--tb=short", *bench.sizes.tests]
    tests = subprocess.run(words, check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    (bench.out / "tests.log").write_text(tests.stdout + tests.stderr, encoding="utf-8")
    lines = tests.stdout.strip().splitlines() or [tests.stderr.strip()[-200:]]
    if tests.returncode:
        raise RuntimeError(f"pytest -m cuda: {lines[-1]}; see tests.log")
    yield {"tests": "pytest -m cuda", "result": lines[-1]}


def decode(bench: Bench) -> Iterator[Row]:
    """Read, decode and resample for CLAP, all there is before the encoder, by processes and their threads."""
    cut = CuttingRule.of(load_encoder(bench.clap, device="cpu"), Recipe())
    cores, many = joblib.cpu_count(), bench.processes
    for kind, clips in bench.sounds.items():
        for processes, threads in ((1, 1), (1, MAX_READERS), (1, cores), (many, max(1, cores // many))):
            numbered = list(
                enumerate(clips[: max(2 * processes, len(clips) // (1 if processes > 1 else 16))])
            )
            shares = [numbered[first::processes] for first in range(processes)]
            with joblib.Parallel(processes) as parallel:
                read = joblib.delayed(read_share)
                wait = SECONDS_TO_LOAD if processes > 1 else 0.0
                parallel(read(share[:2], cut, threads, wait) for share in shares)
                with watching(bench.sizes.device) as seen:
                    parallel(read(share, cut, threads) for share in shares)
            rate = len(numbered) / seen.seconds
            bench.decoding[kind] = max(rate, bench.decoding.get(kind, 0.0))
            yield {
                "clips": kind.name,
                "processes": processes,
                "threads": threads,
                "clips/s": rate,
                **seen.row,
            }


def read_share(clips: Sequence[tuple[int, Clip]], cut: CuttingRule, threads: int, wait: float = 0.0) -> None:
    """Read clips and drop what is read; ``wait`` some seconds, so that each process gets a share.

    Raises
    ------
    RuntimeError
        If one cannot be read.
    """
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as readers:
        for piece in read_clips(clips, cut, readers=readers, n_readers=threads, ahead=64):
            if piece.error:
                raise RuntimeError(piece.error)
    time.sleep(wait)


@torch.inference_mode()
def alone(bench: Bench) -> Iterator[Row]:
    """Time the encoder on a batch that lies ready in its memory: all of it, and its audio tower."""
    for name, recipe in bench.sizes.ways.items():
        encoder = load_encoder(bench.clap, recipe, device=bench.sizes.device)
        batch = torch.randn(bench.sizes.batch, 1, encoder.window.samples)
        ready = batch.to(encoder.device)
        with encoder.engine.products():
            features = encoder.front_end(ready)
            tower = batches_per_second(lambda: encoder.run_tower(features), bench)  # noqa: B023
            whole = batches_per_second(lambda: encoder.embed_windows(ready), bench)  # noqa: B023
        pinned = batch.pin_memory() if encoder.device.type == "cuda" else batch
        embed = on_stream(encoder)
        copied = batches_per_second(lambda: embed(pinned), bench)  # noqa: B023
        size = bench.sizes.batch
        bench.ceilings[name] = size * max(tower, whole, copied)
        yield {
            "encoder": f"CLAP {name}",
            "batch": size,
            "tower clips/s": size * tower,
            "with front end": size * whole,
            "recorded, copies and all": size * copied,
        }


def on_stream(encoder: Encoder) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return how a worker embeds a batch."""
    if not can_record(encoder):
        return encoder.embed_audio
    stream, recorded = torch.cuda.Stream(encoder.device), GraphedEncoder(encoder)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()

    def embed(waveforms: torch.Tensor) -> torch.Tensor:
        with torch.cuda.stream(stream):
            return recorded(waveforms)

    return embed


def batches_per_second(call: Callable[[], object], bench: Bench) -> float:
    """Time a call in a row, once what is made on first calls is made."""
    for _ in range(3):
        call()
    rates = []
    for _ in range(3):
        _synchronise(bench)
        start = time.perf_counter()
        for _ in range(bench.sizes.rounds):
            call()
        _synchronise(bench)
        rates.append(bench.sizes.rounds / (time.perf_counter() - start))
    return median(rates)


def _synchronise(bench: Bench) -> None:
    if bench.sizes.device != "cpu":
        torch.cuda.synchronize()


def extract(bench: Bench) -> Iterator[Row]:
    """Extract from files into a fresh cache and store: in every precision, then other files."""
    runs = [
        (f"CLAP {name}", bench.clap, recipe, WAV, bench.processes)
        for name, recipe in bench.sizes.ways.items()
    ]
    runs += [("CLAP bf16", bench.clap, WAYS["bf16"], kind, bench.processes) for kind in (WAV_48, OGG)]
    for run in runs:
        yield extract_once(bench, *run)


def pengi(bench: Bench) -> Iterator[Row]:
    """Extract with PENGI of full size."""
    checkpoint = save_checkpoint(bench.folder / "base.pth", random_state())
    save_small_tokenizer(bench.folder / "words")
    recipe = Recipe(precision="bf16", tokenizer=str(bench.folder / "words"))
    kind = min(bench.sizes.clips, key=lambda kind: bench.sizes.clips[kind])
    yield extract_once(bench, "PENGI bf16", f"pengi:{checkpoint}", recipe, kind, bench.processes)


def extract_once(bench: Bench, name: str, spec: str, recipe: Recipe, kind: Kind, jobs: int) -> Row:
    """Extract the clips of a kind and say how fast it was."""
    clips = bench.sounds[kind]
    table = ClipTable("Sounds", ("sound",), tuple(clips), (everything(len(clips)),), ())
    resources = Resources(device=bench.sizes.device, batch_size=bench.sizes.batch, jobs=jobs)
    with (
        tempfile.TemporaryDirectory(dir=bench.folder) as folder,
        Extractor(spec, recipe, resources) as extractor,
    ):
        warm = table.subset(range(min(len(clips), WARM_BATCHES * jobs * bench.sizes.batch)))
        for number, sounds in enumerate((warm, table)):  # the first loads libraries and compiles
            place = Path(folder, str(number))
            with watching(bench.sizes.device) as seen:
                extraction = extractor.extract(sounds, place / "sounds.zarr", place / ".cache")
    if extraction.embedded != len(clips):
        raise RuntimeError(
            f"{name}: embedded {extraction.embedded} of {len(clips)}: {extraction.failures[:1]}"
        )
    rate = len(clips) / seen.seconds
    row = {"encoder": name, "clips": kind.name, "processes": jobs, "clips/s": rate, **seen.row}
    if ceiling := bench.ceilings.get(name.removeprefix("CLAP ")):
        row["of alone"] = rate / ceiling
    if kind in bench.decoding:
        row["of decoding"] = rate / bench.decoding[kind]
    if extraction.notes:
        row["notes"] = "; ".join(extraction.notes)
    return row


def everything(count: int) -> Fold:
    """Return a fold of so many rows; nobody scores it."""
    rows = torch.arange(count)
    return Fold(rows[:-1], rows[-1:])


def fit(bench: Bench) -> Iterator[Row]:
    """Fit PALM in the shapes of the paper's datasets; that is the CPU's work."""
    features = [make_features(shape) for shape in SHAPES[: bench.sizes.shapes]]
    start = time.perf_counter()
    runs = sum(len(fit_runs(one, FitParams(heads=("palm",)))[0]) for one in features)
    yield {"fit": "palm", "device": "cpu", "runs": runs, "seconds": time.perf_counter() - start}


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "tests": run_tests,
    "decode": decode,
    "alone": alone,
    "extract": extract,
    "pengi": pengi,
    "fit": fit,
}


def write(report: Mapping[str, Any], out: Path) -> None:
    """Write what has been found so far."""
    (out / "gpu.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (out / "gpu.md").write_text(describe(report), encoding="utf-8")


def measure(sizes: Sizes, parts: Sequence[str], out: Path) -> dict[str, Any]:
    """Run some parts, one after the other, and write what they found."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    report: dict[str, Any] = {"machine": machine(sizes.device), "parts": {}, "failed": {}, "seconds": {}}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(sizes, Path(folder), out)
        for name in parts:
            began = time.monotonic()
            try:
                if began - started > sizes.max_seconds:
                    raise TimeoutError(f"no time left after {sizes.max_seconds} s")
                report["parts"][name] = []
                for row in PARTS[name](bench):
                    report["parts"][name].append(row)
                    write(report, out)
                    print(row, flush=True)
            except Exception as error:
                traceback.print_exc()
                report["failed"][name] = f"{type(error).__name__}: {error}"
            report["seconds"][name] = time.monotonic() - began
            write(report, out)
            print(f"{name}: {report['seconds'][name]:.0f} s", flush=True)
    return report


def main() -> None:
    """Measure what the command line says and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pipelines/benchmarks/results"))
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--parts", help="comma-separated", default=",".join(PARTS))
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device here; --dry-run shows that it works")
    report = measure(TINY if options.dry_run else FULL, options.parts.split(","), options.out)
    print(describe(report))
    sys.exit(1 if report["failed"] else 0)


if __name__ == "__main__":
    main()
