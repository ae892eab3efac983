"""Which fonts have the letters of names: matplotlib's own has no Chinese, Japanese, Korean, Hindi ..."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from matplotlib import font_manager

_NO_LETTERS = "Last Resort"
"""How fonts are called that have a box for everything."""

LETTERS_NAMED = 10
"""Letters that a note names."""


@cache
def fonts_with(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Find fonts with the letters that the usual one lacks: as few as will do.

    Returns
    -------
    families : tuple of str
        Of the fonts that are needed beside the usual one.
    lacking : frozenset of str
        Letters that no font here has.
    """
    usual = font_manager.findfont(font_manager.FontProperties())
    lacking = letters - _letters_of(usual)
    families: list[str] = []
    while lacking:
        having = {name: lacking & of_font for name, of_font in _fonts().items()}
        best = max(sorted(having), key=lambda name: len(having[name]), default="")
        if not best or not having[best]:
            break
        families.append(best)
        lacking -= having[best]
    return tuple(families), lacking


def lacking_note(letters: frozenset[str]) -> str:
    """Say which letters no font here has, and where figures show them all the same."""
    named = " ".join(sorted(letters)[:LETTERS_NAMED]) + " ..." * (len(letters) > LETTERS_NAMED)
    return (
        f"no font here has the letters {named}: figures may show boxes for them; install a font "
        "that has them, such as Noto, where the report is made and where it is read"
    )


@cache
def _fonts() -> dict[str, frozenset[str]]:
    """Return the letters of every upright font of usual weight, by its family."""
    fonts: dict[str, frozenset[str]] = {}
    for entry in font_manager.fontManager.ttflist:
        plain = (entry.style, str(entry.weight)) in {("normal", "400"), ("normal", "normal")}
        if plain and not entry.name.startswith(_NO_LETTERS):
            with suppress(OSError, RuntimeError):  # removed since matplotlib looked, or damaged
                fonts.setdefault(entry.name, _letters_of(entry.fname))
    return fonts


def _letters_of(font: str) -> frozenset[str]:
    return frozenset(map(chr, font_manager.get_font(font).get_charmap()))
