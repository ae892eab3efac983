"""What the fields of parameters hold: their types say it, wherever values come from."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping
from functools import cache
from math import inf
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from palm_cache.errors import ParameterError, did_you_mean, near
from palm_cache.types import UPath

Bounds = tuple[float, float]
"""The lowest and the highest that a number may be; infinity itself it never is."""

ANY: Bounds = (-inf, inf)

TAKEN: Mapping[type, Any] = {float: Real, str: (str, os.PathLike), Path: (str, os.PathLike)}
"""What stands for a value of a kind, and is made one: whole numbers, paths as text."""

WORDS: Mapping[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    UPath: "a remote path",
}


@cache
def kinds(holder: type) -> Mapping[str, Any]:
    """Return the type of every field of a dataclass, without what is annotated."""
    return get_type_hints(holder)


def plain(given: Any) -> Any:
    """Return a single value of numpy or torch as Python's, and of an enumeration of texts the text."""
    if isinstance(given, str):
        return str.__str__(given)
    return given.item() if getattr(given, "ndim", None) == 0 else given


def several(given: object) -> tuple[Any, ...]:
    """Return values as a tuple; what is no collection is a tuple of one."""
    given = plain(given)
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else (given,)


def choices(kind: Any) -> list[str]:
    """Return the words that a value may be, as far as they are a few: those of its literals."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for part in get_args(kind) for choice in choices(part)]


def check_fields(params: object, **bounds: Bounds) -> None:
    """Make sure that every field holds what its type says, and a number what lies within its bounds.

    A field of several values becomes a tuple whatever it was given as; a single one may stand alone.

    Raises
    ------
    ParameterError
        If one holds anything else.
    """
    holder: type = type(params)
    for name, kind in kinds(holder).items():
        given, within = getattr(params, name), bounds.get(name, ANY)
        if get_origin(kind) is tuple:
            (of_item, _) = get_args(kind)
            held: object = tuple(_held(name, of_item, one, within) for one in several(given))
        else:
            held = _held(name, kind, given, within)
        object.__setattr__(params, name, held)


def _held(name: str, kind: Any, value: Any, within: Bounds) -> object:
    """Return a value as one of a kind, or of the first of several that it fits."""
    value = plain(value)
    alternatives = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for one in alternatives:
        if _fits(one, value):
            made = MADE.get(one, lambda same: same)(value)
            if one not in (int, float) or (within[0] <= made <= within[1] and abs(made) < inf):
                return made
    expected = " or ".join(_described(one, within) for one in alternatives if one is not NoneType)
    meant = did_you_mean(near(str(value), choices(kind)))
    told = f"`{name}`: {reprlib.repr(value)} is not {expected}"
    raise ParameterError("; ".join(filter(None, (told, meant))))


def _fits(kind: Any, value: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if (whole := get_origin(kind)) is not None:  # a mapping, say: its owner looks into it
        return isinstance(value, whole)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, TAKEN.get(kind, kind))


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # of a whole number of hundreds of digits
        return inf


MADE: Mapping[type, Any] = {int: int, float: _float, str: os.fspath, Path: Path}


def _described(kind: Any, within: Bounds) -> str:
    if words := choices(kind):
        return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    lowest, highest = within
    bounds = (f" from {lowest:g}" if lowest > -inf else "") + (f" to {highest}" if highest < inf else "")
    return WORDS.get(kind, f"a {kind.__name__}") + bounds
