"""Families of synthesised sounds with their names; importing this registers all of them."""

from importlib import import_module
from pkgutil import iter_modules

from pipelines.mini.world.family import FAMILIES, Family
from pipelines.mini.world.recording import CLIP_SAMPLES, record

__all__ = ["CLIP_SAMPLES", "FAMILIES", "Family", "record"]

for module in iter_modules(__path__):  # in the order of the alphabet, by which families are numbered
    import_module(f"{__name__}.{module.name}")
