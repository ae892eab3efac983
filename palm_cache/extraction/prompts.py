"""Prompts of class names: templates and descriptions, and the embeddings of both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DataError, ParameterError, UnknownNameError, counted
from palm_cache.extraction.datasets.class_names import clean
from palm_cache.extraction.datasets.texts import decode, legible, read_table
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.params import PromptFiles
from palm_cache.store.cache import Cache
from palm_cache.store.places import place
from palm_cache.store.segments import KEY_BYTES
from palm_cache.types import BARE_TEMPLATE, DESCRIPTIONS, TEMPLATES, ZERO_SHOT_TEMPLATE, Place
from palm_cache.types.fields import check_fields, several


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a text tower reads of every class.

    Parameters
    ----------
    templates : str or several
        With ``{c}`` for the class name. The paper's two are held beside them: heads read them by default.
    descriptions : mapping of str to str or several
        By class name, of every class of a dataset, or none at all.

    Raises
    ------
    ParameterError
        If a template lacks ``{c}`` or is there twice, there is none at all, or a description is empty or
        there twice.
    """

    templates: tuple[str, ...] = TEMPLATES
    descriptions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        described = {name: several(texts) for name, texts in self.descriptions.items()}
        object.__setattr__(self, "descriptions", described)
        numbered = (
            (f"template {number}", template) for number, template in enumerate(self.templates, start=1)
        )
        _check_templates("templates", numbered)
        for name, texts in self.descriptions.items():
            if not (texts and all(text.strip() for text in texts)) or len(set(texts)) < len(texts):
                raise ParameterError(f"descriptions of {name!r}: one is empty, or there twice")

    @classmethod
    def read(cls, files: PromptFiles) -> Self:
        """Read templates, one a line, and descriptions, a table with the columns classname and text.

        Raises
        ------
        DataError, ParameterError, UnknownNameError
            If a file cannot be read or holds what no prompts can be; file and line are named.
        """
        templates: tuple[str, ...] = TEMPLATES
        if files.templates:
            file = place(files.templates)
            lines = enumerate(map(str.strip, legible(decode(file)).splitlines()), start=1)
            numbered = [(f"{file.name}, line {number}", line) for number, line in lines if line]
            _check_templates(file.name, numbered)
            templates = tuple(template for _, template in numbered)
        return cls(templates, _read_descriptions(place(files.descriptions)) if files.descriptions else {})

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the text embeddings that a store holds of every class."""
        templates = dict.fromkeys((BARE_TEMPLATE, ZERO_SHOT_TEMPLATE, *self.templates))
        return (*templates, DESCRIPTIONS) if self.descriptions else tuple(templates)

    def check_classes(self, dataset: str, class_names: Sequence[str]) -> None:
        """Make sure that descriptions, if there are any, are of just the classes of a dataset.

        Raises
        ------
        UnknownNameError
            If the dataset lacks a class.
        DataError
            If a class has no description.
        """
        for name in self.descriptions:
            if name not in class_names:
                raise UnknownNameError.among(f"class in the descriptions for {dataset}:", name, class_names)
        missing = [name for name in class_names if name not in self.descriptions]
        if self.descriptions and missing:
            raise DataError(
                f"{dataset}: {counted(len(missing), 'class has', 'classes have')} no description: "
                f"{', '.join(missing[:5])}"
                f"{' ...' if len(missing) > 5 else ''}; every class needs one"
            )

    def embed(self, encoder: Encoder, class_names: Sequence[str], cache: Place) -> NDArray[np.float32]:
        """Return the embeddings of every class, (n_classes, n_templates, dim), in the order of :attr:`held`.

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
        templates = [template for template in self.held if template != DESCRIPTIONS]
        prompts = [[template.replace("{c}", name) for template in templates] for name in class_names]
        described = [self.descriptions.get(name, ()) for name in class_names]
        texts = list(dict.fromkeys(text for of_class in (*prompts, *described) for text in of_class))
        vectors = dict(zip(texts, _embed(encoder, texts, cache), strict=True))
        embeddings = np.zeros((len(class_names), len(self.held), encoder.dim), np.float32)
        for label, of_class in enumerate(prompts):
            embeddings[label, : len(templates)] = [vectors[text] for text in of_class]
            if self.descriptions:
                units = _unit(np.stack([vectors[text] for text in described[label]]))
                embeddings[label, -1] = _unit(units.mean(axis=0))
        return embeddings


def _read_descriptions(file: Place) -> dict[str, tuple[str, ...]]:
    descriptions: dict[str, list[str]] = {}
    table = read_table(file)
    for line, (written, described) in table.rows(("classname", "text")):
        where, name, text = f"{table.name}, row {line}", clean(written), legible(described)
        if not (name and text):
            raise DataError(
                f"{where}: {'text' if name else 'classname'} is empty; fill it in, or remove the row"
            )
        if text in descriptions.setdefault(name, []):
            raise DataError(f"{where}: {name!r} has this description already; remove one of them")
        descriptions[name].append(text)
    if not descriptions:
        raise DataError(f"{table.name}: holds no descriptions")
    return {name: tuple(texts) for name, texts in descriptions.items()}


def _check_templates(what: str, placed: Iterable[tuple[str, str]]) -> None:
    """Check templates, each with its place for messages."""
    first: dict[str, str] = {}
    for where, template in placed:
        if "{c}" not in template:
            raise ParameterError(
                f"{where}: {template[:60]!r} has no {{c}}, which stands for the class name; add it"
            )
        if template in first:
            raise ParameterError(
                f"{where}: {template[:60]!r} is there already ({first[template]}); remove one of them"
            )
        first[template] = where
    if not first:
        raise ParameterError(f"{what}: holds no template; write one a line, with {{c}} for the class name")


def _embed(encoder: Encoder, texts: Sequence[str], cache: Place) -> NDArray[np.float32]:
    """Embed different texts as far as the cache does not know them, (n_texts, dim)."""
    recipe = encoder.text_identity
    if recipe is None or not texts:
        return np.zeros((len(texts), encoder.dim), np.float32)
    hashed = b"".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    keys = np.frombuffer(hashed, np.uint8).reshape(-1, KEY_BYTES)
    prompts = Cache(cache, "text", recipe, (encoder.dim,))
    known, vectors = prompts.take_known(keys)
    unknown = np.flatnonzero(~known)
    if len(unknown):
        vectors[unknown] = encoder.embed_text([texts[at] for at in unknown.tolist()]).numpy()
        prompts.add(keys[unknown], vectors[unknown])
        prompts.merge()
    return np.asarray(vectors)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))
