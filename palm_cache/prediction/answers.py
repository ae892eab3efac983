"""What prediction says: answers, and inputs that it has none for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

from palm_cache.errors import ParameterError
from palm_cache.types.fields import several

if TYPE_CHECKING:  # the command line needs these names, not torch
    from torch import Tensor

NONE_OF_THESE = "none of these"
"""How an answer is written whose best probability is below the threshold."""

SILENCE = "silence"
"""How a silent stretch of a recording is written."""


def told_apart(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of classes to tell apart, without blanks around them.

    Raises
    ------
    ParameterError
        If there are fewer than two, or one is empty or named twice.
    """
    classes = tuple(name.strip() for name in several(names))
    if len(classes) < 2 or "" in classes or len(set(classes)) < len(classes):
        raise ParameterError(f"`classes`: give two or more, each once, not {', '.join(classes)!r}")
    return classes


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that nothing can be said about."""

    path: str
    """As it was given or found."""
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a head says about a file, or about a stretch of a recording."""

    path: str
    probabilities: Tensor | None
    """(n_classes,) float64; ``None`` for silence."""
    start: float = nan
    """Seconds; NaN where the file was not gone through."""
    end: float = nan
    """Seconds; NaN is the file's."""
    remarks: tuple[str, ...] = ()
    """What should be known about the file, e.g. that its channels cancel each other; of a recording, with the
    last of its stretches."""


def likeliest(probabilities: Tensor, class_names: Sequence[str], top: int = 1) -> list[tuple[str, float]]:
    """Return so many classes, at most all, and their probabilities (n_classes,), the likeliest first."""
    values, order = probabilities.sort(descending=True, stable=True)
    pairs = zip(order[:top].tolist(), values[:top].tolist(), strict=True)
    return [(class_names[number], value) for number, value in pairs]


def label_of(probabilities: Tensor | None, class_names: Sequence[str], threshold: float = 0.0) -> str:
    """Return what a result is called: a class, none of them, or, without probabilities, silence."""
    if probabilities is None:
        return SILENCE
    ((label, probability),) = likeliest(probabilities, class_names)
    return label if probability >= threshold else NONE_OF_THESE


def printable(path: Path | str) -> str:
    """Return a path as text that can be printed: what is not UTF-8, and line breaks, percent-escaped."""
    text = str(path)
    if text.isprintable():
        return text
    return quote_from_bytes(os.fsencode(text), safe="/\\ :")
