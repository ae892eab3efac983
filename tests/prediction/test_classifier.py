from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from samples import write_palm_folder
from tiny_clap import save_tiny_clap
from workshop import Workshop

from palm_cache.adaptation.fit import fit_store
from palm_cache.errors import EncoderError, StaleStoreError, StoreError
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.extract import extract
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.extraction.recorded import load_same_encoder
from palm_cache.params import FitParams, Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.prediction.classifier import Classifier
from palm_cache.prediction.clips import predict_files
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.head_writing import write_heads
from palm_cache.store.heads import read_heads

LOADING = LoadingParams()


def test_an_encoder_with_other_weights_is_refused_and_one_that_moved_is_found(tmp_path: Path) -> None:
    data = write_palm_folder(tmp_path / "Tones")
    first = save_tiny_clap(tmp_path / "first")
    store = extract(read_dataset(str(data)), f"clap:{first}", tmp_path / "x.zarr").store
    heads = fit_store(store, tmp_path / "runs", FitParams(heads=("zero-shot",))).heads_file
    clip = data / "audios" / "test_0_0.wav"
    (before,) = predict_files(Classifier.load(heads), [clip])
    moved = shutil.move(first, tmp_path / "elsewhere")
    with pytest.raises(EncoderError):
        Classifier.load(heads)
    (after,) = predict_files(Classifier.load(heads, loading=LoadingParams(f"clap:{moved}")), [clip])
    assert torch.equal(before.probabilities, after.probabilities)
    other = save_tiny_clap(tmp_path / "other", seed=1)
    with pytest.raises(StaleStoreError) as caught:
        Classifier.load(heads, loading=LoadingParams(f"clap:{other}"))
    assert f"encoder clap:{other}: other weights than those that {heads} was fitted on" in str(caught.value)
    assert "with encoder or tokenizer, or extract and fit again" in str(caught.value)
    with pytest.raises(StaleStoreError, match="encoder mini: other encoder, weights"):
        Classifier.load(heads, loading=LoadingParams("mini"))


def test_the_encoder_runs_in_the_precision_of_the_features() -> None:
    wanted = Recipe(precision="bf16")
    recorded = audio_recipe(load_encoder("mini", wanted), wanted)
    loaded = load_same_encoder("mini", recorded, fingerprint(recorded), LOADING, purpose="x", advice="y")
    assert loaded.engine.precision == "bf16"


def test_another_version_of_preprocessing_is_called_that() -> None:
    recorded = audio_recipe(load_encoder("mini"), Recipe()) | {"preprocessing": 0}
    with pytest.raises(StaleStoreError, match="encoder mini: other preprocessing than those that made it"):
        load_same_encoder("mini", recorded, "0" * 64, LOADING, purpose="made it", advice="extract again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("one",)}, "it scores 2 classes but names 1; fit again"),
        ({"state": {"class_embeddings": torch.ones(2, 7)}}, "its arrays do not fit 512-d embeddings of mini"),
        ({"state": {"class_embeddings": torch.full((2, 512), 3e38)}}, "its scores are not finite; fit again"),
        ({"state": {}}, "another version of palm-cache, whose palm had no 'class_embeddings'; fit again"),
    ],
)
def test_a_head_of_other_classes_or_lengths_is_refused(
    workshop: Workshop, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    head = next(head for head in read_heads(workshop.heads)[0] if head.run.head == "palm")
    write_heads(tmp_path / "heads.h5", [replace(head, **change)], workshop.store, views=2)
    with pytest.raises(StoreError, match=message):
        Classifier.load(tmp_path / "heads.h5")


def test_heads_on_joined_features_that_an_earlier_version_fitted_are_refused_by_name(
    workshop: Workshop, tmp_path: Path
) -> None:
    head = read_heads(workshop.heads)[0][0]
    joined = replace(head, run=replace(head.run, encoder="mini+clap:x"))
    write_heads(tmp_path / "heads.h5", [joined], workshop.store)
    with pytest.raises(EncoderError, match=r"reads the joined features of mini\+clap:x, and an earlier"):
        Classifier.load(tmp_path / "heads.h5")


def test_a_file_without_a_recorded_encoder_is_checked_by_its_fingerprint(
    workshop: Workshop, tmp_path: Path
) -> None:
    path = Path(shutil.copy(workshop.heads, tmp_path))
    with h5py.File(path, "r+") as file:
        del file.attrs["identity"]
        file.attrs["format_version"] = 1  # without checksums
    assert Classifier.load(path).head.run.head == "palm"
