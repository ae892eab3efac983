"""How a stretch of a file is written for people to read."""

from __future__ import annotations

from math import isnan


def stretch_text(start: float, end: float | None) -> str:
    """Return a stretch of a file in words: ``5-10 s``, ``7 s to its end``, "" for all of it.

    What programs read has no end there: an empty cell, ``null``, NaN.

    Parameters
    ----------
    start, end : float
        Seconds; ``None`` or NaN is the end of the file.
    """
    if end is not None and not isnan(end):
        return f"{_seconds(start)}-{_seconds(end)} s"
    return f"{_seconds(start)} s to its end" if start else ""


def _seconds(value: float) -> str:
    return f"{round(value, 3):.10g}"
