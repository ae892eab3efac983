"""One hash for everything that decides the numbers in a feature store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version

PREPROCESSING_VERSION = 2
"""Raise this whole number with every change of decoding, resampling, cropping or windowing that
changes an embedding: every store made before becomes stale, and DVC extracts again."""


def fingerprint(identity: Mapping[str, object]) -> str:
    """Hash an encoder's identity together with the preprocessing it is fed by.

    Parameters
    ----------
    identity : mapping
        What decides the encoder's numbers, JSON-serialisable: see ``Encoder.identity``.

    Returns
    -------
    str
        64 hexadecimal digits. The same on every machine.
    """
    content = {
        "identity": dict(identity),
        "preprocessing": PREPROCESSING_VERSION,
        # Resampling kernels and decoders change their numbers, if at all, with a major version.
        "libraries": {name: version(name).split(".")[0] for name in ("torchaudio", "soundfile")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that make embeddings, for a store's provenance."""
    names = ("palm-cache", "torch", "torchaudio", "transformers", "soundfile", "zarr", "numpy")
    return {name: version(name) for name in names}
