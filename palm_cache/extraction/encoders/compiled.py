"""Audio towers compiled by ``torch.compile``: worth a minute of waiting where hours of encoding follow."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import Encoder

CPU_COMPILERS = ("g++", "clang++", "c++", "cl")
"""What torch compiles C++ with on a CPU; ``CXX`` in the environment names another."""


def use_compiled(encoder: Encoder) -> None:
    """Have torch compile an encoder's audio tower at its first use.

    In fp32 the embeddings move by rounding, 1e-7, as they do from machine to machine, so the encoder counts
    as the same one. In bf16 a compiled tower rounds less often: it counts as another.

    Raises
    ------
    EncoderError
        If there is no compiler that torch could use.
    """
    compilers = (os.environ.get("CXX", ""), *CPU_COMPILERS)
    if encoder.device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise EncoderError(
            f"compile: no C++ compiler here (looked for {', '.join(CPU_COMPILERS)}); install one, "
            "name it in CXX, or leave --compile out"
        )
    encoder.audio_tower = CompiledTower(cast(nn.Module, encoder.audio_tower), encoder.device)
    if encoder.precision == "bf16":
        encoder.identity = {**encoder.identity, "compiled": True}


class CompiledTower:
    """An audio tower compiled for any number of clips.

    One program serves all batch sizes, so that what a clip gives does not depend on which sizes came first.
    """

    def __init__(self, tower: nn.Module, device: torch.device) -> None:
        # On a CPU half of the gain lies in weights that are laid out for it, which freezing does.
        options: dict[str, str | int | bool | Callable[..., Any]] = {}
        if device.type == "cpu":
            options["freezing"] = True
        self._compiled = torch.compile(tower, dynamic=False, options=options)
        self._lock = threading.Lock()
        self._shapes: set[tuple[int, ...]] = set()

    def __call__(self, log_mel: Tensor) -> Tensor:
        """Embed, (batch, ...) -> (batch, dim)."""
        count = len(log_mel)
        if count == 1:
            # torch makes a program of its own for a size of one.
            log_mel = torch.cat([log_mel, log_mel])
        torch._dynamo.mark_dynamic(log_mel, 0)
        shape = tuple(log_mel.shape[1:])
        if shape in self._shapes:
            return cast(Tensor, self._compiled(log_mel))[:count]
        with self._lock:  # one worker compiles, the others wait
            embeddings = cast(Tensor, self._compiled(log_mel))[:count]
            self._shapes.add(shape)
        return embeddings
