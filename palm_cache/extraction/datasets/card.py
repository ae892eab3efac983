"""The data card: what a dataset is, where it comes from, what it should hold, how its folder is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from palm_cache.types import ClipTable

SHOTS = 16
"""Training clips per class in the paper's experiments."""

Adapter = Callable[[Path, str], ClipTable]
"""(a dataset's folder, its name) -> its table of clips"""


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What is known of a dataset without having it."""

    name: str
    """As the paper names it; also its folder below ``data/raw`` and ``data/features``."""
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
    split: str
    """One sentence: where its folds come from, and how they differ from the paper's if they do."""
    tree: str
    """The published layout, for people; the PALM layout is read as well."""
    class_names: tuple[str, ...]
    """As the paper feeds them to the text encoder, sorted by code point."""
    test_clips: tuple[int, ...]
    """Clips that each fold is tested on, in the tables that the paper was made with."""
    n_clips: int | None
    """In all folds of those tables together; ``None`` where that is not known."""
    read: Adapter
    published_test_clips: tuple[int, ...] = ()
    """Clips that each published fold is tested on, where these are others than the paper's."""
    bibtex: str = ""
    """The dataset's own paper."""
    hub: str | None = None
    """The PALM authors' copy: a dataset on the hub, ``owner/name``."""
    shares_audio_with: str | None = None
    """Name of the dataset whose folder is good for this one too."""

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return len(self.test_clips)

    @property
    def few_shot_clips(self) -> int:
        """Training clips of one 16-shot draw: every class has enough of them in every fold."""
        return SHOTS * self.n_classes
