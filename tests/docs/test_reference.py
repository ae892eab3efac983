"""The reference names all that is public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import palm_cache
from palm_cache.adaptation.heads import HEADS
from palm_cache.extraction.encoders.cards import CARDS

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "reference.md"

LISTED = set(re.findall(r"^::: (\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def address(thing: type) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


@pytest.mark.parametrize("name", palm_cache.__all__)
def test_all_that_import_palm_cache_offers_is_listed(name: str) -> None:
    thing = getattr(palm_cache, name)
    assert {address(thing), thing.__module__} & LISTED


def test_every_head_and_encoder_is_listed() -> None:
    assert {address(head) for head in HEADS.values()} <= LISTED
    assert {card.place.replace(":", ".") for card in CARDS.values()} <= LISTED
