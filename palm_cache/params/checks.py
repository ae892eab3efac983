"""What several options' values are checked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf
from numbers import Integral
from typing import Any, Literal, get_args, get_origin, get_type_hints

from palm_cache.errors import ParameterError, did_you_mean, near

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Names of devices; a number behind ``cuda:`` says which of several."""


def check_device(name: str) -> None:
    """Make sure that it is the name of a device, here or elsewhere.

    Raises
    ------
    ParameterError
        If it is none.
    """
    if name not in DEVICES and not re.fullmatch(r"cuda:\d+", name):
        raise ParameterError(f"`device` {name!r}: use auto, cpu, cuda, cuda:N or mps")


def check_cluster(address: str) -> None:
    """Make sure that a cluster, if one is named at all, is ``dask://HOST:PORT`` or ``ray://HOST:PORT``.

    Raises
    ------
    ParameterError
        If it is not an address of either kind.
    """
    match = re.fullmatch(r"(?:dask|ray)://(?:[^/@:]+|\[[\da-f:]+\]):(\d{1,5})", address)
    if address and not (match and int(match[1]) < 1 << 16):
        raise ParameterError(f"`cluster`: {address!r} is not dask://HOST:PORT or ray://HOST:PORT")


SHORTEST_WINDOW = 0.02
"""Seconds, about a frame of a spectrogram: in less of a sound there is nothing to tell it by."""


def check_seconds(params: object, *names: str) -> None:
    """Make sure that fields, where they are given, are seconds from one window to another or in one.

    Raises
    ------
    ParameterError
        If one is not.
    """
    for name in names:
        value = getattr(params, name)
        if value is not None and not SHORTEST_WINDOW <= value < inf:
            raise ParameterError(f"`{name}`: {value:g} is not a number of seconds from {SHORTEST_WINDOW:g}")


def several(given: object) -> tuple[Any, ...]:
    """Return values as a tuple, numpy's integers as Python's; what is no collection is a tuple of one."""
    values = given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    return tuple(int(one) if isinstance(one, Integral) else one for one in values)


def make_tuples(params: object) -> None:
    """Make a tuple of what was given for each field that is one: see :func:`several`."""
    for name, annotation in get_type_hints(type(params)).items():
        if get_origin(annotation) is tuple:
            object.__setattr__(params, name, several(getattr(params, name)))


def check_choices(params: object) -> None:
    """Make sure that every field whose type lists its values, or those of its items, holds only these.

    Raises
    ------
    ParameterError
        If one holds another.
    """
    for name, annotation in get_type_hints(type(params)).items():
        value = getattr(params, name)
        is_tuple = get_origin(annotation) is tuple
        kind = get_args(annotation)[0] if is_tuple else annotation
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        for given in value if is_tuple else (value,):
            if choices and given not in choices:
                told = f"`{name}`: {given!r} is not one of {', '.join(choices)}"
                meant = did_you_mean(near(str(given), choices))
                raise ParameterError("; ".join(filter(None, (told, meant))))


def check_bounds(params: object, **bounds: tuple[int, int]) -> None:
    """Make sure that fields are whole numbers from a lowest to a highest.

    Raises
    ------
    ParameterError
        If one is not.
    """
    for name, (lowest, highest) in bounds.items():
        value = getattr(params, name)
        if not lowest <= value <= highest:
            raise ParameterError(f"`{name}`: {value} is not a whole number from {lowest} to {highest}")
