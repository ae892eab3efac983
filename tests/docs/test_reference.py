"""The reference names all that is public."""

from __future__ import annotations

import importlib
import pydoc
import re
from pathlib import Path

import pytest

import palm_cache
from palm_cache.adaptation.heads import HEADS
from palm_cache.extraction.encoders.cards import CARDS
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


def test_every_head_and_encoder_is_listed() -> None:
    kinds = [*HEADS.values(), *map(encoder_class, CARDS)]
    assert [kind for kind in kinds if kind not in LISTED] == []
