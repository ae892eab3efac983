from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import fail, succeed
from samples import make_features, write_sample
from torch import Tensor

from palm_cache.adaptation.fit import fit_store
from palm_cache.adaptation.scorer import Scorer
from palm_cache.adaptation.tasks import few_shot
from palm_cache.adaptation.transfer import shared_classes, transfer_heads
from palm_cache.errors import DataError, EncoderError, StaleStoreError
from palm_cache.params import FitParams
from palm_cache.store.heads import read_heads
from palm_cache.types import Features

PARAMS = FitParams(heads=("zero-shot", "prototype"), shots=(4,), seeds=(0, 1), folds=(2,))


def other_dataset(features: Features) -> Features:
    """The same clusters a little moved; three of the four classes, in another order and spelling."""
    names = ("Class-3", "class_1", "nothing alike", "class 0")
    label = torch.tensor([3, 1, 2, 0])
    generator = torch.Generator().manual_seed(5)
    moved = features.audio + 0.3 * torch.randn(features.audio.shape, generator=generator)
    return replace(features, dataset="others", class_names=names, labels=label[features.labels], audio=moved)


def hashes(first: int, count: int) -> list[str]:
    return [f"{row:064x}" for row in range(first, first + count)]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Features]:
    """A heads file, the store of another dataset and that store's features."""
    features = make_features()
    target = other_dataset(features)
    heads = fit_store(write_sample(tmp_path / "own.zarr", features), tmp_path / "runs", PARAMS).heads_file
    return heads, write_sample(tmp_path / "others.zarr", target, hashes(1000, 120)), target


def test_heads_on_joined_encoders_are_refused(places: tuple[Path, Path, Features], tmp_path: Path) -> None:
    other = write_sample(tmp_path / "clap-x.zarr", replace(make_features(), encoder="clap:me/x"))
    heads = fit_store(tmp_path / "own.zarr", tmp_path / "joined", PARAMS, partners=[other]).heads_file
    with pytest.raises(EncoderError, match="its heads read joined encoders"):
        transfer_heads(heads, places[1])


def test_heads_are_scored_on_the_classes_that_both_have(places: tuple[Path, Path, Features]) -> None:
    heads_file, store, target = places
    scores = transfer_heads(heads_file, store)
    assert scores["dataset"].unique().tolist() == ["clusters -> others"]
    assert scores["n_test"].tolist() == [
        90,
        90,
        90,
    ]  # of 120, without the class of its own
    head = next(head for head in read_heads(heads_file)[0] if head.run.head == "zero-shot")
    kept = torch.tensor([row for row in range(120) if target.labels[row] != 2])
    logits: Tensor = Scorer(head, 24).clip_logits(target.audio[kept])[:, [0, 1, 3]]
    theirs = torch.tensor([3, 1, 0])[logits.argmax(dim=1)]
    expected = float((theirs == target.labels[kept]).double().mean())
    assert scores.set_index("head").loc["zero-shot", "accuracy"] == expected
    assert scores.set_index("head").loc["prototype", "accuracy"].min() > 0.6


def test_clips_that_a_run_learned_from_are_not_asked_about(tmp_path: Path) -> None:
    features = make_features()
    own = write_sample(tmp_path / "own.zarr", features)
    heads_file = fit_store(own, tmp_path / "runs", PARAMS).heads_file
    copy = write_sample(tmp_path / "copy.zarr", replace(features, dataset="copy"))  # the same contents
    scores = transfer_heads(heads_file, copy).set_index("head")
    assert scores.loc["zero-shot", "n_test"] == 120
    assert scores.loc["prototype", "n_test"].tolist() == [120 - 16] * 2
    assert len(few_shot(features, fold=2, shots=4, seed=0).train) == 16


def test_other_encoders_and_other_classes_are_refused(
    places: tuple[Path, Path, Features], tmp_path: Path
) -> None:
    heads_file, _, target = places
    elsewhere = write_sample(tmp_path / "elsewhere.zarr", replace(target, fingerprint="e" * 64))
    with pytest.raises(StaleStoreError, match="made by another encoder than the heads of"):
        transfer_heads(heads_file, elsewhere)
    strangers = write_sample(tmp_path / "strangers.zarr", replace(target, class_names=tuple("abcd")))
    with pytest.raises(DataError, match=r"fewer than two classes in common: class 0, .* say with same which"):
        transfer_heads(heads_file, strangers)


def test_names_that_differ_can_be_said_to_be_the_same() -> None:
    ours, theirs = ("anger", "disgust", "fear", "Sad"), ("angry", "disgust", "fearful", "sad")
    assert shared_classes(ours, theirs, {}) == ([1, 3], [1, 3])
    assert shared_classes(ours, theirs, {"anger": "angry", "fear": "fearful"}) == ([0, 1, 2, 3], [0, 1, 2, 3])
    with pytest.raises(
        DataError, match="'annoyed' is no class here; there are: angry, disgust, fearful and 1 m"
    ):
        shared_classes(ours, theirs, {"anger": "annoyed"})
    with pytest.raises(DataError, match=r"'Angry' is no class here; did you mean angry\?"):
        shared_classes(ours, theirs, {"anger": "Angry"})


def test_of_many_classes_an_error_names_some() -> None:
    ours, theirs = (tuple(f"{kind} {number}" for number in range(210)) for kind in ("bird", "bell"))
    with pytest.raises(DataError) as refused:
        shared_classes(ours, theirs, {})
    assert str(refused.value) == (
        "fewer than two classes in common: bird 0, bird 1, bird 2 and 207 more / bell 0, bell 1, bell 2 and "
        "207 more; say with same which names mean one class"
    )


def test_the_command_prints_the_scores(places: tuple[Path, Path, Features]) -> None:
    heads_file, store, _ = places
    told = succeed("transfer", str(heads_file.parent), str(store), "--same", "class 2=nothing alike").stdout
    assert "clusters -> others" in told
    assert "prototype" in told
    message = fail("transfer", str(heads_file), str(store), "--same", "class 9=nothing alike")
    assert "'class 9' is no class here" in message
