from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from samples import make_features, write_sample
from spectrum import LetterTower

from palm_cache.adaptation.calibration import calibrate
from palm_cache.adaptation.evaluate import evaluate_files, evaluate_head, mean_scores
from palm_cache.adaptation.fit import fit_runs, fit_store
from palm_cache.errors import DamagedStoreError, EncoderError, StaleStoreError, StoreError
from palm_cache.params import FitParams
from palm_cache.store.features import FeatureStore
from palm_cache.store.head_writing import write_heads
from palm_cache.store.heads import read_heads
from palm_cache.store.scores import COLUMNS, read_predictions, read_scores
from palm_cache.types import Features
from palm_cache.types.runs import Training

QUICK = FitParams(shots=(2, 4), seeds=(0, 1), training=Training(epochs=2))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "features.zarr", make_features())


def test_every_run_is_scored_once_with_all_columns(store: Path, tmp_path: Path) -> None:
    fit_store(store, tmp_path / "runs", QUICK)
    evaluate_files(tmp_path / "runs")
    scores = read_scores(tmp_path / "runs" / "scores.csv")
    assert list(scores.columns) == list(COLUMNS)
    assert len(scores) == 3 + 2 * (2 * 3 * 2)
    assert scores[scores["head"] == "zero-shot"][
        ["shots", "seed", "n_train", "n_params"]
    ].drop_duplicates().values.tolist() == [[0, 0, 0, 0]]
    assert set(scores[scores["shots"] == 4]["n_train"]) == {16}


def test_scores_follow_from_the_predictions_that_are_kept(store: Path, tmp_path: Path) -> None:
    fit_store(store, tmp_path / "runs", QUICK)
    evaluate_files(tmp_path / "runs")
    scores = read_scores(tmp_path / "runs" / "scores.csv")
    features = FeatureStore(store).read()
    with h5py.File(tmp_path / "runs" / "predictions.h5") as file:
        for row in scores.to_dict("records"):
            of_head = f"{row['head']}@{row['variant']}" if row["variant"] else row["head"]
            name = f"{of_head}-{row['shots']}shots-fold{row['fold']}-seed{row['seed']}"
            group = file[f"clusters/mini/{name}"]
            assert group["row"][:].tolist() == features.folds[row["fold"] - 1].test.tolist()
            assert np.mean(group["logits"][:].argmax(1) == group["label"][:]) == row["accuracy"]


def test_metrics_are_means_over_folds_then_seeds(store: Path, tmp_path: Path) -> None:
    fit_store(store, tmp_path / "runs", QUICK)
    scores = evaluate_files(tmp_path / "runs")
    metrics = json.loads((tmp_path / "runs" / "metrics.json").read_text())
    palm = scores[(scores["head"] == "palm") & (scores["shots"] == 4)]
    expected = np.mean([palm[palm["seed"] == seed]["accuracy"].mean() for seed in (0, 1)])
    assert metrics["clusters"]["mini"]["palm-4shots"]["accuracy"] == pytest.approx(expected)
    assert metrics == mean_scores(scores)


def test_earlier_heads_of_the_same_features_stay(store: Path, tmp_path: Path) -> None:
    fit_store(store, tmp_path / "runs", FitParams(heads=("zero-shot",)))
    second = fit_store(store, tmp_path / "runs", replace(QUICK, heads=("palm",)))
    heads = [head.run.head for head in read_heads(second.heads_file)[0]]
    assert heads.count("zero-shot") == 3
    assert set(heads) == {"zero-shot", "palm"}


def test_heads_of_an_earlier_state_of_the_store_are_put_aside_and_never_scored(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    old = write_sample(tmp_path / "old.zarr", make_features())
    heads_file = fit_store(old, out, replace(QUICK, heads=("palm",))).heads_file
    changed = write_sample(tmp_path / "changed.zarr", make_features(failed=[3]))
    with pytest.raises(StaleStoreError, match="its clips, labels, folds or classes have changed"):
        evaluate_files(out, store=changed)
    again = fit_store(changed, out, FitParams(heads=("zero-shot",)))
    assert {head.run.head for head in read_heads(heads_file)[0]} == {"zero-shot"}
    [aside] = heads_file.parent.glob("heads-*.h5")
    assert any(note.endswith(f"they are kept in {aside.name}") for note in again.notes)
    assert {head.run.head for head in read_heads(aside)[0]} == {"palm"}
    # Also where every run is fitted again under its name, and as often as the store changes.
    fit_store(old, out, FitParams(heads=("zero-shot",)))
    fit_store(changed, out, FitParams(heads=("zero-shot",)))
    fit_store(old, out, FitParams(heads=("zero-shot",)))
    assert len(list(heads_file.parent.glob("heads-*.h5"))) == 4


def test_scores_of_other_datasets_stay_as_long_as_their_heads_do(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    for name in ("one", "two", "three"):
        features = replace(make_features(), dataset=name)
        fit_store(write_sample(tmp_path / f"{name}.zarr", features), out, FitParams(heads=("zero-shot",)))
    evaluate_files(out)
    (out / "three" / "mini" / "heads.h5").unlink()
    evaluate_files(out, [out / "two" / "mini" / "heads.h5"])
    assert sorted(set(read_scores(out / "scores.csv")["dataset"])) == ["one", "two"]


def test_heads_of_a_changed_store_do_not_keep_others_from_being_scored(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    for name in ("one", "three", "two"):
        features = replace(make_features(), dataset=name)
        fit_store(write_sample(tmp_path / f"{name}.zarr", features), out, FitParams(heads=("zero-shot",)))
    write_sample(tmp_path / "one.zarr", replace(make_features(failed=[3]), dataset="one"))
    with pytest.raises(StaleStoreError) as stale:
        evaluate_files(out)
    assert str(stale.value).startswith(f"1 heads file of 3 not scored: {out / 'one' / 'mini' / 'heads.h5'}: ")
    assert "fit again with: palm-cache fit --store" in str(stale.value)
    assert sorted(set(read_scores(out / "scores.csv")["dataset"])) == ["three", "two"]
    assert {made.dataset for made in read_predictions(out / "predictions.h5")} == {"three", "two"}
    # What was scored of them before stays, and where nothing can be scored, nothing is written.
    (out / "scores.csv").unlink()
    for name in ("three", "two"):
        shutil.rmtree(tmp_path / f"{name}.zarr")
    with pytest.raises(StaleStoreError, match=r"3 heads files of 3 not scored: .*; .*three"):
        evaluate_files(out)
    assert not (out / "scores.csv").exists()


def test_heads_may_lie_elsewhere_than_their_scores(tmp_path: Path) -> None:
    for name in ("one", "two"):
        features = replace(make_features(), dataset=name)
        store = write_sample(tmp_path / f"{name}.zarr", features)
        fit_store(store, tmp_path / "heads", FitParams(heads=("zero-shot",)))
    evaluate_files(tmp_path / "scores", heads=tmp_path / "heads")
    evaluate_files(
        tmp_path / "scores", [tmp_path / "heads" / "two" / "mini" / "heads.h5"], heads=tmp_path / "heads"
    )
    assert sorted(set(read_scores(tmp_path / "scores" / "scores.csv")["dataset"])) == ["one", "two"]


def test_failed_clips_are_not_tested() -> None:
    features = make_features(failed=range(10))
    head = fit_runs(features, FitParams(heads=("zero-shot",), folds=(1,)))[0][0]
    row, prediction = evaluate_head(features, head)
    assert row["n_test"] == int(features.usable[features.folds[0].test].sum())
    assert not set(prediction.rows.tolist()) & set(range(10))


def test_clips_are_scored_by_their_centre_crop(features: Features) -> None:
    head = fit_runs(features, FitParams(heads=("zero-shot",), folds=(1,)))[0][0]
    more_views = replace(features, audio=torch.cat([features.audio, torch.randn(120, 2, 24)], dim=1))
    assert torch.equal(evaluate_head(features, head)[1].logits, evaluate_head(more_views, head)[1].logits)


def test_nothing_to_evaluate_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no heads below this folder; fit some with: palm-cache fit --out"):
        evaluate_files(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_is_an_error_that_names_the_run(value: float) -> None:
    features = make_features()
    head = fit_runs(features, FitParams(heads=("palm-dagger",), folds=(1,)))[0][0]
    head.state["class_embeddings"][2] = value
    with pytest.raises(
        DamagedStoreError, match="run palm-dagger-0shots-fold1-seed0: its scores are not fini"
    ):
        evaluate_head(features, head)


def test_runs_of_another_version_are_refused_by_name_and_put_aside_by_the_next_fit(
    store: Path, tmp_path: Path
) -> None:
    auto = replace(QUICK, heads=("auto",), seeds=(0,), shots=(2,))
    path = fit_store(store, tmp_path, auto).heads_file
    heads, _ = read_heads(path)
    # What it was before its candidates spoke together: one of them was taken.
    older = [{**head.state, "choice": torch.tensor(0)} for head in heads]
    for state in older:
        del state["factors"]
    write_heads(path, [replace(head, state=state) for head, state in zip(heads, older, strict=True)], store)
    said = (
        r"run auto-2shots-fold1-seed0: .* version of palm-cache, whose auto had no 'factors'; fit again with"
    )
    with pytest.raises(StaleStoreError, match=said):
        evaluate_files(tmp_path)
    with pytest.raises(StaleStoreError, match=said):
        calibrate(FeatureStore(store).read(), read_heads(path)[0][0])
    again = fit_store(store, tmp_path, replace(auto, heads=("zero-shot",)))
    assert "of another version of palm-cache; they are kept in heads-" in again.notes[-1]
    assert [head.run.head for head in read_heads(path)[0]] == ["zero-shot"] * 3
    assert set(evaluate_files(tmp_path)["head"]) == {"zero-shot"}


def test_learned_words_are_scored_without_a_tower_where_they_are_embedded(features: Features) -> None:
    params = FitParams(
        heads=("coop", "cocoop"), shots=(2,), seeds=(0,), folds=(1,), training=Training(epochs=1)
    )
    coop, cocoop = fit_runs(features, params, tower=LetterTower(24))[0]
    assert evaluate_head(features, coop)[0]["n_test"] == 40
    with pytest.raises(EncoderError, match="learned words, which only a text tower can read"):
        evaluate_head(features, cocoop)
