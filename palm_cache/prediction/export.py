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
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.heads.base import SCALE, CosineHead
from palm_cache.adaptation.scorer import temperature_of
from palm_cache.errors import DamagedStoreError, OutputError, ParameterError, StoreError
from palm_cache.extraction.datasets.registry import find_card
from palm_cache.extraction.encoders.registry import find_card as find_encoder
from palm_cache.params import ExportFormat
from palm_cache.prediction.classifier import refuse_joined
from palm_cache.store.atomic import keep_inputs, replacing
from palm_cache.store.hdf5 import reason
from palm_cache.store.heads import Origin, chosen_run, heads_file, read_head, run_name
from palm_cache.store.layout import slug
from palm_cache.store.scores import KEYS, read_scores
from palm_cache.types import AnyPath, FittedHead

ENDINGS: Mapping[ExportFormat, str] = {"safetensors": ".safetensors", "onnx": ".onnx"}

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

    def forward(self, embedding: Tensor) -> Outputs:
        """Score embeddings."""
        state = {name: getattr(self, name) for name in self._names}
        logits = self._kind.logits(state, embedding)
        return logits, (logits / self._temperature).softmax(dim=-1)


def export_head(
    heads: AnyPath, form: ExportFormat, run: str | None = None, out: AnyPath | None = None
) -> Export:
    """Write one head of a heads file in a form that other programs read, and a card beside it.

    Parameters
    ----------
    heads : path
        A ``heads.h5``, or the folder that it lies in.
    form : {"safetensors", "onnx"}
    run : str, optional
        See :func:`~palm_cache.store.heads.choose_run`; by default the best on its held-out shots.
    out : path, optional
        The file to write; by default named after the run, beside the heads file. The card's name is
        that of the file with ``.json`` behind it.

    Raises
    ------
    StoreError, UnknownNameError
        If there are no such heads.
    ParameterError
        If the head has no graph of its own.
    OutputError
        If it cannot be written, a package is missing, or what was written does not agree with the head.
    """
    path = heads_file(Path(heads))
    head, origin = read_head(path, chosen_run(path, run))
    refuse_joined(head)
    file = Path(out) if out else path.with_name(run_name(head.run) + ENDINGS[form])
    card_file = Path(f"{file}.json")
    keep_inputs((file, card_file), [path], "--out")
    card = {"format": form, **describe(head, origin, path)}
    if form == "safetensors":
        with _damage(head):
            content, added = _as_tensors(head, card)
    else:
        graph = HeadGraph(head).eval()
        with _damage(head):
            clips = torch.randn(2, _dim(head, origin, path), generator=torch.Generator().manual_seed(0))
            _check_graph(graph, clips, head)
        content, run_again = _as_onnx(graph, clips, card)
        added = _checked(run_again, graph, clips)
    card |= added
    # Both are on the disk before one is in its place. The exporters' own writers do not survive a full one.
    with replacing(file) as temporary, replacing(card_file) as temporary_card:
        temporary.write_bytes(content)
        temporary_card.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Export(file, card_file, card)


@contextmanager
def _damage(head: FittedHead) -> Iterator[None]:
    """Say of arrays that do not fit together whose they are."""
    try:
        yield
    except (KeyError, RuntimeError) as error:
        raise DamagedStoreError(
            f"run {run_name(head.run)}: its arrays do not fit together ({reason(error)}); fit again with: "
            "palm-cache fit"
        ) from error


def describe(head: FittedHead, origin: Origin, path: Path) -> dict[str, object]:
    """Return the card of a head: what it tells apart, what it reads, how good it is, whose it is."""
    run, identity = head.run, origin.identity
    dataset, encoder = find_card(run.dataset), find_encoder(run.encoder)
    calibration = head.calibration
    return {
        "head": run.head,
        "run": run_name(run),
        "source": find_head(run.head).source,
        "dataset": run.dataset,
        "classes": list(head.class_names),
        "encoder": {
            "spec": run.encoder,
            "fingerprint": head.fingerprint,
            "identity": dict(identity),
        },
        "template": head.template,
        "n_train": head.n_train,
        "n_params": head.n_params,
        "hyperparameters": dict(head.hyperparameters),
        "temperature": temperature_of(head),
        "calibration": asdict(calibration) if calibration else None,
        "scores": _scores(head, path),
        "licence": {
            "note": "made from the clips of the dataset and the weights of the encoder: their licences apply",
            "dataset": dataset.licence if dataset else None,
            "encoder": encoder.source if encoder else None,
        },
        "made_with": f"palm-cache {version('palm-cache')}",
    }


def _scores(head: FittedHead, path: Path) -> dict[str, object] | None:
    """Return a run's test scores, where ``scores.csv`` lies in the folder of results."""
    folders = path.resolve().parents
    file = folders[2] / "scores.csv" if len(folders) > 2 else path.with_name("scores.csv")
    if not file.is_file():
        return None
    run = head.run
    mine = (run.dataset, slug(run.encoder), run.head, run.shots, run.fold, run.seed, run.variant)
    for row in read_scores(file).to_dict("records"):
        if tuple(row[key] for key in KEYS) == mine and row["fingerprint"] == head.fingerprint:
            return {key: row[key] for key in ("n_test", "accuracy", "macro_f1", "loss")}
    return None


def _dim(head: FittedHead, origin: Origin, path: Path) -> int:
    dim = origin.identity.get("dim")
    if dim is None and "class_embeddings" in head.state:
        dim = head.state["class_embeddings"].shape[-1]
    if not isinstance(dim, int):
        raise StoreError(f"{path}: does not say how long embeddings are; fit again with: palm-cache fit")
    return dim


def _as_tensors(head: FittedHead, card: Mapping[str, object]) -> tuple[bytes, dict[str, object]]:
    """Return what the logits follow from, and for the card how they do."""
    tensors = {name: value.contiguous() for name, value in head.state.items()}
    said = f"the state of head {head.run.head!r}, from which its logits follow as its source says"
    if issubclass(find_head(head.run.head), CosineHead):
        tensors = {"class_embeddings": tensors["class_embeddings"], "scale": torch.tensor(SCALE)}
        said = "softmax(scale * embedding / |embedding| @ class_embeddings.T / temperature)"
    tensors["temperature"] = torch.tensor(temperature_of(head))
    added: dict[str, object] = {
        "tensors": {name: list(value.shape) for name, value in tensors.items()},
        "probabilities": said,
    }
    return save(tensors, metadata={"card": json.dumps({**card, **added})}), added


def _check_graph(graph: HeadGraph, clips: Tensor, head: FittedHead) -> None:
    try:
        with torch.no_grad():
            graph(clips)
    except ParameterError as error:
        raise ParameterError(
            f"{error} for every clip, so it has no graph of its own; --to safetensors keeps its state, "
            f"palm-cache predict uses it (run {run_name(head.run)})"
        ) from error


def _as_onnx(
    graph: HeadGraph, clips: Tensor, card: Mapping[str, object]
) -> tuple[bytes, Callable[[Tensor], Outputs]]:
    absent = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise OutputError(
            f"--to onnx needs {', '.join(absent)}; install with: pip install 'palm-cache[onnx]'"
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
        expected, found = graph(other)[1], written(other)[1]
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE:
        raise OutputError(
            f"the exported graph and the head differ by {difference:.2g} in a probability; nothing was "
            "written: use --to safetensors, and please report this"
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
