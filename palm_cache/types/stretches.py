"""How a stretch of a file is written for people to read."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan

Failures = Iterable[tuple[str, str, str]]
"""(path, reason, stretch as :func:`stretch_text` says it) of rows that have no embedding."""


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


def failure_lines(failures: Failures) -> list[str]:
    """Return failures as lines for people; those of one file that have one reason are one line."""
    stretches: dict[tuple[str, str], list[str]] = {}
    for path, reason, stretch in failures:
        stretches.setdefault((path, reason), []).append(stretch)
    lines = []
    for (path, reason), (first, *rest) in stretches.items():
        place = ", ".join(filter(None, (path, first)))
        lines.append(f"{place}{f' and {len(rest)} more of it' if rest else ''}: {reason}")
    return lines


def _seconds(value: float) -> str:
    return f"{round(value, 3):.10g}"
