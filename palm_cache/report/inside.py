"""What heads that learn a context have learned: how far each class trusts it, and what it is near to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from palm_cache.errors import PalmCacheError, StoreError, counted
from palm_cache.report.content import Figure, Section, Table
from palm_cache.report.evidence import HeadRuns, Place, largest_of
from palm_cache.report.figures import losses_by_epoch
from palm_cache.report.means import percent
from palm_cache.report.statistics import confusion, rank_correlation, recalls
from palm_cache.store.features import FeatureStore
from palm_cache.store.heads import read_heads
from palm_cache.store.layout import heads_path
from palm_cache.store.run_names import run_name
from palm_cache.store.scores import RunPrediction
from palm_cache.types import Place as StorePlace
from palm_cache.types.runs import FittedHead

NEAREST = 2
"""Names that are shown of those near a context."""

_HOW = (
    "A class's prompt is blended with a context that was learned: the gate says how much the context counts, "
    "0 not at all, 1 alone (mean over runs, at the largest number of shots). Beside it stand the recall of "
    "zero-shot, which is what the prompt knew, the recall of the head, and the class names and prompts whose "
    "embeddings the context is nearest to, with the cosine, mean over runs. A gate that is low where "
    "zero-shot is good lets well alone."
)


Texts: TypeAlias = tuple[NDArray[np.float32], tuple[str, ...]]
"""The text embeddings of a store, (n_classes, n_templates, dim) of unit length, and its templates."""


def inside(kinds: Mapping[Place, list[HeadRuns]], heads: Path) -> Section | None:
    """Look inside every head with a gate and a context per class.

    Parameters
    ----------
    kinds : mapping
        From :func:`palm_cache.report.evidence.by_kind`.
    heads : Path
        The folder below which heads lie.

    Returns
    -------
    Section or None
        ``None`` where there is no such head. Where the store cannot be read, what contexts are near to stays
        out.
    """
    blocks: list[str | Table | Figure] = []
    losses: dict[str, NDArray[np.float32]] = {}
    for (dataset, encoder), of_place in kinds.items():
        path = heads_path(heads, dataset, encoder)
        if not path.is_file():
            continue
        try:
            fitted, stores = read_heads(path)
        except StoreError as error:
            blocks.append(f"Not looked at: {error}.")
            continue
        texts = _read_texts(stores)
        alone = next((kind.runs for kind in of_place if kind.head == "zero-shot"), {})
        for kind in largest_of(of_place):
            members = _members(kind, fitted)
            if members:
                folds = {fold for fold, _ in kind.runs}
                zero_shot = [run for (fold, _), run in alone.items() if fold in folds]
                blocks += _tell(f"{dataset}, {encoder}: {kind}", members, kind, zero_shot, texts)
                losses |= _losses(f"{dataset}, {encoder}, {kind.head}", members)
    if losses:
        blocks.append(losses_by_epoch(losses))
    return Section("Inside the heads", (_HOW, *blocks)) if blocks else None


def _read_texts(stores: Sequence[StorePlace]) -> Texts | None:
    """Return the prompts of the store that heads were fitted on, if it is still there and holds some."""
    if len(stores) > 1:
        return None
    try:
        store = FeatureStore(stores[0])
        vectors = normalize(torch.from_numpy(store.text()), dim=-1).numpy()
        return (vectors, store.header.templates) if store.header.templates else None
    except PalmCacheError:
        return None


def _members(kind: HeadRuns, fitted: Sequence[FittedHead]) -> list[FittedHead]:
    """Return the runs of a kind that have a gate and a context for each of its classes."""
    names = next(iter(kind.runs.values())).class_names
    ran = {run.run for run in kind.runs.values()}
    return [
        head
        for head in fitted
        if run_name(head.run) in ran
        and head.class_names == names
        and {"gate", "context"} <= head.state.keys()
        and head.state["gate"].shape == (len(names),)
    ]


def _tell(
    where: str,
    members: Sequence[FittedHead],
    kind: HeadRuns,
    zero_shot: Sequence[RunPrediction],
    texts: Texts | None,
) -> list[str | Table]:
    names = members[0].class_names
    gates = torch.stack([head.state["gate"] for head in members]).sigmoid().mean(dim=0).numpy()
    columns: dict[str, Sequence[str]] = {"class": names, "gate": [f"{gate:.2f}" for gate in gates]}
    correlations = []
    if zero_shot:
        before = recalls(confusion(zero_shot))
        columns["zero-shot recall %"] = [percent(float(recall)) for recall in before]
        present = ~np.isnan(before)
        if len(set(before[present])) > 1 and len(set(gates[present])) > 1:
            rank, p = rank_correlation(gates[present], before[present])
            of_classes = f"{counted(int(present.sum()), 'class', 'classes')}, p {p:.2f}"
            correlations.append(
                f"{where}: rank correlation of gate and zero-shot recall {rank:+.2f} ({of_classes})."
            )
    columns["recall %"] = [percent(float(recall)) for recall in recalls(confusion(list(kind.runs.values())))]
    if texts is not None and texts[0].shape[::2] == members[0].state["context"].shape:
        columns |= _near(members, names, texts)
    rows = tuple(zip(*columns.values(), strict=True))
    return [*correlations, Table(tuple(columns), rows, f"{where}, gates and contexts by class")]


def _near(members: Sequence[FittedHead], names: Sequence[str], texts: Texts) -> dict[str, list[str]]:
    """Return the class names and the prompts that every context is nearest to."""
    vectors, templates = texts
    n_classes, n_templates, dim = vectors.shape
    contexts = [normalize(head.state["context"], dim=-1).numpy() for head in members]
    cosines = np.mean([context @ vectors.reshape(-1, dim).T for context in contexts], axis=0)
    cosines = cosines.reshape(n_classes, n_classes, n_templates)
    of_names = cosines.mean(axis=2)
    columns: dict[str, list[str]] = {"nearest names": [], "nearest prompt": []}
    for label in range(n_classes):
        best = np.argsort(-of_names[label], kind="stable")[:NEAREST]
        columns["nearest names"].append(
            ", ".join(f"{names[neighbour]} {of_names[label, neighbour]:.2f}" for neighbour in best)
        )
        named, template = np.unravel_index(cosines[label].argmax(), cosines[label].shape)
        prompt = _prompt(templates[template], names[named])
        columns["nearest prompt"].append(f"{prompt} {cosines[label].max():.2f}")
    return columns


def _prompt(template: str, name: str) -> str:
    return template.replace("{c}", name) if "{c}" in template else f"{template} of {name}"


def _losses(name: str, members: Sequence[FittedHead]) -> dict[str, NDArray[np.float32]]:
    """Return the mean loss by epoch of runs that kept it."""
    losses = [head.state["losses"].numpy() for head in members if "losses" in head.state]
    return {name: np.mean(losses, axis=0)} if losses else {}
