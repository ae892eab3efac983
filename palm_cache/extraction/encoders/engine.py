"""What computes an encoder's towers: which device, in which precision, through which runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from palm_cache.extraction.encoders.compiled import CompiledTower, check_compiler
from palm_cache.extraction.encoders.devices import choose_device
from palm_cache.extraction.encoders.openvino import OpenVinoTower, openvino_device, release
from palm_cache.params import Precision, Recipe, Runtime

TowerCall = Callable[[Tensor], Tensor]
"""From what an encoder's front end gives, on its device, to vectors."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where and how towers compute; encoders are made with one, none is changed afterwards."""

    device: torch.device
    precision: Precision = "fp32"
    runtime: Runtime = "torch"
    compiled: bool = False
    """Whether torch compiles the audio tower."""

    @classmethod
    def of(cls, recipe: Recipe, device: str = "auto") -> Engine:
        """Choose what a recipe asks for on this machine.

        Raises
        ------
        EncoderError
            If the device, the runtime or a compiler is not there.
        """
        openvino = recipe.runtime == "openvino"
        chosen = openvino_device(device, recipe.precision) if openvino else choose_device(device)
        if recipe.compile:
            check_compiler(chosen)
        return cls(chosen, recipe.precision, recipe.runtime, recipe.compile)

    @property
    def identity(self) -> dict[str, object]:
        """What of it decides numbers beyond rounding."""
        identity: dict[str, object] = {"precision": self.precision}
        if self.runtime == "openvino":
            identity["runtime"] = f"openvino {release()}"
        if self.compiled and self.precision == "bf16":
            # In fp32 it moves embeddings by rounding, 1e-7, as they do from machine to machine; in bf16 a
            # compiled tower rounds less often.
            identity["compiled"] = True
        return identity

    @property
    def text(self) -> Engine:
        """What computes the text tower: torch, in full precision where OpenVINO has the audio tower."""
        precision: Precision = "fp32" if self.runtime == "openvino" else self.precision
        return replace(self, precision=precision, runtime="torch", compiled=False)

    def tower(self, tower: nn.Module, key: Callable[[], str]) -> TowerCall:
        """Make an audio tower ready to compute here.

        Parameters
        ----------
        tower : nn.Module
            In full precision.
        key : callable
            Gives what names its converted form among those that are kept.
        """
        if self.runtime == "openvino":
            freeze(tower, self.device)
            return OpenVinoTower(tower, key(), self.precision)
        freeze(tower, self.device, self.precision)
        if self.compiled:
            return CompiledTower(tower, self.device)
        return tower

    @contextmanager
    def products(self) -> Iterator[None]:
        """Compute float32 products as the precision says, whatever the process has chosen.

        Exactly, but for ``tf32`` on NVIDIA's GPUs; a device without TF32 computes exactly there too.
        """
        tf32 = self.precision == "tf32" and self.device.type == "cuda"
        _PRODUCTS.hold("tf32" if tf32 else "ieee")
        try:
            yield
        finally:
            _PRODUCTS.release()

    @contextmanager
    def lowered(self) -> Iterator[None]:
        """Compute a tower in the precision: :meth:`products`, and autocast for bf16."""
        with (
            self.products(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            yield


CPU = Engine(torch.device("cpu"))
"""Torch in full precision on the CPU."""


class _Products:
    """torch's switches for float32 products, which all threads of a process share.

    They are as the process chose them again when the last thread that computes here is done.
    """

    def __init__(self) -> None:
        self._lock, self._holders = Lock(), 0
        self._chosen: list[tuple[Any, str]] = []

    def hold(self, precision: str) -> None:
        """Set them."""
        with self._lock:
            if not self._holders:
                self._chosen = [(switch, switch.fp32_precision) for switch in self._switches()]
            self._holders += 1
            for switch, _ in self._chosen:
                switch.fp32_precision = precision

    def release(self) -> None:
        """Set them back, if nobody else holds them."""
        with self._lock:
            self._holders -= 1
            for switch, precision in () if self._holders else self._chosen:
                switch.fp32_precision = precision

    def _switches(self) -> list[Any]:
        backends: Any = torch.backends
        switches = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]  # may be at bf16
        if torch.cuda.is_available():
            switches += [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
        return switches


_PRODUCTS = _Products()


def freeze(tower: nn.Module, device: torch.device, precision: Precision = "fp32") -> None:
    """Put a tower on its device for good.

    In bf16, weights that autocast would convert anew for every batch are held converted; the numbers
    are the same.
    """
    tower.eval().to(device)
    for parameter in tower.parameters():  # not tower.requires_grad_, which TorchScript has not
        parameter.requires_grad_(False)
    if precision == "bf16":
        for module in tower.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(torch.bfloat16)
