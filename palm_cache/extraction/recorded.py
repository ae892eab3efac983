"""The encoder that made a store or heads, loaded again by what was recorded of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from palm_cache.errors import EncoderError, StaleStoreError
from palm_cache.extraction.encoders.cards import CLASS, CODE, OPTION, OWN
from palm_cache.extraction.encoders.own_code import is_edited
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe, format1_print, recipe_of
from palm_cache.params.use import LoadingParams
from palm_cache.store.fingerprint import REMOTE_CODE, fingerprint

if TYPE_CHECKING:
    from palm_cache.extraction.encoders.base import Encoder
    from palm_cache.store.header import StoreHeader
    from palm_cache.store.root import StoreRoot
    from palm_cache.types import TextTower


def notes_of_code(store: StoreRoot) -> list[str]:
    """Return a note where somebody's own encoder has been edited since it made a store; it is not run."""
    header = store.header
    recorded = header.recipe.get(CODE)
    if not recorded or not is_edited(header.encoder, recorded):
        return []
    return [
        f"{header.dataset}: the code of {header.encoder} is not what made the store; have it made by the "
        f"code as it is with {store.remade_by} --on-stale rebuild"
    ]


def load_encoder_of(header: StoreHeader, loading: LoadingParams) -> Encoder:
    """Load the encoder that made a feature store; raise as :func:`load_same_encoder`."""
    return load_same_encoder(
        header.encoder,
        header.recipe,
        header.fingerprint,
        loading,
        purpose=f"made the {header.dataset} store",
        advice="extract again with --on-stale rebuild, or give the ones it was made with",
    )


def load_text_tower(header: StoreHeader, loading: LoadingParams) -> TextTower:
    """Load the text tower of the encoder that made a feature store; raise as :func:`load_encoder_of`.

    Raises
    ------
    EncoderError
        If the encoder has none; it is not loaded then, and no code of anybody's is run.
    """
    tower = load_encoder_of(header, loading).text_tower() if header.text_recipe is not None else None
    if tower is None:
        raise EncoderError(f"{header.encoder}: embeds sound only; heads that learn prompts need a text tower")
    return tower


def load_same_encoder(
    spec: str,
    recorded: Mapping[str, object],
    expected: str,
    loading: LoadingParams,
    *,
    purpose: str,
    advice: str,
) -> Encoder:
    """Load an encoder by an earlier recipe, and make sure that its numbers are the same.

    Parameters
    ----------
    spec : str
        As recorded then.
    recorded : mapping
        The recipe, or identity of format 1, as recorded then; empty where it was not.
    expected : str
        Fingerprint, as recorded then; also of format 1.
    loading : LoadingParams
        What the user says. A recorded ``python:`` spec is a stranger's word for code to run, and is followed
        only where the user names it too; so is the code of an ``hf:`` model.
    purpose, advice : str
        For the error: what the recorded one did, and what to do about another.

    Raises
    ------
    UnknownNameError, EncoderError
        If the encoder cannot be loaded.
    StaleStoreError
        If it is another one.
    """
    if loading.encoder is None and spec.partition(":")[0] == OWN.name:
        raise EncoderError(
            f"encoder {spec}: is code of somebody's; to have it run, name it: `encoder` {spec}"
        )
    spec = loading.encoder or spec
    recipe = recipe_of(recorded, loading.tokenizer)
    if REMOTE_CODE in recorded:
        if not loading.trust_remote_code:
            raise EncoderError(
                f"encoder {spec}: embedded by code that lies with the model; to have it run again, give "
                "`trust_remote_code`"
            )
        recipe = replace(recipe, trust_remote_code=True)
    encoder = load_encoder(spec, recipe, device=loading.device)
    loaded = audio_recipe(encoder, recipe)
    current = fingerprint(loaded)
    if expected != current and expected != format1_print(encoder, recipe):
        raise StaleStoreError(
            f"encoder {spec}: other {_what_differs(recorded, loaded)} than those that {purpose} "
            f"(fingerprint {current[:12]}, wanted {expected[:12]}); {advice}"
        )
    return encoder


def _what_differs(recorded: Mapping[str, object], loaded: Mapping[str, object]) -> str:
    if not recorded:
        return "weights, tokenizer or libraries"
    compared = {*recorded, CODE, CLASS, OPTION}  # which were not recorded always
    differing = [key for key in loaded if key in compared and loaded[key] != recorded.get(key)]
    names = [key.removesuffix("_sha256").replace("_", " ") for key in differing]
    return ", ".join(names) or "versions of preprocessing or of its libraries"
