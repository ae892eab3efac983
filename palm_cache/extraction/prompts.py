"""Text embeddings of class names, each prompt embedded once for all datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.recipe import text_recipe
from palm_cache.store.cache import Cache
from palm_cache.store.segments import KEY_BYTES
from palm_cache.types import Place


def embed_prompts_of(
    encoder: Encoder, class_names: Sequence[str], templates: Sequence[str], cache: Place
) -> NDArray[np.float32]:
    """Return the embedding of every class name in every template, (n_classes, n_templates, dim).

    Parameters
    ----------
    cache : Place
        The folder of what is known.

    Raises
    ------
    EncoderError
        If a prompt is longer than the text tower can read.
    OutputError
        If the cache cannot be written.
    """
    shape, recipe = (len(class_names), len(templates), encoder.dim), text_recipe(encoder)
    prompts = [template.replace("{c}", name) for name in class_names for template in templates]
    if recipe is None or not prompts:
        return np.zeros(shape, np.float32)
    hashed = b"".join(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest() for prompt in prompts)
    keys = np.frombuffer(hashed, np.uint8).reshape(-1, KEY_BYTES)
    known = Cache(cache, "text", recipe, (encoder.dim,))
    unknown = np.flatnonzero(~known.look_up(keys).known)
    if len(unknown):
        known.add(keys[unknown], encoder.embed_text([prompts[at] for at in unknown.tolist()]).numpy())
        known.merge()
    return known.take(keys).reshape(shape)
