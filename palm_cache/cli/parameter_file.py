"""Parameter files: the keys are the fields of :class:`~palm_cache.params.Params`, and none but these."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from palm_cache.errors import ParameterError, UnknownNameError, did_you_mean, reason_of
from palm_cache.params import P, Params, Recipe, Resources
from palm_cache.store.nearby import respelt
from palm_cache.types.fields import kinds

MAX_BYTES = 100_000
"""Longest parameter file that is read."""

MAX_DEPTH = 20
"""Values within each other in a parameter file, at most."""

MAX_ALIASES = 10
"""Aliases in a parameter file, at most: n of them, of each other, make up to 3^(n/3) times what is there."""


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
        content = _load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        told = "; ".join(filter(None, (reason_of(error), did_you_mean(respelt(file)))))
        raise ParameterError(f"{file}: cannot read the parameters: {told}") from error
    params = _build(Params, content, str(file))
    split_spec(params.encoder)
    check_heads(params.fit.heads)
    return params


def _load(text: bytes) -> object:
    """Read YAML as DVC does: a number may be written 1e-3, and no key stands twice.

    What no parameter file needs is refused before anything is made of it: depth, and aliases of aliases.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        depth = aliases = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            self.depth += 1
            self.aliases += self.check_event(yaml.AliasEvent)
            if self.depth > MAX_DEPTH or self.aliases > MAX_ALIASES:
                raise ValueError("it is nested too deeply, or repeats itself too often")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            for key, count in Counter(str(key.value) for key, _ in node.value).items():
                if count > 1:
                    told = f"{reprlib.repr(key)} is there twice"
                    raise yaml.constructor.ConstructorError(problem=told, problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+$", re.IGNORECASE)
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return yaml.load(text, Loader)


def _build(kind: type[P], content: object, file: str, section: str = "") -> P:
    """Make a dataclass of the keys and values of a section; one without any is as it is by default."""
    where = f"{file}, section {section}" if section else file
    if content is not None and not isinstance(content, Mapping):
        raise ParameterError(f"{where}: expected keys and values, found {reprlib.repr(content)}")
    known = kinds(kind)
    values: dict[str, Any] = {}
    for name, value in (content or {}).items():
        if kind is Recipe and name in kinds(Resources):
            raise ParameterError(f"{where}: {name} changes no number; it belongs in the section resources")
        if name not in known:
            raise UnknownNameError.among(f"key in {where}:", str(name), known)
        inner = f"{section}.{name}" if section else name
        values[name] = _build(known[name], value, file, inner) if is_dataclass(known[name]) else value
    try:
        return kind(**values)
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None
