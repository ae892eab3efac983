"""Scores and predictions on disk: ``scores.csv``, ``prompts.csv``, ``predictions.h5``, ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
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

PROMPT_COLUMNS = ("dataset", "encoder", "template", "fold", "n_test", "accuracy", "macro_f1", "fingerprint")
"""Columns of ``prompts.csv``, one row per prompt template and fold."""


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
    _write_table(path, scores, COLUMNS)


def read_scores(path: Path) -> pd.DataFrame:
    """Read ``scores.csv``.

    Raises
    ------
    StoreError
        If it is not there.
    DataError
        If columns are missing: another format.
    """
    return _read_table(path, COLUMNS, "scores", "palm-cache fit or palm-cache evaluate")


def write_prompts(path: Path, prompts: pd.DataFrame) -> None:
    """Write ``prompts.csv`` at full float precision, whole or not at all."""
    _write_table(path, prompts, PROMPT_COLUMNS)


def read_prompts(path: Path) -> pd.DataFrame:
    """Read ``prompts.csv``.

    Raises
    ------
    StoreError
        If it is not there.
    DataError
        If columns are missing: another format.
    """
    return _read_table(path, PROMPT_COLUMNS, "scores of prompts", "palm-cache prompts")


def _write_table(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, columns=list(columns))


def _read_table(path: Path, columns: Sequence[str], what: str, command: str) -> pd.DataFrame:
    if not path.is_file():
        raise StoreError(f"{path}: no {what} here; make them with: {command}")
    try:
        # "NA" is a name like any other; the Python engine reads floats back to the last bit.
        table = pd.read_csv(path, engine="python", keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable table ({error}); run {command}") from error
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise DataError(f"{path}: no column {', '.join(absent)}; it is of another format: run {command}")
    return table


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


def read_predictions(path: Path) -> list[Prediction]:
    """Read ``predictions.h5``.

    Raises
    ------
    StoreError
        If it is not there.
    DamagedStoreError
        If it cannot be read.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no predictions here; make them with: palm-cache evaluate")
    try:
        with h5py.File(path) as file:
            return [
                Prediction(
                    dataset=dataset,
                    encoder=encoder,
                    run=run,
                    rows=torch.from_numpy(group["row"][()]),
                    labels=torch.from_numpy(group["label"][()]),
                    logits=torch.from_numpy(group["logits"][()]),
                    class_names=tuple(str(name) for name in group.attrs["class_names"]),
                )
                for dataset, encoders in file.items()
                for encoder, runs in encoders.items()
                for run, group in runs.items()
            ]
    except (OSError, KeyError, RuntimeError) as error:
        raise DamagedStoreError(
            f"{path}: not readable ({error}); remove it and run palm-cache evaluate"
        ) from error


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
