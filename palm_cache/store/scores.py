"""Scores and predictions on disk: ``scores.csv``, ``prompts.csv``, ``predictions.h5``, ``metrics.json``."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from palm_cache.errors import DamagedStoreError, DataError, StoreError, reason_of
from palm_cache.store.atomic import parse_json, replacing
from palm_cache.store.hdf5 import DAMAGE, members, reading, tensor, writing
from palm_cache.store.layout import check_name, command_line
from palm_cache.store.outputs import METRICS
from palm_cache.store.run_names import split_run_name
from palm_cache.types.runs import ALL_SHOTS, method, spell_shots

Cell = Callable[[str], object]
"""Makes a value of a table's cell; raises ``ValueError`` where it is none."""


def _name(text: str) -> str:
    return check_name(text, "name")


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError("not a whole number from 0")
    return int(text)


def _shots(text: str) -> int:
    return ALL_SHOTS if text == spell_shots(ALL_SHOTS) else _count(text)


def _number(text: str, most: float = sys.float_info.max) -> float:
    if not 0 <= (value := float(text)) <= most:
        raise ValueError(f"not a number from 0{' to 1' * (most == 1)}")
    return value


def _share(text: str) -> float:
    return _number(text, most=1)


def _settings(text: str) -> str:
    if not isinstance(parse_json(text), dict):
        raise ValueError("not a JSON object")
    return text


_SCORES: Mapping[str, Cell] = {
    "dataset": _name,
    "encoder": _name,
    "head": _name,
    "shots": _shots,
    "fold": _count,
    "seed": _count,
    "variant": lambda text: text and _name(text),
    "n_train": _count,
    "n_test": _count,
    "n_params": _count,
    "accuracy": _share,
    "macro_f1": _share,
    "macro_precision": _share,
    "macro_recall": _share,
    "loss": _number,
    "base_accuracy": lambda text: _share(text) if text else math.nan,
    "novel_accuracy": lambda text: _share(text) if text else math.nan,
    "fit_seconds": _number,
    "template": str,
    "hyperparameters": _settings,
    "fingerprint": str,
}

COLUMNS = tuple(_SCORES)
"""Columns of ``scores.csv``, one row per run; ``encoder`` is the slug of the spec."""

KEYS = COLUMNS[:7]
"""Columns that tell runs apart."""

_ADDED: Mapping[str, str] = {"variant": "", "base_accuracy": "", "novel_accuracy": ""}
"""Columns that earlier versions did not write, and what they would have held."""

_PROMPTS: Mapping[str, Cell] = {
    "dataset": _name,
    "encoder": _name,
    "template": str,
    "fold": _count,
    "n_test": _count,
    "accuracy": _share,
    "macro_f1": _share,
    "fingerprint": str,
}

PROMPT_COLUMNS = tuple(_PROMPTS)
"""Columns of ``prompts.csv``, one row per prompt template and fold."""

PREDICTIONS_VERSION = 2
"""Format of ``predictions.h5``; the first said none and bore no seal."""


@dataclass(frozen=True, slots=True)
class RunPrediction:
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
    _write_table(path, scores.assign(shots=scores["shots"].map(spell_shots)), COLUMNS)


def read_scores(path: Path) -> pd.DataFrame:
    """Read ``scores.csv``.

    Raises
    ------
    StoreError
        If it is not there.
    DataError
        If it is no table of these, a cell is not what its column holds, or two rows are of one run: row and
        column are named.
    """
    return _read_table(path, _SCORES, KEYS, "scores", command_line("fit", out=path.parent))


def tell_apart(scores: pd.DataFrame) -> pd.DataFrame:
    """Call heads by their variants where one has several: nothing is averaged over them.

    ``head`` is ``palm@lr=0.005`` instead of ``palm`` where there are further variants of it.
    """
    methods = [method(*pair) for pair in zip(scores["head"], scores["variant"], strict=True)]
    several = scores.groupby("head")["variant"].transform("nunique") > 1
    return scores.assign(head=scores["head"].where(~several, pd.Series(methods, index=scores.index)))


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
        As :func:`read_scores`.
    """
    keys = ("dataset", "encoder", "template", "fold")
    return _read_table(path, _PROMPTS, keys, "scores of prompts", command_line("prompts", out=path.parent))


def _write_table(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    with replacing(path) as temporary:
        table.reindex(columns=list(columns)).to_csv(temporary, index=False)


def _read_table(
    path: Path, kinds: Mapping[str, Cell], keys: Sequence[str], what: str, command: str
) -> pd.DataFrame:
    if not path.is_file():
        raise StoreError(f"{path}: no {what} here; make them with: {command}")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            columns, *rows = csv.reader(file, strict=True)
            absent = [column for column in kinds if column not in (*columns, *_ADDED)]
            if absent:
                raise ValueError(f"no column {', '.join(absent)}")
            records = [_typed(row, columns, kinds, number) for number, row in enumerate(rows, start=1) if row]
            table = pd.DataFrame(records, columns=list(kinds))
            if (repeated := table.duplicated(list(keys))).any():  # a mean would count it twice
                raise ValueError(f"row {repeated.argmax() + 1} is of the same run as an earlier one")
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(
            f"{path}: not a readable table ({reason_of(error)}); move it away and run {command}"
        ) from error
    return table


def _typed(
    row: Sequence[str], columns: Sequence[str], kinds: Mapping[str, Cell], number: int
) -> list[object]:
    if len(row) != len(columns):
        raise ValueError(f"row {number} has {len(row)} cells, there are {len(columns)} columns")
    cells, typed = {**_ADDED, **dict(zip(columns, row, strict=True))}, []
    for column, kind in kinds.items():
        try:
            typed.append(kind(cells[column]))
        except (ValueError, DataError, RecursionError) as error:
            raise ValueError(f"row {number}, {column} {cells[column][:50]!r}: {reason_of(error)}") from error
    return typed


def write_predictions(path: Path, predictions: Iterable[RunPrediction]) -> None:
    """Write ``predictions.h5``; what it holds of other datasets and encoders stays.

    Group ``<dataset>/<encoder>/<run>`` holds ``row``, ``label`` and ``logits``.
    """
    predictions = list(predictions)
    renewed = {(prediction.dataset, prediction.encoder) for prediction in predictions}
    earlier = read_predictions(path) if path.exists() else []
    others = [prediction for prediction in earlier if (prediction.dataset, prediction.encoder) not in renewed]
    with writing(path) as file:
        for prediction in [*others, *predictions]:
            group = file.create_group(f"{prediction.dataset}/{prediction.encoder}/{prediction.run}")
            group.create_dataset("row", data=prediction.rows.numpy())
            group.create_dataset("label", data=prediction.labels.numpy())
            group.create_dataset("logits", data=prediction.logits.numpy())
            group.attrs["class_names"] = np.array(prediction.class_names, dtype=h5py.string_dtype())
        file.attrs["format_version"] = PREDICTIONS_VERSION


def read_predictions(path: Path) -> list[RunPrediction]:
    """Read ``predictions.h5``.

    Raises
    ------
    StoreError
        If it is not there.
    DamagedStoreError
        If it cannot be read, its seal does not hold, or a run's arrays do not fit together.
    """
    if not path.exists() or path.is_dir():
        remedy = command_line("evaluate", out=path.parent)
        raise StoreError(f"{path}: no predictions here; make them with: {remedy}")
    try:
        with reading(path) as (file, intact):
            if not intact and "format_version" in file.attrs:
                raise ValueError("its checksum fails")
            return [
                _read_prediction(dataset, encoder, run, group)
                for dataset, encoders in members(file).items()
                for encoder, runs in members(encoders).items()
                for run, group in members(runs).items()
            ]
    except (*DAMAGE, DataError) as error:
        raise DamagedStoreError(
            f"{path}: not readable ({reason_of(error)}); remove it and make it anew with: "
            f"{command_line('evaluate', out=path.parent)}"
        ) from error


def _read_prediction(dataset: str, encoder: str, run: str, group: h5py.Group) -> RunPrediction:
    split_run_name(run)
    rows, labels, logits = (tensor(group[name]) for name in ("row", "label", "logits"))
    class_names = tuple(str(name) for name in group.attrs["class_names"])
    fitting = rows.shape == labels.shape == logits.shape[:1] and logits.shape[1:] == (len(class_names),)
    if not fitting or rows.dtype != torch.int64 or labels.dtype != torch.int64:
        raise ValueError(f"the arrays of {run} do not fit together")
    if not (((labels >= 0) & (labels < len(class_names))).all() and (rows >= 0).all()):
        raise ValueError(f"the arrays of {run} hold what no prediction is")
    return RunPrediction(
        check_name(dataset, "dataset"), check_name(encoder, "encoder"), run, rows, labels, logits, class_names
    )


def write_metrics(path: Path, metrics: Mapping[str, object]) -> None:
    """Write ``metrics.json``, what ``dvc metrics`` compares."""
    with replacing(path, kind=METRICS) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
