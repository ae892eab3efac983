"""The data cards: what a dataset is, where it comes from, what it should hold, how its folder is read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOTS = 16
"""Training clips per class in the paper's experiments."""


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What is known of a dataset without having it."""

    name: str
    """As the paper names it; also its folder below ``data/raw`` and ``data/features``."""
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
    aliases: tuple[str, ...] = ()
    """Other spellings, lower case; the name itself is matched whatever its case."""
    n_clips: int | None = None
    """In all folds of those tables together; ``None`` where that is not known."""
    published_test_clips: tuple[int, ...] = ()
    """Clips that each published fold is tested on, where these are others than the paper's."""
    note: str = ""
    """One sentence: how what is published differs from what the paper was made with."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """How it is read as published: which of ``published.LAYOUTS`` (``kind``), and what that is told; nothing
    where only the PALM tables hold the paper's split."""
    class_in_name: str = ""
    """Pattern whose group is, in the stem of a file's name, the class or its code."""
    codes: Mapping[str, str] = field(default_factory=dict)
    """Classes by their codes."""
    subset: bool = False
    """Whether the tables or lists that it is read from may hold classes that the paper leaves out."""
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


def _read_cards() -> tuple[DatasetCard, ...]:
    sections = tomllib.loads(Path(__file__).with_name("cards.toml").read_text(encoding="utf-8"))

    def card(name: str, section: dict[str, Any]) -> DatasetCard:
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
        return DatasetCard(name, **told)

    return tuple(card(name, section) for name, section in sections.items())


CARDS = _read_cards()
"""Every dataset that is known by name: the demo, and the eleven of the paper."""
