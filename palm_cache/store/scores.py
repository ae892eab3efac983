"""Scores and predictions on disk: ``scores.csv``, ``predictions.h5``, ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from torch import Tensor

from palm_cache.errors import DamagedStoreError, DataError, StoreError
from palm_cache.store.files import replacing

COLUMNS = (
    "dataset",
    "encoder",
    "head",
    "shots",
    "fold",
    "seed",
    "n_train",
    "n_test",
    "n_params",
    "accuracy",
    "macro_f1",
    "macro_precision",
    "macro_recall",
    "loss",
    "fit_seconds",
    "template",
    "hyperparameters",
    "fingerprint",
)
"""Columns of ``scores.csv``, one row per run; ``encoder`` is the slug of the spec."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one run said about every test clip."""

    dataset: str
    encoder: str
    """Slug."""
    run: str
    """Name of the run, e.g. ``palm-16shots-fold1-seed0``."""
    rows: Tensor
    """(n_test,) int64 rows of the feature store."""
    labels: Tensor
    """(n_test,) int64."""
    logits: Tensor
    """(n_test, n_classes) float32."""
    class_names: tuple[str, ...]


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """Write ``scores.csv`` at full float precision, whole or not at all."""
    with replacing(path) as temporary:
        scores.to_csv(temporary, index=False, columns=list(COLUMNS))


def read_scores(path: Path) -> pd.DataFrame:
    """Read ``scores.csv``.

    Raises
    ------
    StoreError
        If it is not there.
    DataError
        If columns are missing: another format.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no scores here; make them with: palm-cache fit or palm-cache evaluate")
    try:
        # "NA" is a name like any other; the Python engine reads floats back to the last bit.
        scores = pd.read_csv(path, engine="python", keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable table ({error}); run palm-cache evaluate") from error
    absent = [column for column in COLUMNS if column not in scores.columns]
    if absent:
        raise DataError(
            f"{path}: no column {', '.join(absent)}; it is of another format: run palm-cache evaluate"
        )
    return scores


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write ``predictions.h5``; what it holds of other datasets and encoders stays.

    Group ``<dataset>/<encoder>/<run>`` holds ``row``, ``label`` and ``logits``.
    """
    predictions = list(predictions)
    renewed = {(prediction.dataset, prediction.encoder) for prediction in predictions}
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        if path.exists():
            _copy_others(path, file, renewed)
        for prediction in predictions:
            group = file.create_group(f"{prediction.dataset}/{prediction.encoder}/{prediction.run}")
            group.create_dataset("row", data=prediction.rows.numpy())
            group.create_dataset("label", data=prediction.labels.numpy())
            group.create_dataset("logits", data=prediction.logits.numpy())
            group.attrs["class_names"] = np.array(prediction.class_names, dtype=h5py.string_dtype())


def _copy_others(path: Path, target: h5py.File, renewed: set[tuple[str, str]]) -> None:
    try:
        with h5py.File(path) as old:
            for dataset, encoders in old.items():
                for encoder in encoders:
                    if (dataset, encoder) not in renewed:
                        old.copy(f"{dataset}/{encoder}", target.require_group(dataset))
    except (OSError, KeyError, RuntimeError) as error:
        raise DamagedStoreError(
            f"{path}: not readable ({error}); remove it and run palm-cache evaluate"
        ) from error


def write_metrics(path: Path, metrics: Mapping[str, object]) -> None:
    """Write ``metrics.json``, what ``dvc metrics`` compares."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
