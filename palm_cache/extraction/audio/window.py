"""How encoders want their waveforms cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Padding = Literal["tile", "repeat-pad", "nan"]


@dataclass(frozen=True, slots=True)
class Window:
    """How an encoder wants its waveforms cut.

    A stretch of at most ``samples * max_windows`` is what the encoder takes for one embedding: it is cut into
    as few windows as hold it, which overlap evenly; a clip shorter than one window is padded to one.
    """

    samples: int
    """Samples of one window at the encoder's sample rate."""
    max_windows: int = 1
    """Windows whose embeddings the encoder averages, at most."""
    padding: Padding = "tile"
    """``tile``: repeat the clip and cut the last repetition. ``repeat-pad``: repeat the whole clip as often
    as it fits, then zeros (the CLAP processor's ``repeatpad``). ``nan``: nothing is added to the sound; what
    follows its end is NaN, which no sound has, and the encoder leaves it out."""

    @property
    def stretch(self) -> int:
        """Samples that one embedding holds at most."""
        return self.samples * self.max_windows
