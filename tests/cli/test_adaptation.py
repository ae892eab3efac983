from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import call, succeed
from samples import make_features, write_sample

from palm_cache.adaptation import evaluate
from palm_cache.adaptation.fit import fit_store
from palm_cache.adaptation.heads.palm import Palm
from palm_cache.params import FitParams


@pytest.mark.parametrize("name", ["birds[1]", "birds*", "a?"])
def test_a_name_that_is_a_pattern_means_itself(name: str, tmp_path: Path) -> None:
    for dataset in (name, "birds1", "birdsong", "ab"):
        store = write_sample(tmp_path / f"{dataset}.zarr", replace(make_features(), dataset=dataset))
        fit_store(store, tmp_path / "runs", FitParams(heads=("zero-shot",), folds=(1,)))
    told = succeed("evaluate", "--out", str(tmp_path / "runs"), "--dataset", name).stdout
    assert name in told
    assert not {"birds1", "birdsong", "ab"} & set(told.split())


def test_a_polite_end_leaves_no_lock_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = str(write_sample(tmp_path / "store.zarr", make_features()))
    monkeypatch.setattr(evaluate, "write_scores", lambda *_: signal.raise_signal(signal.SIGTERM))
    result = call("fit", "--store", store, "--head", "prototype")
    assert result.exit_code == 130
    assert "any heads that were fitted are kept: palm-cache evaluate scores them; the same" in result.stderr
    assert [path.name for path in Path("runs").iterdir()] == ["clusters"]


@pytest.mark.parametrize("end", ["Ctrl-C", "divergence"])
def test_heads_that_were_fitted_before_a_fit_ended_are_kept(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = str(write_sample(tmp_path / "store.zarr", make_features()))
    if end == "Ctrl-C":
        monkeypatch.setattr(Palm, "fit", lambda *_: signal.raise_signal(signal.SIGINT))
    result = call("fit", "--store", store, "--head", "prototype,palm", "--shots", "4", "--lr", "1e30")
    assert result.exit_code == (130 if end == "Ctrl-C" else 1)
    assert "diverged at lr 1e+30" in result.stderr or end == "Ctrl-C"
    rows = json.loads(succeed("evaluate", "--json").stdout)
    assert [row["head"] for row in rows] == ["prototype"]


def test_a_fit_that_ended_tells_where_heads_of_the_store_as_it_was_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fitting = ("fit", "--store", str(write_sample(tmp_path / "store.zarr", make_features())), "--shots", "4")
    succeed(*fitting, "--head", "prototype")
    write_sample(tmp_path / "store.zarr", make_features(failed=[3]))
    ended = call(*fitting, "--head", "prototype,palm", "--lr", "1e30")
    (aside,) = Path("runs/clusters/mini").glob("heads-*.h5")
    assert ended.exit_code == 1
    assert f"they are kept in {aside.name}" in " ".join(ended.stderr.split())
    write_sample(tmp_path / "store.zarr", make_features())
    monkeypatch.setattr(Palm, "fit", lambda *_: signal.raise_signal(signal.SIGINT))
    ended = call(*fitting, "--head", "prototype,palm")
    assert ended.exit_code == 130
    assert "they are kept in heads-" in " ".join(ended.stderr.split())


def test_fit_shows_its_own_scores_and_keeps_those_of_earlier_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--store", str(write_sample(tmp_path / "store.zarr", make_features())), "--json")
    succeed("fit", "--head", "zero-shot", *words)
    shown = json.loads(succeed("fit", "--head", "prototype", *words).stdout)
    assert [row["head"] for row in shown] == ["prototype"]
    assert {row["head"] for row in json.loads(succeed("evaluate", "--json").stdout)} == {
        "prototype",
        "zero-shot",
    }


def test_fit_calls_its_heads_as_evaluate_and_the_report_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = str(write_sample(tmp_path / "store.zarr", make_features()))
    fitting = ("fit", "--store", store, "--head", "palm", "--shots", "2", "--epochs", "2", "--json")
    assert {row["head"] for row in json.loads(succeed(*fitting).stdout)} == {"palm"}
    (shown,) = json.loads(succeed(*fitting, "--lr", ".5").stdout)
    assert shown["head"] == "palm@epochs=2,lr=0.5"
    assert shown in json.loads(succeed("evaluate", "--json").stdout)
    assert shown in json.loads(succeed("report", "--json").stdout)


def test_an_option_of_several_values_that_is_given_again_adds_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As --dataset and --encoder do: the first of two --head was lost in silence."""
    monkeypatch.chdir(tmp_path)
    store = str(write_sample(tmp_path / "store.zarr", make_features()))
    words = ("--head", "prototype", "--head", "knn,kernel-ridge", "--shots", "1", "--shots", "2,4")
    rows = json.loads(succeed("fit", "--store", store, *words, "--seeds", "0", "--json").stdout)
    assert {row["head"] for row in rows} == {"prototype", "knn", "kernel-ridge"}
    assert {row["shots"] for row in rows} == {1, 2, 4}
