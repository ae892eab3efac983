from __future__ import annotations

from pathlib import Path

import h5py
import pandas as pd
import pytest
import torch

from palm_cache.errors import DamagedStoreError
from palm_cache.store.scores import COLUMNS, Prediction, read_scores, write_predictions, write_scores


def prediction(dataset: str, run: str = "palm-4shots-fold1-seed0") -> Prediction:
    rows = torch.arange(3)
    return Prediction(dataset, "mini", run, rows, rows % 2, torch.randn(3, 2), ("a", "b"))


def test_scores_keep_full_precision(tmp_path: Path) -> None:
    row = {**dict.fromkeys(COLUMNS, "NA"), "accuracy": 1 / 3, "loss": 1e-17 / 7, "shots": 4}
    write_scores(tmp_path / "scores.csv", pd.DataFrame([row]))
    again = read_scores(tmp_path / "scores.csv")
    assert list(again.columns) == list(COLUMNS)
    assert again["accuracy"][0] == 1 / 3
    assert again["loss"][0] == 1e-17 / 7
    assert again["dataset"][0] == "NA"


def test_predictions_of_other_datasets_stay(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    write_predictions(path, [prediction("one"), prediction("two", "old")])
    write_predictions(path, [prediction("two", "new")])
    with h5py.File(path) as file:
        assert list(file["one/mini"]) == ["palm-4shots-fold1-seed0"]
        assert list(file["two/mini"]) == ["new"]
        group = file["one/mini/palm-4shots-fold1-seed0"]
        assert group["logits"].shape == (3, 2)
        assert group["label"][:].tolist() == [0, 1, 0]
        assert list(group.attrs["class_names"]) == ["a", "b"]


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    path.write_bytes(b"not HDF5")
    with pytest.raises(DamagedStoreError, match=r"predictions\.h5: not readable"):
        write_predictions(path, [prediction("one")])
