"""The parts of the benchmark: each gives steps, and every step a row of the part's table."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import joblib
import torch

from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.cuda_graphs import GraphedEncoder, can_record
from palm_cache.extraction.encoders.devices import MAX_READERS
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.extract import Extractor
from palm_cache.extraction.reading import CuttingRule, read_clips
from palm_cache.params import Recipe, Resources
from palm_cache.types import Clip, Clips, ClipTable
from pipelines.benchmarks.gpu.bench import OGG, WAV, WAV_48, WAYS, Bench, Kind
from pipelines.benchmarks.random_pengi import random_state, save_checkpoint, save_small_tokenizer
from pipelines.benchmarks.watch import Row, watching

REPOSITORY = Path(__file__).parents[3]

WARM_BATCHES = 4
"""Batches that every process embeds before it counts: towers are compiled, launches recorded."""

SECONDS_TO_LOAD = 4.0
"""Until every process has loaded the libraries that read."""

MAX_TEST_SECONDS = 240.0

Step = tuple[str, Callable[[], Row]]
"""A name, and what measures one row."""


def alone(bench: Bench) -> list[Step]:
    """Time the encoder on a batch that lies ready in its memory: all of it, and its audio tower."""
    return [(name, partial(alone_once, bench, name, recipe)) for name, recipe in bench.sizes.ways.items()]


@torch.inference_mode()
def alone_once(bench: Bench, name: str, recipe: Recipe) -> Row:
    """Time one way of computing."""
    size, encoder = bench.sizes.batch, load_encoder(bench.clap, recipe, device=bench.sizes.device)
    batch = torch.randn(size, 1, encoder.window.samples)
    ready = batch.to(encoder.device)
    with encoder.engine.products():
        features = encoder.front_end(ready)
        tower = size * batches_per_second(lambda: encoder.run_tower(features), bench)
        whole = size * batches_per_second(lambda: encoder.embed_windows(ready), bench)
    pinned = batch.pin_memory() if encoder.device.type == "cuda" else batch
    embed = on_stream(encoder)
    copied = size * batches_per_second(lambda: embed(pinned), bench)
    bench.ceilings[name] = max(tower, whole, copied)
    return {
        "encoder": f"CLAP {name}",
        "batch": size,
        "tower clips/s": tower,
        "with front end": whole,
        "recorded, copies and all": copied,
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


def decode(bench: Bench) -> list[Step]:
    """Read, decode and resample for CLAP, all there is before the encoder, by processes and their threads."""
    cores, many = joblib.cpu_count(), bench.processes
    ways = ((1, 1), (1, MAX_READERS), (1, cores), (many, max(1, cores // many)))
    return [
        (f"{kind.name}, {processes} x {threads}", partial(decode_once, bench, kind, processes, threads))
        for kind in bench.sizes.clips
        for processes, threads in ways
    ]


def decode_once(bench: Bench, kind: Kind, processes: int, threads: int) -> Row:
    """Time so many processes with so many threads each; one alone reads a sixteenth of the clips."""
    cut, clips = CuttingRule.of(load_encoder(bench.clap, device="cpu"), Recipe()), bench.sounds(kind)
    numbered = list(enumerate(clips[: max(2 * processes, len(clips) // (1 if processes > 1 else 16))]))
    shares = [numbered[first::processes] for first in range(processes)]
    with joblib.Parallel(processes) as parallel:
        read = joblib.delayed(read_share)
        wait = SECONDS_TO_LOAD if processes > 1 else 0.0
        parallel(read(share[:2], cut, threads, wait) for share in shares)
        with watching(bench.sizes.device) as seen:
            parallel(read(share, cut, threads) for share in shares)
    rate = len(numbered) / seen.seconds
    bench.decoding[kind] = max(rate, bench.decoding.get(kind, 0.0))
    return {"clips": kind.name, "processes": processes, "threads": threads, "clips/s": rate, **seen.row}


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


def extract(bench: Bench) -> list[Step]:
    """Extract from files into a fresh cache and store: in every precision, then other files."""
    runs = [(f"CLAP {name}", recipe, WAV) for name, recipe in bench.sizes.ways.items()]
    runs += [("CLAP bf16", WAYS["bf16"], kind) for kind in (WAV_48, OGG)]
    return [
        (
            f"{name}, {kind.name}",
            lambda name=name, recipe=recipe, kind=kind: extract_once(bench, name, bench.clap, recipe, kind),
        )
        for name, recipe, kind in runs
    ]


def pengi(bench: Bench) -> list[Step]:
    """Extract with PENGI of full size."""

    def take() -> Row:
        checkpoint = save_checkpoint(bench.folder / "base.pth", random_state())
        save_small_tokenizer(bench.folder / "words")
        recipe = Recipe(precision="bf16", tokenizer=str(bench.folder / "words"))
        kind = min(bench.sizes.clips, key=lambda kind: bench.sizes.clips[kind])
        return extract_once(bench, "PENGI bf16", f"pengi:{checkpoint}", recipe, kind)

    return [("bf16", take)]


def extract_once(bench: Bench, name: str, spec: str, recipe: Recipe, kind: Kind) -> Row:
    """Extract the clips of a kind and say how fast it was."""
    clips, jobs = bench.sounds(kind), bench.processes
    table = ClipTable("Sounds", (), Clips.of(clips), ())
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


def tests(bench: Bench) -> list[Step]:
    """Run the tests marked ``cuda``."""

    def take() -> Row:
        words = [sys.executable, "-m", "pytest", "-m", "cuda", "-rfEs", "--tb=short", *bench.sizes.tests]
        with (bench.out / "tests.log").open("w+", encoding="utf-8") as log:  # what a kill leaves, stays
            limit = min(MAX_TEST_SECONDS, bench.seconds_left)
            code = subprocess.run(
                words, check=False, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, timeout=limit
            ).returncode
            log.seek(0)
            lines = log.read().strip().splitlines() or ["it said nothing"]
        if code:
            raise RuntimeError(f"pytest -m cuda: {lines[-1]}; see tests.log")
        return {"tests": "pytest -m cuda", "result": lines[-1]}

    return [("pytest", take)]


PARTS: dict[str, Callable[[Bench], list[Step]]] = {
    "alone": alone,
    "decode": decode,
    "extract": extract,
    "pengi": pengi,
    "tests": tests,
}
"""In this order: whole extractions are set against the first two, and a short lease may end in the tests."""
