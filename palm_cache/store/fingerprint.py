"""One hash for everything that decides the numbers in a feature store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version

PREPROCESSING_VERSION = 1
"""Raise this whole number with every change of decoding, resampling, cropping or windowing that
changes an embedding: every store made before becomes stale, and DVC extracts again."""


def fingerprint(content: Mapping[str, object]) -> str:
    """Hash what decides some numbers, JSON-serialisable: 64 hexadecimal digits, the same on every machine."""
    return hashlib.sha256(json.dumps(dict(content), sort_keys=True).encode()).hexdigest()


def preprocessing() -> dict[str, object]:
    """Return what decides how sound is decoded, resampled and cut."""
    # Resampling kernels and decoders change their numbers, if at all, with a major version.
    majors = {name: version(name).split(".")[0] for name in ("torchaudio", "soundfile")}
    return {"preprocessing": PREPROCESSING_VERSION, "libraries": majors}


def format1_fingerprint(identity: Mapping[str, object]) -> str:
    """Return the fingerprint that stores of format 1 bear, of an encoder's identity as it was then."""
    return fingerprint({"identity": dict(identity), **preprocessing(), "preprocessing": 1})


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that make embeddings, for a store's provenance."""
    names = ("palm-cache", "torch", "torchaudio", "transformers", "soundfile", "zarr", "numpy")
    return {name: version(name) for name in names}
