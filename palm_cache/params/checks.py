"""What several options' values are checked for, beside their types: see :mod:`palm_cache.types.fields`."""

from __future__ import annotations

import re

from palm_cache.errors import ParameterError

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Names of devices; a number behind ``cuda:`` says which of several."""

SHORTEST_WINDOW = 0.02
"""Seconds, about a frame of a spectrogram: in less of a sound there is nothing to tell it by."""


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
