"""How fast something was, how busy CPUs and GPU were meanwhile, and a table of it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

SECONDS_BETWEEN_SAMPLES = 0.2

Row = dict[str, Any]
"""Of a table, by the names of its columns."""


@dataclass
class Seen:
    """What was seen while something ran."""

    seconds: float = 0.0
    cores: float = 0.0
    """Of the machine that were busy."""
    gpu: list[float] = field(default_factory=list)
    """Percent of the time, in samples."""

    @property
    def row(self) -> Row:
        """As part of a row."""
        row: Row = {"CPU cores": self.cores}
        return {**row, "GPU %": mean(self.gpu)} if self.gpu else row


@contextmanager
def watching(device: str) -> Iterator[Seen]:
    """Time a block and sample how busy CPUs and GPU are meanwhile."""
    seen, ended = Seen(), threading.Event()
    sampler = threading.Thread(target=_sample, args=(seen.gpu, ended), daemon=True)
    busy, start = _busy_seconds(), time.perf_counter()
    if device != "cpu":
        sampler.start()
    try:
        yield seen
    finally:
        seen.seconds = time.perf_counter() - start
        seen.cores = (_busy_seconds() - busy) / seen.seconds
        ended.set()
        if device != "cpu":
            sampler.join()


def _sample(busy: list[float], ended: threading.Event) -> None:
    """Ask how busy the first GPU is, again and again."""
    # Not once with -lms: what it has not flushed when it is ended is lost.
    words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    while not ended.wait(SECONDS_BETWEEN_SAMPLES):
        with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
            said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=5).stdout
            busy.append(float(said.split()[0]))


def _busy_seconds() -> float:
    """Return how long the machine's cores have been busy, together; elsewhere than on Linux, this process."""
    with suppress(OSError):
        words = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
        user, nice, system, _, _, irq, soft, _ = map(int, words)
        return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
    return time.process_time()


def describe(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [", ".join(f"{name}: {value}" for name, value in report["machine"].items()), ""]
    for rows in filter(None, report["parts"].values()):
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        lines += [f"| {' | '.join(_cell(row.get(name, '')) for name in names)} |" for row in rows]
        lines.append("")
    lines += [f"FAILED {name}: {error}" for name, error in report["failed"].items()]
    lines += [f"NO TIME LEFT for {name}" for name in report["skipped"]]
    lines += [f"ENDED while {report['running']}"] * bool(report["running"])
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
