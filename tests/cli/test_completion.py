"""What a shell offers after the tab key."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import complete
from samples import make_features, write_sample

from palm_cache.adaptation.fit import fit_store
from palm_cache.adaptation.heads import HEADS
from palm_cache.extraction.encoders.registry import encoder_names
from palm_cache.params import FitParams

STORE = "data/features/clusters/mini.zarr"
FITTED = "runs/clusters/mini/heads.h5"


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a store and heads that were fitted on it."""
    monkeypatch.chdir(tmp_path)
    store = write_sample(Path(STORE), make_features())
    params = FitParams(heads=("zero-shot", "prototype"), shots=(2, 4), seeds=(0,), folds=(1,))
    fit_store(store, Path("runs"), params)


@pytest.mark.parametrize(
    "words",
    [
        *(("explore",), ("label",), ("search",), ("store", "info"), ("store", "verify"), ("store", "export")),
        *(("fit", "--store"), ("predict", FITTED, "--store"), ("transfer", FITTED)),
    ],
)
def test_the_stores_that_are_here_are_offered(words: tuple[str, ...]) -> None:
    assert complete(*words, "data/feat") == [STORE]
    assert complete(*words, "elsewhere") == []


@pytest.mark.parametrize("command", ["predict", "export", "push", "calibrate"])
def test_the_runs_of_the_heads_that_were_named_are_offered(command: str) -> None:
    assert complete(command, FITTED, "--run", "zero") == ["zero-shot", "zero-shot-0shots-fold1-seed0"]
    two = ["prototype-2shots-fold1-seed0", "prototype-4shots-fold1-seed0"]
    assert complete(command, FITTED, "--run", "prot") == ["prototype", *two]
    assert complete(command, "nowhere.h5", "--run", "prot") == []


def test_heads_are_offered_one_after_the_other() -> None:
    assert set(complete("fit", "--head", "proker")) == {name for name in HEADS if name.startswith("proker")}
    assert complete("fit", "--head", "palm,zero") == ["palm,zero-shot"]
    assert complete("report", "--against", "linear") == ["linear-probe"]


def test_choices_encoders_and_datasets_are_offered() -> None:
    assert complete("extract", "--on-stale", "re") == ["refuse", "rebuild"]
    assert complete("extract", "--on-stale", "reb") == ["rebuild"]
    assert complete("extract", "--encoder", "c") == [name for name in encoder_names() if name[0] == "c"]
    assert complete("extract", "--dataset", "ESC") == ["ESC50", "ESC50-Actions"]
    assert complete("download", "urb") == ["urbanSound8K"]  # known in any case


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [
        (("extract", "--device"), "c", ["cpu", "cuda"]),
        (("predict", FITTED, "clips", "--device"), "m", ["mps"]),
        (("bench", "extract", "--precision"), "fp32,b", ["fp32,bf16"]),
        (("fit", "--shots"), "4,a", ["4,all"]),
        (("datasets", "birds", "--columns"), "path=x,la", ["path=x,label="]),
    ],
)
def test_what_can_only_be_one_of_a_few_is_offered(
    words: tuple[str, ...], begun: str, offered: list[str]
) -> None:
    assert complete(*words, begun) == offered


def test_words_that_make_no_sense_end_no_completion() -> None:
    for senseless in ("s3://bucket/runs", "''"):
        assert complete("fit", "--out", senseless, "--head", "linear") == ["linear-probe"]
