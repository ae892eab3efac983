"""Extraction against the plain loop and against the encoder alone, on the same files in one run.

Every way has a process of its own, so that its peak memory is its own, and loads its encoder there once. Then
the ways take turns, round after round: whatever else the machine does meanwhile meets them all.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from palm_cache.bench.runners import ExtractionSetup, Turn, finish, start, take_turn
from palm_cache.errors import AudioError, DataError, EncoderError
from palm_cache.extraction.audio.folders import audio_below
from palm_cache.extraction.audio.waveforms import open_regular, slide
from palm_cache.params import Precision, Runtime
from palm_cache.types import Progress, no_progress


@dataclass(slots=True)
class Contender:
    """One way of embedding files, and what was measured of it."""

    name: str
    how: ExtractionSetup
    start_seconds: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    embeddings: NDArray[np.float32] | None = None
    """(n_files, dim)"""
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What a way achieves."""

    name: str
    seconds: float
    """Per clip, median over the rounds."""
    cpu_seconds: float
    """Per clip, of all threads together."""
    speedup: float
    """How many times as fast as the plain loop: median over the rounds."""
    tower_seconds: float | None
    """Per clip, of the audio tower alone on log-mel that lies ready: the ceiling."""
    of_ceiling: float | None
    """What part of that speed is reached: median over the rounds."""
    min_cosine: float
    """Over the clips, to palm-cache's first way."""
    peak_bytes: int
    start_seconds: float
    """Until the first clip can be embedded."""
    turns: list[Turn]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The results of one run."""

    encoder: str
    n_files: int
    rounds: int
    threads: int
    machine: str
    load_average: tuple[float, float]
    """Before and after; without other programs it is 0 before."""
    results: list[Result]
    left_out: list[str]
    """Ways that cannot be taken here, and why."""


def contenders(
    how: ExtractionSetup, precisions: Sequence[Precision], runtimes: Sequence[Runtime]
) -> list[Contender]:
    """Return the plain loop, then every runtime in every precision; torch's compiled too if asked for."""
    rivals = [Contender("plain loop", replace(how, plain=True))]
    for runtime in runtimes:
        for precision in precisions:
            name = f"{runtime} {precision}"
            recipe = replace(how.recipe, runtime=runtime, precision=precision, compile=False)
            rivals.append(Contender(name, replace(how, recipe=recipe)))
            if how.recipe.compile and runtime == "torch":
                compiled = replace(how, recipe=replace(recipe, compile=True))
                rivals.append(Contender(f"{name} compiled", compiled))
    return rivals


def bench_extraction(
    spec: str,
    folder: Path,
    ways: Sequence[Contender],
    *,
    n_clips: int,
    rounds: int,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Benchmark:
    """Measure ways of embedding the files below a folder.

    Parameters
    ----------
    ways : sequence of Contender
        The first is what the others' speed is compared with, the second what the others' embeddings are.
    threads : int, optional
        That torch may use; by default what it takes by itself.

    Raises
    ------
    UnknownNameError, EncoderError
        If the encoder cannot be loaded. A later way that cannot be taken here is left out and reported.
    DataError
        If there is no audio.
    """
    files = find_files(folder, n_clips)
    threads = threads or torch.get_num_threads()
    before, total, finished, left_out = _load_average(), len(ways) * (1 + rounds), 0, []
    running: list[tuple[Contender, ProcessPoolExecutor]] = []
    with ExitStack() as stack:
        for contender in ways:
            place = Path(stack.enter_context(TemporaryDirectory()))
            process = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
            try:
                contender.start_seconds = process.submit(
                    start, spec, files, contender.how, threads, place
                ).result()
                running.append((contender, process))
            except EncoderError as error:
                if len(running) < 2:
                    raise
                left_out.append(f"{contender.name}: {error}")
            finished += 1
            progress("measuring", finished, total)
        for _ in range(rounds):
            for contender, process in running:
                contender.turns.append(process.submit(take_turn).result())
                finished += 1
                progress("measuring", finished, total)
        for contender, process in running:
            contender.embeddings, contender.peak_bytes = process.submit(finish).result()
    load = (before, _load_average())
    done = [contender for contender, _ in running]
    results = [_result(contender, plain=done[0], reference=done[1]) for contender in done]
    return Benchmark(spec, len(files), rounds, threads, machine(), load, results, left_out)


def find_files(folder: Path, count: int) -> list[Path]:
    """Return ``count`` audio files below a folder, spread evenly over those that are there.

    Raises
    ------
    DataError
        If there are none.
    """
    files = list(audio_below(folder))
    count = min(count, len(files))
    chosen = [files[number * len(files) // count] for number in range(count)]
    readable = [path for path in chosen if _is_audio(path)]
    if not readable:
        raise DataError(
            f"{folder}: no audio below this folder; name another (`files`), or: palm-cache synthesise"
        )
    return readable


def _is_audio(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return any(True for _ in slide(file, sample_rate=16_000, samples=16_000, hop=16_000))
    except AudioError:
        return False


def _result(contender: Contender, plain: Contender, reference: Contender) -> Result:
    vectors = _unit(reference)
    n_clips = len(vectors)
    towers = [turn.tower_seconds for turn in contender.turns if turn.tower_seconds is not None]
    # Turns of one round are neighbours in time: compare those, then take the middle one.
    pairs = list(zip(plain.turns, contender.turns, strict=True))
    return Result(
        name=contender.name,
        seconds=median(turn.seconds for turn in contender.turns) / n_clips,
        cpu_seconds=median(turn.cpu_seconds for turn in contender.turns) / n_clips,
        speedup=median(slow.seconds / turn.seconds for slow, turn in pairs),
        tower_seconds=median(towers) / n_clips if towers else None,
        of_ceiling=median(alone / turn.seconds for alone, turn in zip(towers, contender.turns, strict=True))
        if towers
        else None,
        min_cosine=float((_unit(contender) * vectors).sum(axis=1).min()),
        peak_bytes=contender.peak_bytes,
        start_seconds=contender.start_seconds,
        turns=contender.turns,
    )


def _unit(contender: Contender) -> NDArray[np.float64]:
    vectors = np.asarray(contender.embeddings, np.float64)
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _load_average() -> float:
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0


def machine() -> str:
    """Return processors and GPUs of this machine, in words."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux says more
        model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        name = model[1] if model else name
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([f"{os.cpu_count()} x {name}, {torch.backends.cpu.get_cpu_capability()}", *gpus])
