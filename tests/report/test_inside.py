from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import make_features, write_sample

from palm_cache.adaptation.evaluate import evaluate_files
from palm_cache.adaptation.fit import fit_store
from palm_cache.params import FitParams
from palm_cache.report.write import write_report
from palm_cache.store.head_writing import write_heads
from palm_cache.store.heads import read_heads
from palm_cache.types.runs import Training


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Scored heads; the gate of class 2 is opened wide, and its context made the prompt of class 1."""
    features = make_features()
    store = write_sample(tmp_path / "own.zarr", features)
    params = FitParams(
        ("zero-shot", "palm"), shots=(2, 4), seeds=(0, 1), folds=(1,), training=Training(epochs=5)
    )
    path = fit_store(store, tmp_path / "runs", params).heads_file
    changed = []
    for head in read_heads(path)[0]:
        state = dict(head.state)
        if head.run.head == "palm":
            state["gate"], state["context"] = state["gate"].clone(), state["context"].clone()
            state["gate"][2], state["context"][2] = 5.0, features.text[1, 3]
        changed.append(replace(head, state=state))
    write_heads(path, changed, store)
    evaluate_files(tmp_path / "runs")
    return tmp_path / "runs"


def section(runs: Path, **options: Path) -> str:
    text = (write_report(runs, **options)[0].parent / "report.md").read_text(encoding="utf-8")
    return text.partition("## Inside the heads")[2].partition("\n## ")[0]


def test_gates_stand_beside_recall_and_what_contexts_are_near_to(runs: Path) -> None:
    told = section(runs)
    (row,) = (line for line in told.splitlines() if line.startswith("| class 2 |"))
    cells = row.strip("| ").split(" | ")
    assert cells[1] == "0.99"
    assert all(0 <= float(cell) <= 100 for cell in cells[2:4])
    assert cells[4].startswith("class 1 ")
    assert cells[5] == "This is the sound of class 1. 1.00"
    assert re.search(
        r"clusters, mini: palm, 4 shots: rank correlation of gate and zero-shot recall "
        r"[+-]\d\.\d\d \(4 classes, p \d\.\d\d\)",
        told,
    )
    assert "palm, 2 shots" not in told
    [path] = runs.glob("*/*/heads.h5")
    fit_store(read_heads(path)[1][0], runs, FitParams(("zero-shot",), folds=(2, 3)))
    evaluate_files(runs)
    assert section(runs) == told  # the recall beside it is of the same fold


def test_the_loss_of_every_epoch_is_drawn(runs: Path) -> None:
    assert "(losses_by_epoch.svg)" in section(runs)
    heads = [head for head in read_heads(runs / "clusters" / "mini" / "heads.h5")[0] if head.run.shots]
    losses = torch.stack([head.state["losses"] for head in heads])
    assert losses.shape == (4, 5)
    assert (losses[:, -1] < losses[:, 0]).all()


def test_a_store_that_is_gone_leaves_out_what_only_it_knows(runs: Path) -> None:
    shutil.rmtree(runs.parent / "own.zarr")
    told = section(runs)
    assert "| class | gate | zero-shot recall % | recall % |\n" in told


def test_contexts_are_near_to_nothing_where_the_store_holds_no_text(tmp_path: Path) -> None:
    features = make_features()
    mute = replace(features, text=features.text[:, :0], templates=())
    store = write_sample(tmp_path / "mute.zarr", mute)
    params = FitParams(("palm",), shots=(2,), seeds=(0,), folds=(1,), training=Training(epochs=2))
    fit_store(store, tmp_path / "runs", params)
    evaluate_files(tmp_path / "runs")
    assert "| class | gate | recall % |\n" in section(tmp_path / "runs")


def test_heads_may_lie_elsewhere_or_nowhere(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.move(runs / "clusters", tmp_path / "elsewhere" / "clusters")
    assert section(runs) == ""
    assert "| class 2 | 0.99 |" in section(runs, heads=tmp_path / "elsewhere")


def test_heads_that_cannot_be_read_do_not_stop_the_report(runs: Path) -> None:
    (runs / "clusters" / "mini" / "heads.h5").write_bytes(b"no heads")
    assert "Not looked at: " in section(runs)
