"""Rows of stores, compared with what the same head says of the same features elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import call, fail, succeed
from samples import make_features, write_palm_folder, write_sample
from workshop import Workshop

import palm_cache
from palm_cache.adaptation.fit import fit_store
from palm_cache.adaptation.scorer import Scorer
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.params import FitParams, ReadingParams
from palm_cache.store import hdf5
from palm_cache.store.heads import read_heads
from palm_cache.store.join import read_features
from palm_cache.store.run_names import run_name
from palm_cache.store.scores import read_predictions


def test_rows_get_the_logits_that_evaluation_gave_them(workshop: Workshop) -> None:
    found = palm_cache.predict(
        workshop.heads, store=palm_cache.open_features(workshop.store), run="palm-4shots"
    )
    predictions = read_predictions(workshop.heads.parents[2] / "predictions.h5")
    (evaluated,) = [one for one in predictions if one.run == found.run]
    temperature = next(
        head.calibration.temperature if head.calibration else 1.0
        for head in read_heads(workshop.heads)[0]
        if run_name(head.run) == found.run
    )
    expected = (evaluated.logits.double() / temperature).softmax(dim=1).numpy()
    np.testing.assert_allclose(found.probabilities[evaluated.rows.numpy()], expected, atol=1e-6)
    assert found.table["label"].tolist() == [
        found.class_names[label] for label in found.probabilities.argmax(axis=1)
    ]


def test_the_heads_are_read_once_to_score_rows_and_once_to_say_what_else_there_is(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, inner = [], hdf5._content

    def counted(path: Path) -> bytes:
        opened.append(path)
        return inner(path)

    monkeypatch.setattr(hdf5, "_content", counted)
    succeed("predict", str(workshop.heads), "--store", str(workshop.store), "--run", "palm")
    assert opened == [workshop.heads]
    opened.clear()
    succeed("predict", str(workshop.heads), "--store", str(workshop.store))
    assert opened == [workshop.heads] * 2


def test_rows_are_told_as_files_are(workshop: Workshop, tmp_path: Path) -> None:
    words = ("predict", str(workshop.heads), "--store", str(workshop.store), "--run", "palm")
    document = json.loads(succeed(*words, "--json", "--top", "2").stdout)
    assert document["stores"] == [str(workshop.store)]
    assert [len(row["top"]) for row in document["results"]] == [2] * len(document["results"])
    told = succeed(*words, "--csv", str(tmp_path / "rows.csv")).stdout
    assert told == f"{len(document['results'])} rows -> {tmp_path / 'rows.csv'}\n"
    table = pd.read_csv(tmp_path / "rows.csv")
    assert table.columns.tolist() == ["path", "label", "probability", "error"]
    assert table["label"].tolist() == [row["label"] for row in document["results"]]
    pytest.importorskip("pyarrow")
    succeed(*words, "--parquet", str(tmp_path / "rows.parquet"), "--threshold", "0.9")
    stored = pd.read_parquet(tmp_path / "rows.parquet")
    assert stored["path"].tolist() == table["path"].tolist()
    sure = table["probability"] >= 0.9
    assert stored["label"].notna().tolist() == sure.tolist()
    told = succeed(*words, "--parquet", str(tmp_path / "again.parquet"), "--json")
    assert len(json.loads(told.stdout)["results"]) == len(stored)
    assert f"{len(stored)} rows -> " in told.stderr


def test_rows_that_are_windows_are_a_timeline(workshop: Workshop, tmp_path: Path) -> None:
    data = write_palm_folder(tmp_path / "Windows")
    flat = tmp_path / "Flat"
    (data / "audios").rename(flat)
    table = read_dataset(str(flat), reading=ReadingParams(window=0.25))
    recipe = palm_cache.Recipe(views=2)
    store = extract(table, "mini", tmp_path / "windows.zarr", recipe).store
    found = palm_cache.predict(workshop.heads, store=store, run="palm").table
    assert found.columns.tolist() == ["path", "start", "end", "label", "probability", "error"]
    one = found[found["path"] == "train_1_3.wav"]
    assert one["start"].tolist() == [0.0, 0.25, 0.5, 0.55]
    shown = succeed("predict", str(workshop.heads), "--store", str(store), "--run", "palm").stdout
    assert re.search(r"train_1_3.wav +0:00:00.2 +0:00:00.5", shown)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Stores of one dataset from two encoders, and heads on both together."""
    root = tmp_path_factory.mktemp("joined")
    first = make_features()
    second = replace(make_features(dim=16, seed=1, failed=(3,)), encoder="clap:other", fingerprint="e" * 64)
    stores = write_sample(root / "a.zarr", first), write_sample(root / "b.zarr", second)
    params = FitParams(heads=("muka",), shots=(4,), seeds=(0,), folds=(1,))
    return (*stores, fit_store(stores[0], root / "runs", params, partners=[stores[1]]).heads_file)


def test_a_head_on_joined_encoders_scores_rows_of_both_stores_in_any_order(
    joined: tuple[Path, Path, Path],
) -> None:
    first, second, heads = joined
    found = palm_cache.predict(heads, store=[second, first])
    features = read_features([first, second])
    (head,), _ = read_heads(heads)
    scorer = Scorer(head, features.audio.shape[2])
    expected = scorer.probabilities(scorer.logits(features.audio[:, 0])).numpy()
    known = features.usable.numpy()
    np.testing.assert_allclose(found.probabilities[known], expected[known], atol=1e-9)
    assert np.isnan(found.probabilities[3]).all()
    assert found.table["error"][3] == "no embedding of it in the other encoder's store"
    assert found.table["label"].notna().tolist() == features.usable.tolist()
    result = call("predict", str(heads), "--store", str(first), "--store", str(second))
    assert result.exit_code == 3
    assert result.stderr.endswith("\n1 of 120 rows failed\n")


def test_stores_that_do_not_fit_a_head_are_refused(
    joined: tuple[Path, Path, Path], workshop: Workshop, tmp_path: Path
) -> None:
    first, second, heads = joined
    assert "give a store of each with --store; of clusters there are those of mini" in fail(
        "predict", str(heads), "--store", str(first)
    )
    copy = shutil.copytree(first, tmp_path / "copy.zarr")
    stores = [word for store in (first, second, copy) for word in ("--store", str(store))]
    assert fail("predict", str(heads), *stores) == (
        f"error: {first} and {copy} are both of clusters and mini; give one of them"
    )
    assert "give a store that was made alike" in fail("predict", str(workshop.heads), "--store", str(second))
    assert "look" in fail("search", str(first), "--head", str(heads), "--class", "class 1")
    assert call("predict", str(heads), "x.wav", "--store", str(first)).exit_code == 2
    assert call("predict", str(heads), "x.wav", "--parquet", "x.parquet").exit_code == 2
