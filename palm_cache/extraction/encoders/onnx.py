"""Any ONNX graph from waveform to vector: ``onnx:FILE.onnx``, and ``FILE.json``, which says what it hears.

::

    {"sample_rate": 32000, "seconds": 5, "padding": "zeros", "output": "embedding", "licence": "Apache-2.0"}

``padding`` is ``zeros``, ``tile`` (repeat and cut) or ``repeat-pad`` (repeat whole, then zeros). ``output``
may be left out where there is one, ``pool`` where that is a vector a clip; else ``mean`` takes the mean over
all axes but the last, ``flatten`` all numbers. The graph takes (batch, samples), (batch, 1, samples) or
(samples,).
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from palm_cache.errors import EncoderError, UnknownNameError, described
from palm_cache.extraction.audio.window import Padding
from palm_cache.extraction.encoders.base import Encoder, Request, Window
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.checkpoints import misplaced
from palm_cache.extraction.encoders.devices import cpu_workers
from palm_cache.extraction.encoders.engine import Engine
from palm_cache.extraction.encoders.third_party import check_promises
from palm_cache.store.atomic import parse_json

PADDINGS: Mapping[str, Padding] = {"zeros": "nan", "tile": "tile", "repeat-pad": "repeat-pad"}
"""The paddings that a description may name, and what the reader is asked for."""

VALUES: Mapping[str, tuple[Any, Callable[[Any], bool]]] = {
    "sample_rate": (int, lambda rate: 0 < rate <= 768_000),
    "seconds": (int | float, lambda seconds: 0 < seconds <= 3600),
    "padding": (str, PADDINGS.__contains__),
    "output": (str, lambda name: True),
    "pool": (str, ("mean", "flatten").__contains__),
    "licence": (str, lambda text: True),
}
"""Types of what a description may say, and which of them make sense."""

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
"""What a graph may take, and as what it is handed over."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the JSON beside a graph says."""

    sample_rate: int
    """Hz."""
    seconds: float
    """That the graph hears at once."""
    padding: str = "zeros"
    output: str = ""
    """Name of the output that is the embedding."""
    pool: str = ""
    """How an output that is more than a vector becomes one."""
    licence: str = ""

    @property
    def samples(self) -> int:
        """Samples that the graph hears at once."""
        return round(self.seconds * self.sample_rate)


class OnnxTower(nn.Module):
    """A graph in onnxruntime, waveforms (batch, samples) -> vectors (batch, dim).

    Parameters
    ----------
    spec : str
        For messages.
    content : bytes
        Of the file; what is hashed is what is run, so a graph that keeps weights in other files is refused.

    Raises
    ------
    EncoderError
        If it is no graph that can be run, does not take one waveform, or gives more than a vector and the
        description does not say what to do with it.
    """

    def __init__(self, spec: str, content: bytes, description: Description, engine: Engine) -> None:
        super().__init__()
        self._spec, self._pool = spec, description.pool
        self._session = _open(spec, content, engine)
        inputs = self._session.get_inputs()
        signature = ", ".join(f"{entry.name} {_shape(entry)}" for entry in inputs)
        if len(inputs) != 1 or not _takes_waveforms(inputs[0]):
            raise EncoderError(
                f"{spec}: its inputs are {signature}; it must take one, float waveforms (batch, samples)"
            )
        self._input, self._axes, self._type = inputs[0].name, inputs[0].shape, FLOATS[inputs[0].type]
        samples = self._axes[-1]
        if isinstance(samples, int) and samples != description.samples:
            raise EncoderError(
                f"{spec}: it takes {samples} samples ({signature}), its description says "
                f"{description.seconds} s of {description.sample_rate} Hz, {description.samples}"
            )
        outputs = [output.name for output in self._session.get_outputs()]
        if not description.output and len(outputs) > 1:
            raise EncoderError(f"{spec}: say in its description which output: {', '.join(outputs)}")
        self._output = description.output or outputs[0]
        if self._output not in outputs:
            raise UnknownNameError.among(f"output of {spec}:", self._output, outputs)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed, (batch, samples) -> (batch, dim)."""
        rows = waveforms.cpu().contiguous().numpy()
        first = self._axes[0] if len(self._axes) > 1 else 1
        size = first if isinstance(first, int) else len(rows)
        parts = np.split(rows, range(size, len(rows), size))
        if len(parts[-1]) < size:  # too small for the graph: it is filled up with its own rows
            parts[-1] = np.resize(parts[-1], (size, *rows.shape[1:]))
        return torch.from_numpy(np.concatenate([self._run(part) for part in parts])[: len(rows)])

    def _run(self, rows: Any) -> Any:
        """Run a batch of as many rows as the graph takes."""
        shaped = {1: lambda: rows[0], 2: lambda: rows, 3: lambda: rows[:, None]}[len(self._axes)]()
        (given,) = self._session.run([self._output], {self._input: shaped.astype(self._type, copy=False)})
        vectors = np.asarray(given, np.float32)
        if len(rows) == 1 and len(vectors) != 1:  # the graph leaves the batch's axis out
            vectors = vectors[None]
        if not self._pool and max(vectors.shape[1:], default=1) * len(vectors) < vectors.size:
            raise EncoderError(
                f"{self._spec}: gives {self._output} of shape {vectors.shape}, more than a vector; say in "
                f'its description "pool": "mean" for the mean over all axes but the last, '
                f'{vectors.shape[-1]} numbers, or "flatten" for all of them'
            )
        if self._pool == "mean":
            vectors = vectors.reshape(len(vectors), -1, vectors.shape[-1]).mean(axis=1)
        return vectors.reshape(len(rows), -1)


class OnnxEncoder(Encoder):
    """An ONNX graph.

    Raises
    ------
    EncoderError
        If graph and description do not go together.
    """

    card = CARDS["onnx"]

    def __init__(self, request: Request, content: bytes, description: Description) -> None:
        if request.engine.precision == "bf16" or request.engine.runtime != "torch" or request.engine.compiled:
            raise EncoderError(
                f"{request.spec}: onnxruntime computes it, in fp32 (or tf32); leave the rest out"
            )
        tower = OnnxTower(request.spec, content, description, request.engine)
        noise = 0.1 * torch.randn(1, description.samples, generator=torch.Generator().manual_seed(0))
        try:
            vector = tower(noise)
        except EncoderError:
            raise
        except Exception as error:  # onnxruntime's own
            raise EncoderError(
                f"{request.spec}: cannot embed {description.seconds} s of noise: {described(error)}"
            ) from error
        super().__init__(
            request,
            tower,
            dim=vector.shape[1],
            sample_rate=description.sample_rate,
            window=Window(description.samples, padding=PADDINGS[description.padding]),
            constants={
                "graph_sha256": hashlib.sha256(content).hexdigest(),
                "output": description.output,
                "padding": description.padding,
                **({"pool": "mean"} if description.pool == "mean" else {}),  # all numbers were taken once
            },
            made_with={"onnxruntime": version("onnxruntime"), "licence": description.licence},
        )

    @classmethod
    def load(cls, request: Request) -> Self:
        """Read a graph and its description, and try it."""
        file = Path(request.source).expanduser()
        if not file.is_file():
            raise EncoderError(f"{request.spec}: no such file")
        if zipfile.is_zipfile(file):  # as torch writes, and ONNX never is
            otherwise = "a file of torch, not an ONNX graph; export the model to ONNX"
            raise misplaced(request.spec, request.source, otherwise)
        encoder = cls(request, file.read_bytes(), read_description(request.spec, file.with_suffix(".json")))
        check_promises(encoder)
        return encoder

    def front_end(self, waveforms: Tensor) -> Tensor:
        """Return whole windows, with zeros behind what was padded with NaN."""
        sound = waveforms[:, 0].nan_to_num(nan=0.0)
        return pad(sound, (0, self.window.samples - sound.shape[1]))


def read_description(spec: str, file: Path) -> Description:
    """Read what a graph hears.

    Raises
    ------
    EncoderError
        If the file is missing or says something else.
    """
    example = '{"sample_rate": 32000, "seconds": 5, "padding": "zeros"}'
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError
    except (OSError, ValueError) as error:
        fault = error.strerror if isinstance(error, OSError) else "no object of JSON"
        raise EncoderError(f"{spec}: {file}: {fault}; write what the graph hears: {example}") from error
    for name in content:
        if name not in VALUES:
            raise UnknownNameError.among(f"key in {file}:", name, VALUES)
    faults = [f"without {name}" for name in ("sample_rate", "seconds") if name not in content]
    faults += [
        f"{name}: {value!r}"
        for name, value in content.items()
        if not isinstance(value, VALUES[name][0]) or not VALUES[name][1](value)
    ]
    if faults:
        raise EncoderError(f"{spec}: {file}: {', '.join(faults)}; e.g. {example}")
    return Description(**content)


def _open(spec: str, content: bytes, engine: Engine) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise EncoderError(f"{spec}: onnxruntime is not installed; pip install 'palm-cache[onnx]'") from None
    providers: list[Any] = ["CPUExecutionProvider"]
    if engine.device.type == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise EncoderError(
                f"{spec}: onnxruntime here knows no GPU; pip install onnxruntime-gpu, or set `device` to cpu"
            )
        options = {
            "device_id": engine.device.index or 0,
            # Found by trying once: without it convolutions were up to 23 times slower.
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "use_tf32": int(engine.precision == "tf32"),
        }
        providers = [("CUDAExecutionProvider", options)]
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = cpu_workers()[1]  # several workers run it at once
    session.log_severity_level = 4
    # Else it would take weights of files in the working folder, which nobody has hashed.
    session.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return onnxruntime.InferenceSession(content, session, providers=providers)
    except Exception as error:
        fault = f"not a graph that onnxruntime can run: {described(error)}"
        if "xternal data" in str(error):
            fault = "keeps weights in another file; export it into one (torch's way: external_data=False)"
        raise EncoderError(f"{spec}: {fault}") from error


def _takes_waveforms(value: Any) -> bool:
    """Tell whether an input may be waveforms; several channels are the bands of a log-mel."""
    channels = value.shape[1:-1]
    mono = len(channels) < 2 and all(axis == 1 or not isinstance(axis, int) for axis in channels)
    return value.type in FLOATS and len(value.shape) > 0 and mono


def _shape(value: Any) -> str:
    return "(" + ", ".join(str(axis) for axis in value.shape) + f") {value.type.removeprefix('tensor')}"
