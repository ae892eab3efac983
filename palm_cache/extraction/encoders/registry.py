"""Which encoders are known, and how a spec such as ``clap:laion/clap-htsat-unfused`` is loaded."""

from __future__ import annotations

import importlib
import os
import re
import sys
from contextlib import suppress
from importlib.metadata import entry_points
from inspect import getattr_static
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING

from palm_cache.errors import EncoderError, UnknownNameError, did_you_mean
from palm_cache.extraction.encoders.cards import CARDS, CLASS, CODE, OPTION, OWN, EncoderCard
from palm_cache.extraction.encoders.own_code import hash_run_code, told
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
    """Split a spec into the encoder's name and its source; nothing is imported for it.

    Raises
    ------
    UnknownNameError
        If there is no such encoder.
    EncoderError
        If it does not say which weights, or would be taken for the names of joined ones.
    """
    name, _, source = spec.partition(":")
    if "+" in source:
        raise EncoderError(
            f"encoder {spec!r}: + stands between the names of joined encoders; rename the file or folder, or "
            "name it by a link"
        )
    if name not in encoder_names():
        raise UnknownNameError.among("encoder", name, encoder_names())
    if name == OWN.name and not re.fullmatch(r"\w+(\.(?!py:)\w+)*:\w+(:.*)?", source):
        raise EncoderError(
            f"encoder {spec!r}: write python:MODULE:CLASS with the names that Python imports, not a file's, "
            "e.g. python:my_encoder:Birds"
        )
    if name in CARDS:
        _need_source(spec, source, CARDS[name])
    return name, source


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
    from palm_cache.extraction.encoders.third_party import load_own

    recipe = recipe or Recipe()
    name, source = split_spec(spec)
    if recipe.trust_remote_code and name != "hf":
        raise EncoderError(f"encoder {spec!r}: `trust_remote_code` is for hf: alone; leave it out")
    engine = Engine.of(recipe, device)
    if name in CARDS:
        return encoder_class(name).load(Request(spec, source, engine, recipe))
    if name != OWN.name:
        kind, code = encoder_class(name), {}
        _need_source(spec, source, kind.card)
    else:
        module, attribute, source = (*source.split(":", 2), "")[:3]
        here = str(Path.cwd())
        if here not in sys.path:  # as with python -m, and for good: code may import later
            sys.path.append(here)
        kind = _import(spec, module, attribute)
        code = {CODE: hash_run_code(kind.__module__)}
    # A shell leaves ~ as it is behind a colon; pathlib raises where an option is too long for a name.
    is_place = os.path.exists(os.path.expanduser(source))  # noqa: PTH110, PTH111
    option = {OPTION: source} if source and not is_place else {}
    foreign = {CLASS: kind.__qualname__, **code, **option}
    return load_own(kind, Request(spec, source, engine, recipe, foreign))


def _need_source(spec: str, source: str, card: EncoderCard) -> None:
    if not source and ":" in card.spec:
        raise EncoderError(f"encoder {spec!r}: say which weights: {card.spec}, e.g. {card.example}")


def _import(subject: str, module: str, attribute: str) -> type[Encoder]:
    """Import a class."""
    from palm_cache.extraction.encoders.base import Encoder

    try:
        home = importlib.import_module(module)
        kind: type[Encoder] | None = getattr(home, attribute, None)
    except (Exception, SystemExit) as error:  # a module of somebody's may raise anything, a script ends
        raise EncoderError(
            f"encoder {subject}: cannot import {attribute} from {module}: {told(error)}"
        ) from error
    if kind is None:
        classes = [value for value in vars(home).values() if isinstance(value, type) and value is not Encoder]
        hint = did_you_mean([value.__name__ for value in classes if issubclass(value, Encoder)])
        where = getattr(home, "__file__", None) or module  # a folder without __init__.py has None
        raise EncoderError(f"encoder {subject}: no {attribute} in {where}; {hint or 'write it there'}")
    complaint = ""
    if not (isinstance(kind, type) and issubclass(kind, Encoder)):
        complaint = "is no subclass of palm_cache.extraction.encoders.base.Encoder"
    elif not isinstance(getattr(kind, "card", None), EncoderCard):
        complaint = "has no card = EncoderCard(...)"
    elif kind.__abstractmethods__ or isinstance(getattr_static(kind, "load"), FunctionType):
        complaint = "has no @classmethod load(cls, request), which returns cls(request, network, ...)"
    if complaint:
        raise EncoderError(f"encoder {subject}: {module}.{attribute} {complaint}")
    return kind


def _foreign() -> dict[str, str]:
    """Return name and place of the encoders of other packages; they take no name of ours."""
    entries = entry_points(group=ENTRY_POINTS)
    return {entry.name: entry.value for entry in entries if entry.name not in {*CARDS, OWN.name}}
