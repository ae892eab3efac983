"""What a family of sounds is, and the register of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from pipelines.mini.world.dsp import Sound

Synthesis = Callable[[Generator], Sound]


@dataclass(frozen=True, slots=True)
class Family:
    """Sounds that go by the same names."""

    names: tuple[str, ...]
    """Names and synonyms, the most usual first."""
    synthesise: Synthesis
    """Draws one sound of the family: mono, at ``dsp.RATE``, of any length and level."""
    most_repeats: int
    """How often the sound may be repeated within a clip; 1 for what goes on by itself."""


FAMILIES: list[Family] = []
"""Every family, in the order in which the modules of this package define them."""


def listed(text: str) -> tuple[str, ...]:
    """Split a list that is written with commas."""
    return tuple(text.split(", "))


def family(names: str, most_repeats: int = 1) -> Callable[[Synthesis], Synthesis]:
    """Register a synthesis under its names, which are :func:`listed`."""

    def register(synthesise: Synthesis) -> Synthesis:
        FAMILIES.append(Family(listed(names), synthesise, most_repeats))
        return synthesise

    return register
