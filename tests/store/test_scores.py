from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import h5py
import pandas as pd
import pytest
import torch
from samples import flip_bit

from palm_cache.errors import DamagedStoreError, DataError
from palm_cache.store.scores import (
    COLUMNS,
    RunPrediction,
    read_predictions,
    read_scores,
    write_predictions,
    write_scores,
)

RUN = "palm-4shots-fold1-seed0"

ROW: dict[str, object] = {
    "dataset": "NA",
    "encoder": "mini",
    "head": "palm",
    "shots": 4,
    "fold": 1,
    "seed": 0,
    "variant": "lr=0.005",
    "n_train": 8,
    "n_test": 4,
    "n_params": 10,
    "accuracy": 1 / 3,
    "macro_f1": 0.5,
    "macro_precision": 0.5,
    "macro_recall": 0.5,
    "loss": 1e-17 / 7,
    "base_accuracy": 0.25,
    "novel_accuracy": 1.0,
    "fit_seconds": 0.1,
    "template": "a {c}, not quite",
    "hyperparameters": '{"lr": 0.05}',
    "fingerprint": "f" * 64,
}


def prediction(dataset: str, run: str = RUN) -> RunPrediction:
    rows = torch.arange(3)
    return RunPrediction(dataset, "mini", run, rows, rows % 2, torch.randn(3, 2), ("a", "b"))


def test_scores_keep_full_precision(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", pd.DataFrame([ROW]))
    again = read_scores(tmp_path / "scores.csv")
    assert list(again.columns) == list(COLUMNS)
    assert again.to_dict("records") == [ROW]


@pytest.mark.parametrize("name", ["001", "NA", "1e5", "True", "nan", "2024-01-01"])
def test_a_dataset_called_like_a_number_keeps_its_name(tmp_path: Path, name: str) -> None:
    write_scores(tmp_path / "scores.csv", pd.DataFrame([{**ROW, "dataset": name, "fingerprint": "1" * 64}]))
    (again,) = read_scores(tmp_path / "scores.csv").to_dict("records")
    assert (again["dataset"], again["fingerprint"]) == (name, "1" * 64)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("accuracy", "inf"),
        ("accuracy", "nan"),
        ("accuracy", ""),
        ("macro_f1", "1.5"),
        ("loss", "-inf"),
        ("loss", "inf"),
        ("fit_seconds", "soon"),
        ("shots", "4.5"),
        ("seed", "-1"),
        ("n_test", "9" * 400),
        ("hyperparameters", "[1]"),
        ("hyperparameters", "{" * 5000),
        ("dataset", ""),
        ("dataset", "../../escaped"),
        ("encoder", ".."),
        ("head", "a/b"),
    ],
)
def test_a_cell_that_is_no_score_is_named(tmp_path: Path, column: str, cell: str) -> None:
    file = tmp_path / "scores.csv"
    pd.DataFrame([ROW, {**ROW, column: cell}]).to_csv(file, index=False)
    with pytest.raises(DataError, match=rf"scores\.csv: not a readable table \(row 2, {column} "):
        read_scores(file)


@pytest.mark.parametrize("change", [lambda line: line + ",more", lambda line: line.rsplit(",", 3)[0]])
def test_a_ragged_row_is_named(tmp_path: Path, change: object) -> None:
    file = tmp_path / "scores.csv"
    write_scores(file, pd.DataFrame([{**ROW, "template": "{c}"}]))
    heading, row = file.read_text().splitlines()
    file.write_text(f"{heading}\n{row}\n{change(row)}\n")  # type: ignore[operator]
    with pytest.raises(DataError, match=r"row 2 has \d+ cells, there are 21 columns"):
        read_scores(file)


def test_a_run_that_stands_in_two_rows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    write_scores(file, pd.DataFrame([ROW, {**ROW, "seed": 9}, {**ROW, "accuracy": 0.5}]))
    with pytest.raises(DataError, match=r"\(row 3 is of the same run as an earlier one\); move it away and"):
        read_scores(file)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'dataset,"enc', b"\0"])
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "scores.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"scores\.csv: "):
        read_scores(file)


def test_predictions_of_other_datasets_stay(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    write_predictions(path, [prediction("one"), prediction("two", "knn-1shots-fold1-seed0")])
    write_predictions(path, [prediction("two")])
    with h5py.File(path) as file:
        assert list(file["one/mini"]) == [RUN]
        assert list(file["two/mini"]) == [RUN]
        group = file[f"one/mini/{RUN}"]
        assert group["logits"].shape == (3, 2)
        assert group["label"][:].tolist() == [0, 1, 0]
        assert list(group.attrs["class_names"]) == ["a", "b"]


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    path.write_bytes(b"not HDF5")
    with pytest.raises(DamagedStoreError, match=r"predictions\.h5: not readable"):
        write_predictions(path, [prediction("one")])


def test_every_changed_byte_of_predictions_is_found(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    write_predictions(path, [prediction("one")])
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        flip_bit(path, place)
        with pytest.raises(DamagedStoreError, match=r"predictions\.h5: not readable"):
            read_predictions(path)
        path.write_bytes(whole)
    assert len(read_predictions(path)) == 1


def test_predictions_of_the_first_format_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    for labels, sound in (([0, 1, 0], True), ([0, 1, 2], False), ([0, 1], False)):
        with h5py.File(path, "w") as file:
            group = file.create_group(f"one/mini/{RUN}")
            group["row"], group["label"], group["logits"] = [0, 1, 2], labels, torch.zeros(3, 2).numpy()
            group.attrs["class_names"] = ["a", "b"]
        if sound:
            assert read_predictions(path)[0].labels.tolist() == labels
        else:
            with pytest.raises(DamagedStoreError, match="arrays of palm-4shots-fold1-seed0"):
                read_predictions(path)


@pytest.mark.parametrize(
    "change",
    [
        {"logits": torch.full((3, 2), float("nan"))},
        {"rows": torch.tensor([-1, 0, 1])},
        {"labels": torch.tensor([0, 1, 7])},
        {"class_names": ("a",)},
        {"run": "nonsense"},
        {"encoder": ".."},
    ],
)
def test_predictions_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "predictions.h5"
    write_predictions(path, [replace(prediction("one"), **change)])  # type: ignore[arg-type]
    with pytest.raises(DamagedStoreError, match=r"predictions\.h5: not readable"):
        read_predictions(path)


def test_predictions_that_are_a_pipe_or_point_elsewhere_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "predictions.h5", tmp_path / "other.h5"
    write_predictions(other, [prediction("one")])
    with h5py.File(path, "w") as file:
        file["one"] = h5py.ExternalLink(str(other), "one")
    with pytest.raises(DamagedStoreError, match="one is a link"):
        read_predictions(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedStoreError, match="it is not a file"):
        write_predictions(path, [prediction("one")])
