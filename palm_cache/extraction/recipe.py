"""All that decides the numbers of an embedding: the encoder, what it is fed and how clips are cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from palm_cache.params import CLIP_TOKENIZER, Recipe
from palm_cache.store.fingerprint import (
    PREPROCESSING_VERSION,
    decoding_libraries,
    fingerprint,
    recorded_options,
)

if TYPE_CHECKING:  # torch
    from palm_cache.extraction.encoders.base import Encoder


def audio_recipe(encoder: Encoder, recipe: Recipe) -> dict[str, object]:
    """Return all that decides an audio vector, JSON-serialisable.

    Its precision, runtime and compilation are the encoder's; of ``recipe`` come ``views`` and ``long``.
    """
    window = encoder.window
    return {
        **encoder.identity,
        "dim": encoder.dim,
        "sample_rate": encoder.sample_rate,
        "window": [window.samples, window.max_windows, window.padding],
        "views": recipe.views,
        "long": recipe.long,
        "preprocessing": PREPROCESSING_VERSION,
        "libraries": decoding_libraries(),
    }


def format1_print(encoder: Encoder, recipe: Recipe) -> str | None:
    """Return the fingerprint that format 1 gave what this recipe makes; ``None`` if it could not.

    The encoder's weights may be read again for it.
    """
    own = encoder.format1_identity()
    if own is None:
        return None
    window = encoder.window
    identity = {
        **own,
        **encoder.engine.identity,
        "dim": encoder.dim,
        "sample_rate": encoder.sample_rate,
        "window": [window.samples, window.max_windows, window.padding] + ["mean"] * (recipe.long == "mean"),
    }
    # As long as stores of format 1 were written, preprocessing was of version 1.
    return fingerprint({"identity": identity, "preprocessing": 1, "libraries": decoding_libraries()})


def recipe_of(recorded: Mapping[str, object], tokenizer: str = CLIP_TOKENIZER) -> Recipe:
    """Return the options by which something was made.

    Parameters
    ----------
    recorded : mapping
        As :func:`audio_recipe` describes it, or an identity of format 1. What is not in it has its default.
    tokenizer : str
        Is recorded by its content only, so it is given anew.
    """
    views = cast(int, recorded.get("views", 1))
    return Recipe(views=views, tokenizer=tokenizer, **recorded_options(recorded))
