"""What goes with a fitted head that leaves its folder: a card of what it is, and the file that holds both."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import Tensor

from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.heads.base import SCALE, CosineHead
from palm_cache.adaptation.scorer import temperature_of
from palm_cache.errors import DamagedStoreError
from palm_cache.extraction.datasets.registry import find_card
from palm_cache.extraction.encoders.registry import find_card as find_encoder
from palm_cache.store.layout import slug
from palm_cache.store.remedies import fit_command
from palm_cache.store.run_names import run_name
from palm_cache.store.scores import KEYS, read_scores
from palm_cache.store.shared import OpenedHead, card_of, pack
from palm_cache.types.runs import FittedHead

LEVEL = 0.95
"""Of the interval around a run's accuracy."""

MEASURES = ("n_test", "accuracy", "macro_f1", "loss")
"""What a card says of a run's test scores."""


def describe(opened: OpenedHead, file: Path) -> dict[str, object]:
    """Return the card of a head: what it tells apart, what it reads, how good it is, whose it is.

    Parameters
    ----------
    opened : OpenedHead
    file : Path
        That it was read from; scores lie beside it.
    """
    head = opened.head
    dataset, encoder = find_card(head.run.dataset), find_encoder(head.run.encoder)
    return {
        **card_of(head, opened.origin),
        "source": find_head(head.run.head).source,
        "temperature": temperature_of(head),
        "scores": _known_scores(opened.card.get("scores")) if opened.card else _scores(head, file),
        "licence": {
            "note": "made from the clips of the dataset and the weights of the encoder: their licences apply",
            "dataset": dataset.licence if dataset else None,
            "encoder": encoder.licence or None if encoder else None,
            "encoder_source": encoder.source if encoder else None,
        },
        "made_with": f"palm-cache {version('palm-cache')}",
    }


def pack_head(opened: OpenedHead, file: Path) -> tuple[bytes, dict[str, object]]:
    """Return a file with one head and its card: what export writes and push uploads.

    Raises
    ------
    DamagedStoreError
        If the head has not what its kind scores by.
    """
    head = opened.head
    state = dict(head.state)
    more: dict[str, Tensor] = {"temperature": torch.tensor(temperature_of(head))}
    formula = f"the state of head {head.run.head!r}, from which its logits follow as its source says"
    if find_head(head.run.head).logits is CosineHead.logits:
        if "class_embeddings" not in state:
            raise DamagedStoreError(
                f"run {run_name(head.run)}: its arrays do not fit together (no class_embeddings); fit again "
                f"with: {fit_command([head.run], [opened.origin.store], file)}"
            )
        state = {"class_embeddings": state["class_embeddings"]}
        more["scale"] = torch.tensor(SCALE)
        formula = "softmax(scale * embedding / |embedding| @ class_embeddings.T / temperature)"
    tensors = {name: value.contiguous() for name, value in {**state, **more}.items()}
    return pack(
        {
            "format": "safetensors",
            **describe(opened, file),
            "tensors": {name: list(value.shape) for name, value in tensors.items()},
            "state": sorted(state),
            "probabilities": formula,
        },
        tensors,
    )


def _known_scores(scores: object) -> dict[str, object] | None:
    """Return the scores of a card that was read, if they are such as :func:`_scores` returns."""
    alike = {**dict.fromkeys(MEASURES, 1.0), "accuracy_interval": [0.0, 1.0], "level": LEVEL}
    alike["all_folds_and_seeds"] = dict.fromkeys(("runs", "mean_accuracy", "lowest", "highest"), 1.0)
    return scores if isinstance(scores, dict) and _shape(scores) == _shape(alike) else None


def _shape(value: object) -> object:
    """Return a value with every number in it replaced, to compare what holds numbers."""
    if isinstance(value, dict):
        return {key: _shape(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_shape(entry) for entry in value]
    return 0 if isinstance(value, int | float) else value


def _scores(head: FittedHead, file: Path) -> dict[str, object] | None:
    """Return a run's test scores, where ``scores.csv`` lies in the folder of results."""
    folders = file.resolve().parents
    table = folders[2] / "scores.csv" if len(folders) > 2 else file.with_name("scores.csv")
    if not table.is_file():
        return None
    run, scores = head.run, read_scores(table)
    keys = [run.dataset, slug(run.encoder), run.head, run.shots, run.fold, run.seed, run.variant]
    equal = scores[list(KEYS)] == keys
    alike = equal.drop(columns=["fold", "seed"]).all(axis=1) & (scores["fingerprint"] == head.fingerprint)
    own = scores[alike & equal.all(axis=1)].to_dict("records")
    if not own:
        return None
    row, accuracies = own[0], scores.loc[alike, "accuracy"]
    return {
        **{key: row[key] for key in MEASURES},
        "accuracy_interval": _interval(row["accuracy"], row["n_test"]),
        "level": LEVEL,
        "all_folds_and_seeds": {
            "runs": len(accuracies),
            "mean_accuracy": accuracies.mean(),
            "lowest": accuracies.min(),
            "highest": accuracies.max(),
        },
    }


def _interval(accuracy: float, n_test: int) -> list[float]:
    """Return Wilson's interval of a share of test clips."""
    interval = binomtest(round(accuracy * n_test), n_test).proportion_ci(LEVEL, method="wilson")
    return [float(interval.low), float(interval.high)]
