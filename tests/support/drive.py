"""A store of recordings cut into windows, as they come from a drive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samples import write_tone

from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.params import ReadingParams

KINDS = ("low", "middle", "high")
"""What is heard in a recording, by its number; each is a tone."""


@dataclass(frozen=True)
class Drive:
    """Recordings and their store."""

    recordings: Path
    store: Path


def write_recordings(folder: Path) -> Path:
    """Write recordings of three kinds."""
    for number in range(9):
        kind = number % len(KINDS)
        write_tone(folder / f"{number}.wav", 200.0 * 4**kind, seconds=2.5, seed=number)
    return folder


def make_drive(folder: Path) -> Drive:
    """Write recordings, and extract their windows of a second."""
    write_recordings(folder / "night")
    table = read_dataset(str(folder / "night"), reading=ReadingParams(window=1.0))
    extract(table, "mini", folder / "features" / "night" / "mini.zarr")
    return Drive(folder / "night", folder / "features" / "night" / "mini.zarr")


def kind_of(path: str) -> str:
    """What a labeller hears."""
    return KINDS[int(Path(path).stem) % len(KINDS)]
