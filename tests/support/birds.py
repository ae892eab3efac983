"""Folders of tones that stand for birds, and what palm-cache reads of them."""

from __future__ import annotations

from pathlib import Path

from samples import write_tone

from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.params import ReadingParams
from palm_cache.types import ClipTable

CLASSES = ("blackbird", "wren")


def tones(root: Path, *names: str, seconds: float = 0.25) -> Path:
    for number, name in enumerate(names):
        write_tone(root / name, 300 + 50 * number, seconds=seconds, seed=number)
    return root


def labels(table: ClipTable) -> dict[str, str | None]:
    return {clip.name: table.class_of(clip) for clip in table.clips}


def stretches(table: ClipTable) -> list[tuple[str, float, float | None, str | None]]:
    return [(clip.name, clip.start, clip.end, table.class_of(clip)) for clip in table.clips]


def read(root: Path, **reading: object) -> ClipTable:
    return read_dataset(str(root), reading=ReadingParams(**reading))  # type: ignore[arg-type]


BIRDS = {f"{name}/{number}.wav": name for name in CLASSES for number in range(3)}
