"""Heads by name: ways to classify cached embeddings. A head is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

from palm_cache.errors import UnknownNameError

if TYPE_CHECKING:
    from palm_cache.adaptation.heads.base import Head

CLASSES = {
    "zero-shot": "zero_shot:ZeroShot",
    "auto": "auto:Auto",
    "palm-dagger": "zero_shot:PalmDagger",
    "palm": "palm:Palm",
    "palm-prototype": "prototype:PalmPrototype",
    "palm-tuned": "palm_tuned:PalmTuned",
    "malp": "malp:Malp",
    "subt": "subt:SubT",
    "coop": "coop:Coop",
    "coop-zebra": "coop:CoopZebra",
    "cocoop": "cocoop:Cocoop",
    "cocoop-zebra": "cocoop:CocoopZebra",
    "prototype": "prototype:Prototype",
    "knn": "neighbours:Neighbours",
    "linear-probe": "linear_probe:LinearProbe",
    "kernel-ridge": "kernels:KernelRidge",
    "gda": "gda:Gda",
    "tip-adapter": "tip_adapter:TipAdapter",
    "tip-adapter-f": "tip_adapter:TipAdapterF",
    "proker": "kernels:Proker",
    "proker-hybrid": "kernels:ProkerHybrid",
    "proker-published": "proker_published:ProkerPublished",
    "muka": "muka:Muka",
    "muka-first": "muka:MukaFirst",
    "muka-cosine": "muka:MukaCosine",
    "muka-first-cosine": "muka:MukaFirstCosine",
    "muka-published": "proker_published:MukaPublished",
    "muka-crossed": "proker_published:MukaCrossed",
}
"""Module and class of every head."""


class _Heads(Mapping[str, "type[Head]"]):
    """The heads by name, in the order in which they are listed."""

    def __getitem__(self, name: str) -> type[Head]:
        module, _, kind = CLASSES[name].partition(":")
        return cast("type[Head]", getattr(import_module(f"{__name__}.{module}"), kind))

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)


HEADS: Mapping[str, type[Head]] = _Heads()


def check_heads(names: Iterable[str]) -> None:
    """Make sure that there are heads of these names; none is imported for it.

    Raises
    ------
    UnknownNameError
        If there is none of a name.
    """
    for name in names:
        if name not in CLASSES:
            raise UnknownNameError.among("head", name, CLASSES)


def find_head(name: str) -> type[Head]:
    """Return the head of that name; raise as :func:`check_heads`."""
    check_heads([name])
    return HEADS[name]
