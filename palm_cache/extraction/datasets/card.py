"""The data card: what a dataset is, where it comes from, how its folder is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from palm_cache.types import ClipTable


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What is known of a dataset without having it."""

    name: str
    """As published; also its folder below ``data/raw`` and ``data/features``."""
    aliases: tuple[str, ...]
    """Other spellings, lower case; the name itself is matched whatever its case."""
    description: str
    source: str
    """URL, or the command that makes it."""
    licence: str
    size: str
    """On disk, for people."""
    how_to_get: str
    """One sentence: what to do where the dataset is not there."""
    n_classes: int
    n_folds: int
    n_clips: int
    read: Callable[[Path], ClipTable]
    """Adapter: the dataset's folder -> its table of clips."""

    def differences(self, table: ClipTable) -> tuple[str, ...]:
        """Name the counts of a local copy that are not the published ones."""
        pairs = (
            ("classes", len(table.class_names), self.n_classes),
            ("folds", len(table.folds), self.n_folds),
            ("clips", len(table.clips), self.n_clips),
        )
        return tuple(
            f"{have} {what} here, {want} in the published {self.name}"
            for what, have, want in pairs
            if have != want
        )
