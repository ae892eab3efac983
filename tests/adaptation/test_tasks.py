from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import make_features

from palm_cache.adaptation.tasks import few_shot
from palm_cache.errors import DataError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.types import TEMPLATES, ClipTable, Features, Fold
from palm_cache.types.runs import ALL_SHOTS


def features_of(table: ClipTable, failed: tuple[int, ...] = ()) -> Features:
    """Give a table's clips embeddings, since the draw looks at labels alone."""
    n_clips = len(table.clips)
    usable = torch.ones(n_clips, dtype=torch.bool)
    usable[list(failed)] = False
    return Features(
        dataset=table.dataset,
        encoder="mini",
        fingerprint="",
        digest="",
        audio=torch.ones(n_clips, 1, 2),
        text=torch.ones(len(table.class_names), len(TEMPLATES), 2),
        labels=torch.tensor([clip.label for clip in table.clips]),
        usable=usable,
        class_names=table.class_names,
        templates=TEMPLATES,
        folds=table.folds,
    )


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_the_draw_is_the_authors_draw(golden: Path, shots: int) -> None:
    recorded = json.loads((golden / "fewshot_picks.json").read_text())
    picks = recorded["picks"][f"repeat=False|seed=0|shots={shots}"]
    table = read(golden / "fewshot_root")
    task = few_shot(features_of(table), fold=1, shots=shots, seed=0)
    assert list(table.class_names) == recorded["classnames_sorted"]
    assert [table.clips[row].name for row in task.train] == picks["paths"]
    assert [table.clips[row].label for row in task.train] == picks["labels"]
    assert [table.clips[row].name for row in task.test] == recorded["test_order"]
    assert [table.clips[row].label for row in task.test] == recorded["test_labels"]


def test_the_draw_is_what_pandas_draws_with_the_global_seed(tmp_path: Path) -> None:
    """The authors call ``DataFrame.sample`` class by class after ``numpy.random.seed``."""
    import numpy as np
    import pandas as pd

    names = ["wren", "Owl", "élan", "bat"]
    rows = [(f"{number}.wav", names[(7 * number) % 4]) for number in range(60)]
    rows.append(("rare.wav", "auk"))  # fewer than shots: taken whole, draws nothing
    for part in ("train", "test"):
        with (tmp_path / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "classname"), *rows])
    frame = pd.DataFrame(rows, columns=["path", "classname"])
    state = np.random.RandomState(5)
    expected: list[str] = []
    for name in sorted(set(frame["classname"])):
        members = frame[frame["classname"] == name]
        drawn = members.sample(3, random_state=state) if len(members) >= 3 else members
        expected += drawn["path"].tolist()
    table = read(tmp_path)
    task = few_shot(features_of(table), fold=1, shots=3, seed=5)
    assert [table.clips[row].name for row in task.train] == expected
    assert task.short_classes == ("auk",)


def test_smaller_draws_are_nested_in_larger_ones(features: Features) -> None:
    draws = [set(few_shot(features, fold=2, shots=shots, seed=7).train.tolist()) for shots in (1, 2, 4)]
    assert draws[0] < draws[1] < draws[2]


@given(fold=st.integers(1, 3), shots=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_train_and_test_never_overlap_and_every_class_gets_its_shots(
    fold: int, shots: int, seed: int
) -> None:
    features = make_features()
    task = few_shot(features, fold=fold, shots=shots, seed=seed)
    assert not set(task.train.tolist()) & set(task.test.tolist())
    assert torch.bincount(features.labels[task.train]).tolist() == [shots] * 4
    assert len(set(task.train.tolist())) == len(task.train)


def test_failed_clips_are_neither_drawn_nor_tested() -> None:
    features = make_features(failed=range(0, 40))
    task = few_shot(features, fold=1, shots=30, seed=0)
    assert min(task.train.tolist()) >= 40
    assert min(task.test.tolist()) >= 40
    assert task.short_classes == features.class_names


def test_a_fold_that_does_not_exist_is_named(features: Features) -> None:
    for fold in (0, 4):
        with pytest.raises(DataError, match=f"no fold {fold}; it has 3, counted from 1"):
            few_shot(features, fold=fold, shots=1, seed=0)
    with pytest.raises(DataError, match="has no labels of two classes"):
        few_shot(replace(features, folds=()), fold=1, shots=1, seed=0)


@pytest.mark.parametrize(
    ("lost", "why"),
    [("test", "no test clip has an embedding"), ("train", "no training clip has an embedding")],
)
def test_a_fold_that_has_lost_its_clips_is_refused_and_the_way_to_others_told(
    features: Features, lost: str, why: str
) -> None:
    rows = torch.arange(len(features.labels))
    halves = tuple(Fold(rows[rows % 2 == part], rows[rows % 2 != part]) for part in (0, 1))
    usable = features.usable.clone()
    usable[halves[0].test if lost == "test" else halves[0].train] = False
    halved = replace(features, usable=usable, folds=halves)
    with pytest.raises(DataError, match=f"clusters, fold 1: {why}; choose others with folds"):
        few_shot(halved, fold=1, shots=1, seed=0)
    with pytest.raises(DataError, match=f"{why}; see which failed, and why, with: palm-cache store info"):
        few_shot(replace(halved, folds=halves[:1]), fold=1, shots=1, seed=0)


def test_a_fold_that_tests_on_nothing_is_drawn_from_all_the_same(features: Features) -> None:
    only = Fold(torch.arange(120), torch.zeros(0, dtype=torch.int64))
    task = few_shot(replace(features, folds=(only,)), fold=1, shots=2, seed=0)
    assert (len(task.train), len(task.test)) == (8, 0)


def test_all_shots_are_every_usable_training_clip_and_no_class_is_short() -> None:
    features = make_features(failed=[0, 5])
    task = few_shot(features, fold=1, shots=ALL_SHOTS, seed=3)
    train = features.folds[0].train
    assert sorted(task.train.tolist()) == sorted(train[features.usable[train]].tolist())
    assert task.short_classes == ()


def test_all_shots_are_shuffled_class_by_class_as_any_number_of_shots_is(features: Features) -> None:
    whole = int(torch.bincount(features.labels[features.folds[0].train]).max())
    counted, everything = (few_shot(features, fold=1, shots=n, seed=3).train for n in (whole, ALL_SHOTS))
    assert torch.equal(counted, everything)
    assert not torch.equal(everything, few_shot(features, fold=1, shots=ALL_SHOTS, seed=4).train)
