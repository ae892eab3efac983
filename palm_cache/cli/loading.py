"""Importing what is heavy."""

from __future__ import annotations

import gc
import sys
from importlib import import_module


def load(module: str) -> None:
    """Import a module that brings torch along, without looking for garbage meanwhile.

    Nothing of what is imported is garbage, and Python would look through all of it again and again, which
    takes half a second.
    """
    if module in sys.modules:
        return
    gc.disable()
    try:
        import_module(module)
    finally:
        gc.freeze()
        gc.enable()
