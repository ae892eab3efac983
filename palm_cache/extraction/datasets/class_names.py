"""Class names as they can be stored and read to a text encoder, and names that look like one another."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from palm_cache.errors import counted, some
from palm_cache.extraction.datasets.texts import is_legible, legible

EMPTY_LOOKING = {"nan", "none", "null", "n/a", "na", "<na>"}
"""What libraries write where there is nothing, lower case; a class may be called like this."""

NAMES_LISTED = 10


def clean(name: str) -> str:
    """Return a class name in composed normal form, with plain spaces and nothing invisible at its ends."""
    spaced = "".join(
        " " if unicodedata.category(letter) == "Zs" else letter
        for letter in unicodedata.normalize("NFC", legible(name))
        if letter not in "\u200b\ufeff\u2060\u00ad"
    )
    return spaced.strip()


def unstorable(name: str) -> str | None:
    """Return what is wrong with a clean name that cannot be one line of text, or ``None``."""
    bad = next((letter for letter in name if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")), None)
    return None if bad is None else f"holds the control character {bad!r}"


def unified(spellings: Mapping[str, str]) -> list[str]:
    """Say which names were changed.

    Parameters
    ----------
    spellings : mapping
        From every name as it was written to what it has become.
    """
    notes = []
    foreign = sorted(new for old, new in spellings.items() if not is_legible(old))
    if foreign:
        notes.append(f"class names that are not UTF-8, read as Windows-1252: {named(foreign)}")
    others = sorted(new for old, new in spellings.items() if is_legible(old) and old != new)
    if others:
        notes.append(
            "class names written with no-break or invisible spaces or in decomposed form, read as one with "
            f"their plain spelling: {named(list(dict.fromkeys(others)))}"
        )
    return notes


def suspicious(counts: Mapping[str, int]) -> list[str]:
    """Say which classes look like one another, like several, or like nothing.

    Parameters
    ----------
    counts : mapping
        Clips by class.
    """
    alike: dict[str, list[str]] = {}
    for name in counts:
        plain = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault(re.sub(r"[\s_.-]+", "", plain) or plain, []).append(name)
    notes = []
    for names in alike.values():
        if len(names) > 1:
            listed = ", ".join(f"{name!r} ({counts[name]:,})" for name in names)
            notes.append(f"classes whose names hardly differ: {listed}; are they one?")
    notes += [
        f"class {name!r} ({counts[name]:,}): is that a name, or a label that is missing?"
        for name in counts
        if name.casefold() in EMPTY_LOOKING
    ]
    notes += [
        f"class {name!r} ({counts[name]:,}) begins or ends with a quote: was it to be closed, or opened?"
        for name in counts
        if name.strip('"') != name
    ]
    notes += [
        f"class {name!r} ({counts[name]:,}) is written in letters of several alphabets: is that meant?"
        for name in counts
        if any(len(_alphabets(word)) > 1 for word in name.split())
    ]
    parts = {name: set(map(str.strip, re.split("[,;|]", name))) for name in counts}
    known = Counter(part for of_name in parts.values() for part in of_name)
    lists = [name for name, some in parts.items() if len(some) > 1 and all(known[part] > 1 for part in some)]
    if lists:
        told = counted(len(lists), "class seems to be a list", "classes seem to be lists")
        notes.append(
            f"{told} of others, e.g. {lists[0]!r}: a clip has one class, and a list is one of its own"
        )
    return notes


def _alphabets(word: str) -> set[str]:
    """Return which of the alphabets a word is written in whose letters look alike."""
    first = {unicodedata.name(letter, "").partition(" ")[0] for letter in word if letter.isalpha()}
    return first & {"LATIN", "CYRILLIC", "GREEK"}


def named(names: Sequence[str]) -> str:
    """Return the first of many names, in words."""
    return some(names, NAMES_LISTED)
