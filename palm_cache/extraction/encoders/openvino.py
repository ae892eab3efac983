"""Audio towers in OpenVINO: on CPUs quicker than torch, and off by rounding only.

A tower is converted when it is first needed, which takes some ten seconds, and kept for the next time below
``$XDG_CACHE_HOME/palm-cache/openvino`` (``~/.cache`` where that is not set), under a hash of its weights and
of the libraries that converted it. The front end stays in torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.devices import choose_device, cpu_workers
from palm_cache.params import Precision
from palm_cache.store.places.local import LocalFolder


def openvino_device(name: str, precision: Precision) -> torch.device:
    """Return the device for OpenVINO: the CPU, also for ``auto``.

    Raises
    ------
    EncoderError
        If another one is asked for, OpenVINO is not installed or this CPU does not have the precision:
        OpenVINO would compute in fp32 there and not say so.
    """
    release()
    device = torch.device("cpu") if name == "auto" else choose_device(name)
    if device.type != "cpu":
        raise EncoderError(f"device {name!r}: openvino is for CPUs; set `runtime` to torch")
    if precision == "tf32":
        raise EncoderError("precision tf32: NVIDIA's GPUs have it; with `runtime` openvino use fp32 or bf16")
    if precision == "bf16":
        core = _import_openvino().Core()
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EncoderError(
                f"runtime openvino: this CPU ({core.get_property('CPU', 'FULL_DEVICE_NAME')}) does not "
                "compute in bf16; set `precision` to fp32"
            )
    return device


def release() -> str:
    """Return OpenVINO's release, as ``2026.4``; with another, vectors may differ.

    Raises
    ------
    EncoderError
        If it is not installed.
    """
    try:
        return ".".join(version("openvino").split(".")[:2])
    except PackageNotFoundError:
        raise EncoderError("runtime openvino: not installed; pip install 'palm-cache[openvino]'") from None


class OpenVinoTower:
    """An audio tower in OpenVINO, with a stream per worker.

    Parameters
    ----------
    torch_tower : nn.Module
        In fp32, on the CPU.
    key : str
        Names the encoder; with the libraries that convert, the tower among those kept.
    precision : {"fp32", "bf16"}
    """

    def __init__(self, torch_tower: nn.Module, key: str, precision: Precision) -> None:
        self.torch_tower = torch_tower
        libraries = {name: version(name) for name in ("openvino", "torch", "transformers")}
        self._key = hashlib.sha256(json.dumps([key, libraries], sort_keys=True).encode()).hexdigest()
        self._precision = precision
        # Here, not in a worker: each of those has but its own share of the threads.
        self._workers, threads = cpu_workers()
        self._threads = self._workers * threads
        self._lock = threading.Lock()
        self._compiled: Any = None
        self._own = threading.local()

    def __call__(self, features: Tensor) -> Tensor:
        """Embed, (batch, ...) -> (batch, dim); threads do not wait for each other."""
        if not hasattr(self._own, "request"):
            with self._lock:
                if self._compiled is None:
                    self._compiled = self._compile(features)
            self._own.request = self._compiled.create_infer_request()
        (embeddings,) = self._own.request.infer([features.contiguous().numpy()]).values()
        return torch.from_numpy(embeddings)

    def _compile(self, example: Tensor) -> Any:
        openvino = _import_openvino()
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # a mapped file could not be replaced everywhere
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[self._precision],
            "NUM_STREAMS": self._workers,
            "INFERENCE_NUM_THREADS": self._threads,
            # Readers use the cores too.
            "ENABLE_CPU_PINNING": False,
        }
        return core.compile_model(self._converted(openvino, core, example), "CPU", settings)

    def _converted(self, openvino: Any, core: Any, example: Tensor) -> Any:
        """Read the converted tower, and convert it first where none was kept.

        It is read even when it has just been written: one that comes from a file differs in the last bits.
        """
        cached = _cache_folder() / self._key
        with suppress(OSError):  # nowhere to keep it, or another process was quicker
            if not cached.is_dir():
                with LocalFolder(cached).workspace() as folder:
                    self._convert(openvino, example, folder).rename(cached)
        try:
            return core.read_model(cached / "tower.xml")
        except RuntimeError:  # damaged, or not there
            shutil.rmtree(cached, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            return core.read_model(self._convert(openvino, example, Path(folder, "made")) / "tower.xml")

    def _convert(self, openvino: Any, example: Tensor, folder: Path) -> Path:
        from palm_cache.extraction.encoders.pretrained import quiet_transformers

        # What is kept serves every precision: the casts of bf16, which OpenVINO does not know, are its own.
        plainly = torch.autocast("cpu", enabled=False)
        with warnings.catch_warnings(), quiet_transformers(), torch.no_grad(), plainly:
            # Tracing warns of every size that it takes for a constant; those are.
            warnings.simplefilter("ignore")
            model = openvino.convert_model(self.torch_tower, example_input=example.clone())
        # Clips and windows vary in number; frames and mels do not.
        model.reshape([-1] * (example.ndim - 2) + list(example.shape[-2:]))
        openvino.save_model(model, folder / "tower.xml", compress_to_fp16=False)
        return folder


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "palm-cache", "openvino")


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report to Google each time it is imported."""
    # Where that package is missing, OpenVINO takes a stub of its own.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
