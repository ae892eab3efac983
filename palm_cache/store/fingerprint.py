"""Hashes of what decides the numbers in a feature store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version

PREPROCESSING_VERSION = 2
"""Raise this whole number with every change of decoding, resampling, cropping or windowing that
changes an embedding: every store made before becomes stale, and DVC extracts again."""


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
