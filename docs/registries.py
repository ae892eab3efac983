"""Heads and encoders on the site, made of the registries of both when it is built."""

from __future__ import annotations

import html
from typing import Any

import griffe

HEADS = "palm_cache.adaptation.heads"
"""The module in whose place the reference shows the class of every head."""

ENCODERS = "palm_cache.extraction.encoders"
"""The module in whose place the reference shows the class of every encoder."""

TABLE = "palm_cache.extraction.encoders.cards"
"""The module in whose place the page of encoders shows a table of them."""


class Registries(griffe.Extension):
    """Make classes the members of the packages that list them, and the cards of encoders a table."""

    def on_module_members(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        """Replace what a module shows."""
        if mod.path in (HEADS, ENCODERS):
            for member in list(mod.members):
                mod.del_member(member)
            for line, place in enumerate(places(mod.path)):
                alias = griffe.Alias(place.rpartition(".")[2], place, lineno=line, parent=mod)
                mod.set_member(alias.name, alias)
        elif mod.path == TABLE and mod.docstring:
            mod.docstring.value = describe_encoders()


def places(registry: str) -> list[str]:
    """Return the path of every class that a registry lists, in its order."""
    from palm_cache.adaptation.heads import CLASSES
    from palm_cache.extraction.encoders import cards

    if registry == HEADS:
        return [f"{HEADS}.{place}".replace(":", ".") for place in CLASSES.values()]
    return [card.place.replace(":", ".") for card in cards.CARDS.values()]


def describe_encoders() -> str:
    """Return a table of all encoders in Markdown."""
    from palm_cache.extraction.encoders.cards import CARDS, OWN

    rows = [
        f"| {', '.join(f'`{spec}`' for spec in card.spec.split(' or '))} | {html.escape(card.description)} | "
        f"{'its own' if card is OWN else 'yes' if card.reads_text else 'no'} | {card.window} |"
        for card in (*CARDS.values(), OWN)
    ]
    return "\n".join(["| `--encoder` | what it is | reads text | window |", "|---|---|---|---|", *rows])
