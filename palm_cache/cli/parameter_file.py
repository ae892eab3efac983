"""Parameter files such as ``params.yaml``; the keys are the fields of :class:`~palm_cache.params.Params`.

::

    datasets: demo            # known names or folders in the PALM layout, one or a list
    encoder: mini
    features: data/features   # where feature stores lie
    reading: {...}            # ReadingParams
    synthesise: {...}         # SynthesiseParams
    prompts: {...}            # PromptFiles: templates and descriptions of one's own
    extract: {...}            # Recipe: what decides the numbers
    resources: {...}          # Resources: what an extraction may use
    fit: {...}                # FitParams, with training: {...}

Every key may be left out; a key that does not exist is an error, never ignored.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from palm_cache.errors import ParameterError, UnknownNameError, did_you_mean, reason_of
from palm_cache.params import P, Params, Recipe, Resources
from palm_cache.store.nearby import respelt

MAX_BYTES = 100_000
"""Longest parameter file that is read."""

MAX_DEPTH = 20
"""Collections within each other in a parameter file, at most."""

MAX_ALIASES = 10
"""Aliases in a parameter file, at most: n of them, of each other, make up to 3^(n/3) times what is there."""


WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
"""What a value is of a kind."""


def read_params(file: Path | None) -> Params:
    """Read a parameter file; without one everything is as it is by default.

    Raises
    ------
    ParameterError
        If it cannot be read, or a value is of the wrong kind.
    UnknownNameError
        If a key, a head or an encoder does not exist; the near matches are named.
    """
    if file is None:
        return Params()
    import yaml

    from palm_cache.adaptation.heads import check_heads
    from palm_cache.extraction.encoders.registry import split_spec

    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        _check_size(text)
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        told = "; ".join(filter(None, (reason_of(error), did_you_mean(respelt(file)))))
        raise ParameterError(f"{file}: cannot read the parameters: {told}") from error
    params = _build(Params, {} if content is None else content, str(file), "")
    split_spec(params.encoder)
    check_heads(params.fit.heads)
    return params


def _check_size(text: bytes) -> None:
    """Refuse what no parameter file needs before anything is made of it: depth, and aliases of aliases."""
    import yaml

    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > MAX_DEPTH or aliases > MAX_ALIASES:
            raise ValueError("it is nested too deeply, or repeats itself too often")


def _build(kind: type[P], content: object, file: str, section: str) -> P:
    """Make a dataclass of the keys and values of a section."""
    where = f"{file}, section {section}" if section else file
    if not isinstance(content, Mapping):
        raise ParameterError(f"{where}: expected keys and values, found {reprlib.repr(content)}")
    hints = get_type_hints(kind)
    known = [item.name for item in fields(kind)]
    values: dict[str, Any] = {}
    for name, value in content.items():
        if kind is Recipe and name in Resources.__dataclass_fields__:
            raise ParameterError(f"{where}: {name} changes no number; it belongs in the section resources")
        if name not in known:
            raise UnknownNameError.among(f"key in {where}:", str(name), known)
        values[name] = _convert(hints[name], value, file, f"{section}.{name}" if section else name)
    try:
        return kind(**values)
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None


def _convert(kind: Any, value: object, file: str, key: str) -> Any:
    """Return a YAML value as the type that a field declares."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _build(kind, value, file, key)
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(get_args(kind)[0], item, file, key) for item in items)
    if get_origin(kind) is UnionType:  # a number, or a word or nothing in its place
        number, word = get_args(kind)
        if word is NoneType and value is None:
            return None
        return _convert(word if isinstance(value, str) and word is not NoneType else number, value, file, key)
    if get_origin(kind) is Literal:
        return value  # it checks them itself
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise ParameterError(f"{file}: {key} is {reprlib.repr(value)}, expected {WORDS[kind]}")
    return value
