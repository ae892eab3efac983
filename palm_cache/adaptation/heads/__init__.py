"""Heads by name: ways to classify cached embeddings."""

from __future__ import annotations

from palm_cache.adaptation.heads.auto import Auto
from palm_cache.adaptation.heads.base import Head
from palm_cache.adaptation.heads.cocoop import Cocoop
from palm_cache.adaptation.heads.coop import Coop
from palm_cache.adaptation.heads.gda import Gda
from palm_cache.adaptation.heads.kernels import KernelRidge, Proker, ProkerHybrid
from palm_cache.adaptation.heads.linear_probe import LinearProbe
from palm_cache.adaptation.heads.malp import Malp
from palm_cache.adaptation.heads.muka import Muka, MukaCosine, MukaFirst, MukaFirstCosine
from palm_cache.adaptation.heads.neighbours import Neighbours
from palm_cache.adaptation.heads.palm import Palm
from palm_cache.adaptation.heads.palm_tuned import PalmTuned
from palm_cache.adaptation.heads.proker_published import MukaCrossed, MukaPublished, ProkerPublished
from palm_cache.adaptation.heads.prototype import PalmPrototype, Prototype
from palm_cache.adaptation.heads.subt import SubT
from palm_cache.adaptation.heads.tip_adapter import TipAdapter, TipAdapterF
from palm_cache.adaptation.heads.zero_shot import PalmDagger, ZeroShot
from palm_cache.errors import UnknownNameError

HEADS: dict[str, type[Head]] = {
    head.name: head
    for head in (
        ZeroShot,
        Auto,
        PalmDagger,
        Palm,
        PalmPrototype,
        PalmTuned,
        Malp,
        SubT,
        Coop,
        Cocoop,
        Prototype,
        Neighbours,
        LinearProbe,
        KernelRidge,
        Gda,
        TipAdapter,
        TipAdapterF,
        Proker,
        ProkerHybrid,
        ProkerPublished,
        Muka,
        MukaFirst,
        MukaCosine,
        MukaFirstCosine,
        MukaPublished,
        MukaCrossed,
    )
}


def find_head(name: str) -> type[Head]:
    """Return the head of that name.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    if name not in HEADS:
        raise UnknownNameError.among("head", name, HEADS)
    return HEADS[name]
