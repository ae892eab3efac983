"""Audio towers compiled by ``torch.compile``: worth a minute of waiting where hours of encoding follow."""

from __future__ import annotations

import os
import shutil
import threading
from typing import Any, cast

import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError

CPU_COMPILERS = ("g++", "clang++", "c++", "cl")
"""What torch compiles C++ with on a CPU; ``CXX`` in the environment names another."""


def check_compiler(device: torch.device) -> None:
    """Check that there is a compiler that torch could use for a device.

    Raises
    ------
    EncoderError
        If there is none.
    """
    compilers = (os.environ.get("CXX", ""), *CPU_COMPILERS)
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise EncoderError(
            f"compile: no C++ compiler here (looked for {', '.join(CPU_COMPILERS)}); install one, "
            "name it in CXX, or leave `compile` out"
        )


class CompiledTower:
    """An audio tower compiled for any number of clips.

    One program serves all batch sizes, so that what a clip gives does not depend on which sizes came first.
    """

    def __init__(self, tower: nn.Module, device: torch.device) -> None:
        # On a CPU half of the gain lies in weights that are laid out for it, which freezing does.
        options: dict[str, Any] = {"freezing": True} if device.type == "cpu" else {}
        self._compiled = torch.compile(tower, dynamic=False, options=options)
        self._lock = threading.Lock()
        self._shapes: set[tuple[int, ...]] = set()

    def __call__(self, features: Tensor) -> Tensor:
        """Embed, (batch, ...) -> (batch, dim)."""
        count = len(features)
        if count == 1:
            # torch makes a program of its own for a size of one.
            features = torch.cat([features, features])
        torch._dynamo.mark_dynamic(features, 0)
        shape = tuple(features.shape[1:])
        if shape in self._shapes:
            return cast(Tensor, self._compiled(features))[:count]
        with self._lock:  # one worker compiles, the others wait
            embeddings = cast(Tensor, self._compiled(features))[:count]
            self._shapes.add(shape)
        return embeddings
