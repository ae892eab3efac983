"""Which encoders are known, and how a spec such as ``clap:laion/clap-htsat-unfused`` is loaded."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from palm_cache.errors import EncoderError, StaleStoreError, UnknownNameError
from palm_cache.extraction.encoders.cards import CARDS, CODE, OWN, REMOTE_CODE, EncoderCard
from palm_cache.extraction.hub import reason
from palm_cache.params import CLIP_TOKENIZER, Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from palm_cache.extraction.encoders.base import Encoder
    from palm_cache.store.header import StoreHeader
    from palm_cache.types import TextTower

ENTRY_POINTS = "palm_cache.encoders"
"""Group of entry points by which other packages add theirs."""


def encoder_names() -> list[str]:
    """Return what a spec can begin with; nothing is imported."""
    return [*CARDS, *_foreign(), OWN.name]


def cards() -> list[EncoderCard]:
    """Return the cards of all encoders; other packages' are imported, and left out where they cannot be."""
    every_card = [*CARDS.values(), OWN]
    for name in _foreign():
        with suppress(EncoderError):
            every_card.append(encoder_class(name).card)
    return every_card


def card_named(name: str) -> EncoderCard:
    """Return the card of an encoder by its name; raise as :func:`encoder_class`."""
    by_name = {**CARDS, OWN.name: OWN}
    return by_name[name] if name in by_name else encoder_class(name).card


def find_card(spec: str) -> EncoderCard | None:
    """Return the card of an encoder of palm-cache's own; ``None`` for others, whose code is not run."""
    return CARDS.get(spec.partition(":")[0])


def encoder_class(name: str) -> type[Encoder]:
    """Import the class of an encoder by its name.

    Raises
    ------
    UnknownNameError
        If there is none.
    EncoderError
        If another package's cannot be imported or is no encoder.
    """
    places = {**_foreign(), **{card.name: card.place for card in CARDS.values()}}
    if name not in places:
        raise UnknownNameError.among("encoder", name, encoder_names())
    module, _, attribute = places[name].partition(":")
    return _import(name, module, attribute)


def split_spec(spec: str) -> tuple[str, str]:
    """Split a spec into the encoder's name and its source.

    Raises
    ------
    UnknownNameError
        If there is no such encoder.
    EncoderError
        If it would be taken for the names of joined ones.
    """
    name, _, source = spec.partition(":")
    if "+" in source:
        raise EncoderError(
            f"encoder {spec!r}: + stands between the names of joined encoders; rename the file or folder, or "
            "name it by a link"
        )
    if name not in encoder_names():
        raise UnknownNameError.among("encoder", name, encoder_names())
    return name, source


def check_spec(spec: str) -> None:
    """Make sure that a spec says which encoder and which weights; nothing is imported for it.

    Raises
    ------
    UnknownNameError
        If there is no such encoder.
    EncoderError
        If the spec is not whole.
    """
    name, source = split_spec(spec)
    if name == OWN.name and not re.fullmatch(r"[^:]+:[^:]+(:.*)?", source):
        raise EncoderError(f"encoder {spec!r}: write python:MODULE:CLASS, e.g. python:my_encoder:Birds")
    if name in CARDS:
        _need_source(spec, source, CARDS[name])


def load_encoder(spec: str, recipe: Recipe | None = None, *, device: str = "auto") -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    spec : str
        E.g. ``"mini"`` or ``"pengi:base.pth"``.
    recipe : Recipe, optional
        Precision, runtime and whether to compile are for the encoder, and ``tokenizer`` for one that brings
        none.
    device : str
        See :func:`~palm_cache.extraction.encoders.engine.choose_device`.

    Raises
    ------
    UnknownNameError, EncoderError
        If it does not exist, cannot be loaded or the device or the runtime is not there.
    """
    from palm_cache.extraction.encoders.base import Request
    from palm_cache.extraction.encoders.engine import Engine

    recipe = recipe or Recipe()
    check_spec(spec)
    name, source = split_spec(spec)
    if recipe.trust_remote_code and name != "hf":
        raise EncoderError(f"encoder {spec!r}: `trust_remote_code` is for hf: alone; leave it out")
    if name == OWN.name:
        module, attribute, source = (*source.split(":", 2), "")[:3]
        kind = _import(spec, module, attribute)
    else:
        kind = encoder_class(name)
        _need_source(spec, source, kind.card)
    request = Request(spec, source, Engine.of(recipe, device), recipe)
    if name in CARDS:
        return kind.load(request)
    from palm_cache.extraction.encoders.third_party import hash_code, load_own

    if name == OWN.name:
        request = replace(request, code=hash_code(kind.__module__))
    return load_own(kind, request)


def _need_source(spec: str, source: str, card: EncoderCard) -> None:
    if not source and ":" in card.spec:
        raise EncoderError(f"encoder {spec!r}: say which weights: {card.spec}, e.g. {card.example}")


def _import(subject: str, module: str, attribute: str) -> type[Encoder]:
    """Import a class; the folder that palm-cache runs in counts, as with ``python -m``."""
    from palm_cache.extraction.encoders.base import Encoder

    sys.path.append(str(Path.cwd()))
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module of somebody's may raise anything, a script ends
        raise EncoderError(
            f"encoder {subject}: cannot import {attribute} from {module}: {reason(error)}"
        ) from error
    finally:
        sys.path.pop()
    if not (isinstance(kind, type) and issubclass(kind, Encoder)):
        raise EncoderError(
            f"encoder {subject}: {module}.{attribute} is no subclass of "
            "palm_cache.extraction.encoders.base.Encoder"
        )
    if not isinstance(getattr(kind, "card", None), EncoderCard):
        raise EncoderError(f"encoder {subject}: {module}.{attribute} has no card = EncoderCard(...)")
    return kind


def _foreign() -> dict[str, str]:
    """Return name and place of the encoders of other packages; they take no name of ours."""
    entries = entry_points(group=ENTRY_POINTS)
    return {entry.name: entry.value for entry in entries if entry.name not in {*CARDS, OWN.name}}


def recipe_of(recorded: Mapping[str, object], tokenizer: str = CLIP_TOKENIZER) -> Recipe:
    """Return the options by which something was made.

    Parameters
    ----------
    recorded : mapping
        As ``palm_cache.extraction.recipe.audio_recipe`` describes it, or an identity of format 1, whose
        window says what became of long clips. What is not in it has its default.
    tokenizer : str
        Is recorded by its content only, so it is given anew.
    """
    window = recorded.get("window")
    old_long = window[3] if isinstance(window, list | tuple) and len(window) > 3 else "crop"
    return Recipe(
        views=cast(int, recorded.get("views", 1)),
        long=cast(Any, recorded.get("long", old_long)),
        precision=cast(Any, recorded.get("precision", "fp32")),
        runtime=cast(Any, str(recorded.get("runtime", "torch")).split(" ")[0]),
        compile="compiled" in recorded,
        tokenizer=tokenizer,
    )


def load_encoder_of(header: StoreHeader, loading: LoadingParams) -> Encoder:
    """Load the encoder that made a feature store; raise as :func:`load_same_encoder`."""
    return load_same_encoder(
        header.encoder,
        header.recipe,
        header.fingerprint,
        loading,
        purpose=f"made the {header.dataset} store",
        advice="extract again, or give the ones it was made with",
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
    from palm_cache.extraction.recipe import audio_recipe, format1_print

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
    compared = {*recorded, CODE}  # which was not recorded always
    differing = [key for key in loaded if key in compared and loaded[key] != recorded.get(key)]
    names = [key.removesuffix("_sha256").replace("_", " ") for key in differing]
    return ", ".join(names) or "versions of preprocessing or of its libraries"
