"""What a command gives, Python gives: one test for each."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import succeed
from samples import make_features, write_sample
from workshop import Workshop

import palm_cache
from palm_cache.store.heads import read_heads

SCORES = ["head", "shots", "fold", "seed", "accuracy", "loss"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stores of the same clips from two encoders, from whose folder commands are run."""
    monkeypatch.chdir(tmp_path)
    write_sample(Path("data/features/clusters/mini.zarr"), make_features())
    other = replace(make_features(seed=1), encoder="clap:other", fingerprint="c" * 64)
    write_sample(Path("data/features/clusters/clap-other.zarr"), other)
    return tmp_path


def assert_scores_agree(command: Path, python: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        pd.read_csv(command)[SCORES], python[SCORES].reset_index(drop=True), check_dtype=False
    )


def test_extract(workplace: Path, workshop: Workshop) -> None:
    succeed("extract", "--dataset", str(workshop.data), "--out", "command.zarr")
    command = palm_cache.open_features("command.zarr")
    python = palm_cache.extract(
        workshop.data, store="python.zarr", resources=palm_cache.Resources(cache="other")
    )
    np.testing.assert_array_equal(command.audio, python.audio)
    assert command.paths == python.paths


def test_fit_calibrates_and_scores(workplace: Path) -> None:
    words = ("--encoder", "mini", "--shots", "4", "--seeds", "0", "--folds", "1")
    succeed("fit", *words, "--out", "command")
    params = palm_cache.FitParams(shots=4, seeds=0, folds=1)
    fitted = palm_cache.fit("data/features/clusters/mini.zarr", params, out="python")
    assert_scores_agree(Path("command/scores.csv"), fitted.scores)
    temperatures = [
        {head.run.head: head.calibration and head.calibration.temperature for head in read_heads(file)[0]}
        for file in (Path("command/clusters/mini/heads.h5"), fitted.heads)
    ]
    assert temperatures[0] == temperatures[1]
    assert temperatures[0]["proker"] is not None
    heard = palm_cache.predict(fitted, store=palm_cache.open_features("data/features/clusters/mini.zarr"))
    assert len(heard.table) == len(heard.probabilities)


def test_fit_on_several_encoders(workplace: Path) -> None:
    words = ("--encoder", "mini", "--encoder", "clap:other", "--head", "muka", "--shots", "4")
    succeed("fit", *words, "--seeds", "0", "--out", "command")
    stores = [f"data/features/clusters/{name}.zarr" for name in ("mini", "clap-other")]
    fitted = palm_cache.fit(stores, palm_cache.FitParams(heads="muka", shots=4, seeds=0), out="python")
    assert_scores_agree(Path("command/scores.csv"), fitted.scores)
    assert fitted.heads.parent.name == "mini+clap-other"


def test_evaluate(workplace: Path) -> None:
    succeed("fit", "--encoder", "mini", "--shots", "2", "--seeds", "0", "--no-evaluate")
    succeed("evaluate", "--dataset", "clusters", "--out", "command", "--heads", "runs")
    scores = palm_cache.evaluate("python", heads="runs", datasets="clusters", encoders="mini")
    assert_scores_agree(Path("command/scores.csv"), scores)


def test_prompts(workplace: Path) -> None:
    succeed("prompts", "--encoder", "mini", "--folds", "2", "--out", "command")
    scores = palm_cache.prompts("data/features/clusters/mini.zarr", folds=2, out="python")
    pd.testing.assert_frame_equal(pd.read_csv("command/prompts.csv"), scores, check_dtype=False)


def test_calibrate(workshop: Workshop, tmp_path: Path) -> None:
    files = [tmp_path / name / "heads.h5" for name in ("command", "python")]
    for file in files:
        file.parent.mkdir()
        shutil.copy(workshop.heads, file)
    words = ("--run", "palm-2shots", "--store", str(workshop.store), "--json")
    printed = json.loads(succeed("calibrate", str(files[0]), *words).stdout)
    (calibrated,) = palm_cache.calibrate(files[1].parent, "palm-2shots", store=workshop.store)
    assert calibrated.calibration is not None
    assert [value["temperature"] for value in printed.values()] == [calibrated.calibration.temperature]


def test_transfer(workplace: Path) -> None:
    succeed("fit", "--encoder", "mini", "--shots", "2", "--seeds", "0")
    store = "data/features/clusters/mini.zarr"
    (row, *_) = json.loads(succeed("transfer", "runs/clusters/mini", store, "--json").stdout)
    scores = palm_cache.transfer("runs/clusters/mini", store)
    mean = scores.loc[(scores["head"] == row["head"]) & (scores["shots"] == row["shots"]), "accuracy"].mean()
    assert row["accuracy"] == pytest.approx(mean)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("timeline", [False, True])
def test_predict(workshop: Workshop, timeline: bool) -> None:
    audio = str(workshop.data / "audios" / "long.flac")
    words = ("--timeline", "--hop", "1") if timeline else ()
    rows = rows_of(succeed("predict", str(workshop.heads), audio, *words, "--csv", "-").stdout)
    heard = palm_cache.predict(workshop.heads, audio, timeline=timeline, hop=1.0 if timeline else None)
    assert [row["label"] for row in rows] == heard.table["label"].tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in rows], heard.table["probability"])


def test_predict_by_names_alone(workshop: Workshop) -> None:
    audio = str(workshop.data / "audios" / "long.flac")
    (row,) = rows_of(succeed("predict", "--classes", "siren,dog bark", audio, "--csv", "-").stdout)
    heard = palm_cache.predict(None, audio, classes=["siren", "dog bark"])
    assert heard.class_names == ("siren", "dog bark")
    assert row["label"] == heard.table["label"][0]
    assert float(row["probability"]) == pytest.approx(heard.probabilities.max())


def test_export(workshop: Workshop, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("command.safetensors", "python.safetensors")]
    succeed("export", str(workshop.heads), "--to", "safetensors", "--out", str(files[0]))
    palm_cache.export_head(workshop.heads.parent, "safetensors", out=files[1])
    assert files[0].read_bytes() == files[1].read_bytes()
