"""What decides the numbers in a feature store, and hashes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

PREPROCESSING_VERSION = 3
"""Raise this whole number with every change of decoding, resampling, cropping or windowing that
changes an embedding: every store made before becomes stale, and DVC extracts again."""

REMOTE_CODE = "remote_code_sha256"
"""Of a recipe: the hash of code that lies with a model and was run for it."""


def recorded_options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a recipe records, or an identity of format 1, but for views and trust.

    In format 1 it is the window that says what became of long clips. What is not recorded has its default.
    """
    window = recipe.get("window")
    long = {"long": window[3]} if isinstance(window, list | tuple) and len(window) > 3 else {}
    names = [name for name in ("long", "precision", "runtime") if name in recipe]
    own = {name: str(recipe[name]).partition(" ")[0] for name in names}  # a runtime with its release
    return {**long, **own, "compile": "compiled" in recipe}


def fingerprint(content: Mapping[str, object]) -> str:
    """Return a hash of what can be JSON, 64 hexadecimal digits; the same on every machine."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def decoding_libraries() -> dict[str, str]:
    """Return the major versions of what decodes and resamples; numbers change, if at all, with them."""
    return {name: version(name).split(".")[0] for name in ("torchaudio", "soundfile")}


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that make embeddings, for a store's provenance."""
    names = ("palm-cache", "torch", "torchaudio", "transformers", "soundfile", "zarr", "numpy")
    return {name: version(name) for name in names}
