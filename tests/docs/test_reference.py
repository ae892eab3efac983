"""The reference names all that is public."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import griffe
import pytest

import palm_cache
from palm_cache.adaptation.heads import HEADS
from palm_cache.extraction.encoders.cards import CARDS, OWN
from palm_cache.extraction.encoders.registry import encoder_class

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "reference.md"

LISTED = [
    pydoc.locate(name) for name in re.findall(r"^::: (\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
]


def test_everything_that_is_listed_is_there_once() -> None:
    assert None not in LISTED
    assert len(LISTED) == len(set(map(id, LISTED)))


@pytest.mark.parametrize("name", palm_cache.__all__)
def test_all_that_import_palm_cache_offers_is_listed(name: str) -> None:
    thing = getattr(palm_cache, name)
    assert thing in LISTED or importlib.import_module(thing.__module__) in LISTED


def classes_in(kind: Any) -> set[type]:
    """Return every class of palm_cache that a type is made of."""
    own = {kind} if str(getattr(kind, "__module__", "")).startswith("palm_cache") else set()
    return own.union(*map(classes_in, get_args(kind)))


@pytest.mark.parametrize("name", palm_cache.__all__)
def test_what_the_verbs_return_is_listed(name: str) -> None:
    verb = getattr(palm_cache, name)
    if inspect.isfunction(verb):
        assert classes_in(get_type_hints(verb)["return"]) <= set(LISTED)


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    """The package, as the site's builder sees it."""
    extensions = griffe.load_extensions(PAGE.parents[1] / "registries.py")
    package = griffe.load("palm_cache", search_paths=[PAGE.parents[2]], extensions=extensions)
    assert isinstance(package, griffe.Module)
    return package


@pytest.mark.parametrize(
    ("registry", "kinds"),
    [
        ("palm_cache.adaptation.heads", list(HEADS.values())),
        ("palm_cache.extraction.encoders", list(map(encoder_class, CARDS))),
    ],
)
def test_every_head_and_encoder_is_shown_in_the_order_of_its_registry(
    registry: str, kinds: list[type], package: griffe.Module
) -> None:
    assert f"\n::: {registry}\n" in PAGE.read_text(encoding="utf-8")
    members = package[registry.removeprefix("palm_cache.")].members.values()
    shown = [member for member in members if member.is_alias]
    shown.sort(key=lambda member: member.alias_lineno)
    assert [member.canonical_path for member in shown] == [
        f"{kind.__module__}.{kind.__qualname__}" for kind in kinds
    ]
    assert all(member.has_docstring for member in shown)


def test_every_encoder_is_in_the_table_of_its_page(package: griffe.Module) -> None:
    assert "\n::: palm_cache.extraction.encoders.cards\n" in (PAGE.parent / "encoders.md").read_text(
        encoding="utf-8"
    )
    table = package["extraction.encoders.cards"].docstring.value.splitlines()
    for row, card in zip(table[2:], (*CARDS.values(), OWN), strict=True):
        assert row.startswith(f"| `{card.spec.partition(' or ')[0]}`")
        assert card.window in row
