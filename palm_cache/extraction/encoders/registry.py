"""Which encoders are known, and how a spec such as ``clap:laion/clap-htsat-unfused`` is loaded."""

from __future__ import annotations

import importlib
import re
import sys
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from palm_cache.errors import EncoderError, UnknownNameError, described
from palm_cache.extraction.encoders.cards import CARDS, OWN, EncoderCard
from palm_cache.params import Recipe

if TYPE_CHECKING:
    from palm_cache.extraction.encoders.base import Encoder

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
        See :func:`~palm_cache.extraction.encoders.devices.choose_device`.

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
            f"encoder {subject}: cannot import {attribute} from {module}: {described(error)}"
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
