"""Fitted heads for other programs: safetensors or ONNX, each with a card that explains it.

A graph is the head alone: embeddings of the encoder that the card names, to logits and probabilities. It is
read back and compared with the head before it is called done.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.heads.muka import Muka
from palm_cache.adaptation.scorer import temperature_of
from palm_cache.errors import DamagedStoreError, OutputError, ParameterError, StoreError, reason_of
from palm_cache.params.use import ExportFormat
from palm_cache.prediction.classifier import recipes_of_joined, refuse_joined
from palm_cache.prediction.head_card import describe, pack_head
from palm_cache.prediction.sources import find_heads
from palm_cache.store.atomic import check_target, replacing
from palm_cache.store.heads import Origin
from palm_cache.store.outputs import CARD, GRAPH, SHARED_HEAD, OutputKind
from palm_cache.store.remedies import fit_command
from palm_cache.store.run_names import run_name
from palm_cache.store.shared import open_head
from palm_cache.types import AnyPath
from palm_cache.types.runs import FittedHead

ENDINGS: Mapping[ExportFormat, str] = {"safetensors": ".safetensors", "onnx": ".onnx"}
KINDS: Mapping[ExportFormat, OutputKind] = {"safetensors": SHARED_HEAD, "onnx": GRAPH}

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

TOLERANCE = 1e-4
"""Largest difference between a probability from an exported graph and the head's."""

Outputs = tuple[Tensor, Tensor]
"""Logits and probabilities, each (batch, n_classes)."""


@dataclass(frozen=True, slots=True)
class Export:
    """What an export wrote."""

    file: Path
    card_file: Path
    card: Mapping[str, object]


class HeadGraph(nn.Module):
    """One fitted head as a module: embeddings (batch, dim), of any length, to :data:`Outputs`.

    Parameters
    ----------
    head : FittedHead
        One whose logits follow from its state alone.
    """

    def __init__(self, head: FittedHead) -> None:
        super().__init__()
        self._kind = find_head(head.run.head)
        self._names = tuple(head.state)
        self._temperature = temperature_of(head)
        for name, value in head.state.items():
            self.register_buffer(name, value)
        # How embeddings are divided among encoders is part of the graph, not of what it reads.
        self._parts = tuple(head.state["parts"].flatten().tolist()) if issubclass(self._kind, Muka) else ()

    def forward(self, embedding: Tensor) -> Outputs:
        """Score embeddings."""
        state = {name: getattr(self, name) for name in self._names}
        if issubclass(self._kind, Muka):
            logits = self._kind.scores(state, embedding, self._parts)
        else:
            logits = self._kind.logits(state, embedding)
        return logits, (logits / self._temperature).softmax(dim=-1)


def export_head(
    heads: AnyPath, form: ExportFormat, run: str | None = None, out: AnyPath | None = None
) -> Export:
    """Write one head of a heads file in a form that other programs read, and a card beside it.

    Parameters
    ----------
    heads : path
        See :func:`~palm_cache.prediction.sources.find_heads`.
    form : {"safetensors", "onnx"}
    run : str, optional
        See :func:`~palm_cache.store.run_names.choose_run`; by default the best on its held-out shots.
    out : path, optional
        The file to write; by default named after the run, beside the heads file. The card's name is
        that of the file with ``.json`` behind it. What comes from a hub is written into the current folder.

    Raises
    ------
    StoreError, UnknownNameError
        If there are no such heads.
    ParameterError
        If there is no such form, or the head has no graph of its own.
    OutputError
        If it cannot be written, another file is there, a package is missing, or what was written does not
        agree with the head.
    """
    if form not in ENDINGS:
        raise ParameterError(f"form: {form!r} is not one of {', '.join(ENDINGS)}")
    source = find_heads(heads)
    path = source.file
    opened = open_head(path, run)
    head = opened.head
    file = Path(out) if out else source.folder / (run_name(head.run) + ENDINGS[form])
    card_file = Path(f"{file}.json")
    for target, kind in ((file, KINDS[form]), (card_file, CARD)):
        check_target(target, "out", kind)
    if form == "safetensors":
        refuse_joined(head)
        content, card = pack_head(opened, path)
    else:
        card = {"format": form, **describe(opened, path)}
        if "+" in head.run.encoder:
            parts = ", then ".join(head.run.encoder.split("+"))
            card["embedding"] = f"of {parts}, each scaled to unit length"
        with _damage(head):
            graph = HeadGraph(head).eval()
            clips = torch.randn(
                2, _dim(head, opened.origin, path), generator=torch.Generator().manual_seed(0)
            )
            _check_graph(graph, clips, head)
        content, run_again = _as_onnx(graph, clips, card)
        card |= _checked(run_again, graph, clips)
    # Both are on the disk before one is in its place. The exporters' own writers do not survive a full one.
    with replacing(file, kind=KINDS[form]) as temporary, replacing(card_file, kind=CARD) as temporary_card:
        temporary.write_bytes(content)
        temporary_card.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Export(file, card_file, card)


@contextmanager
def _damage(head: FittedHead) -> Iterator[None]:
    """Say of arrays that do not fit together whose they are."""
    try:
        yield
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedStoreError(
            f"run {run_name(head.run)}: its arrays do not fit together ({reason_of(error)}); fit again with: "
            f"{fit_command([head.run])}"
        ) from error


def _dim(head: FittedHead, origin: Origin, path: Path) -> int:
    if "+" in head.run.encoder:
        return sum(int(str(recipe["dim"])) for recipe in recipes_of_joined(head, origin))
    dim = origin.identity.get("dim")
    if dim is None and "class_embeddings" in head.state:
        dim = head.state["class_embeddings"].shape[-1]
    if not isinstance(dim, int):
        raise StoreError(
            f"{path}: does not say how long embeddings are; fit again with: "
            f"{fit_command([head.run], [origin.store], path)}"
        )
    return dim


def _check_graph(graph: HeadGraph, clips: Tensor, head: FittedHead) -> None:
    try:
        with torch.no_grad():
            graph(clips)
    except ParameterError as error:
        raise ParameterError(
            f"{error} for every clip, so it has no graph of its own; the format safetensors keeps its state, "
            f"palm-cache predict uses it (run {run_name(head.run)})"
        ) from error


def _as_onnx(
    graph: HeadGraph, clips: Tensor, card: Mapping[str, object]
) -> tuple[bytes, Callable[[Tensor], Outputs]]:
    absent = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise OutputError(
            f"the format onnx needs {', '.join(absent)}; install with: pip install 'palm-cache[onnx]'"
        )
    import onnxruntime

    with _quiet():
        program: Any = torch.onnx.export(
            graph,
            (clips,),
            dynamo=True,
            verbose=False,
            input_names=["embedding"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"embedding": {0: torch.export.Dim("batch")}},
        )
        program.model.producer_name, program.model.producer_version = str(card["made_with"]).split()
        program.model.metadata_props["card"] = json.dumps(card)
        content: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(embedding: Tensor) -> Outputs:
        logits, probabilities = session.run(None, {"embedding": embedding.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(probabilities)

    return content, run


def _checked(written: Callable[[Tensor], Outputs], graph: HeadGraph, clips: Tensor) -> dict[str, object]:
    """Compare what was written with the head, on another number of clips than it was traced with."""
    other = torch.cat([clips, -clips, 3 * clips])
    with torch.no_grad():
        expected, actual = graph(other)[1], written(other)[1]
    difference = float((expected - actual).abs().max())
    if not difference <= TOLERANCE:
        raise OutputError(
            f"the exported graph and the head differ by {difference:.2g} in a probability; nothing was "
            "written: use the format safetensors, and please report this"
        )
    return {
        "input": {"embedding": ["batch", clips.shape[1]], "dtype": "float32", "length": "any"},
        "outputs": {"logits": ["batch", expected.shape[1]], "probabilities": ["batch", expected.shape[1]]},
        "checked": {"clips": len(other), "largest_difference": difference},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which lists operators that it lacks; what it writes is compared with the head."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
