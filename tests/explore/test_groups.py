from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call, fail, succeed
from samples import make_features, write_sample
from sklearn.metrics import adjusted_rand_score
from workshop import Workshop

from palm_cache.adaptation.fit import fit_store
from palm_cache.errors import ParameterError
from palm_cache.explore.groups import UNLABELLED, group
from palm_cache.params import FitParams
from palm_cache.params.use import LoadingParams, MapParams
from palm_cache.store.features import FeatureStore

FEATURES = make_features(noise=0.2, failed=(3,))
NAKED = replace(
    FEATURES, labels=torch.full_like(FEATURES.labels, -1), class_names=(), text=FEATURES.text[:0], folds=()
)


@pytest.fixture
def naked(tmp_path: Path) -> Path:
    """A store without any label."""
    return write_sample(tmp_path / "store.zarr", NAKED)


def test_clusters_are_the_classes_that_nobody_named(naked: Path) -> None:
    found, told = group(NAKED, naked, MapParams(clusters=4), LoadingParams())
    kept = FEATURES.usable.numpy()
    assert adjusted_rand_score(FEATURES.labels.numpy()[kept], found.labels.numpy()[kept]) == 1
    sizes = np.bincount(found.labels.numpy()[kept])
    assert (np.diff(sizes) <= 0).all()
    assert found.class_names == ("cluster 1", "cluster 2", "cluster 3", "cluster 4")
    assert told == "4 clusters of embeddings"
    again, _ = group(NAKED, naked, MapParams(clusters=4), LoadingParams())
    assert torch.equal(found.labels, again.labels)
    with pytest.raises(ParameterError, match="choose from 1 to their number"):
        group(NAKED, naked, MapParams(clusters=500), LoadingParams())


def test_a_head_colours_a_store_without_labels(tmp_path: Path, naked: Path) -> None:
    labelled = write_sample(tmp_path / "labelled.zarr", FEATURES)
    params = FitParams(heads=("prototype",), shots=(4,), seeds=(0,), folds=(1,))
    heads = fit_store(labelled, tmp_path / "runs", params).heads_file
    found, told = group(NAKED, naked, MapParams(head=heads), LoadingParams())
    kept = FEATURES.usable
    assert found.class_names == FEATURES.class_names
    assert (found.labels == FEATURES.labels)[kept].double().mean() > 0.95
    assert told.startswith("what prototype-4shots")


def test_clips_without_a_label_are_a_class_of_their_own(tmp_path: Path) -> None:
    labels = FEATURES.labels.clone()
    labels[:7] = -1
    some = replace(FEATURES, labels=labels, folds=())
    store = write_sample(tmp_path / "store.zarr", some)
    found, told = group(some, store, MapParams(), LoadingParams())
    assert told == ""
    assert found.class_names[-1] == UNLABELLED
    assert (found.labels[:7] == len(FEATURES.class_names)).all()
    assert torch.equal(found.labels[7:], FEATURES.labels[7:])


def test_the_page_of_a_store_without_labels_says_what_its_colours_are(naked: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.html"
    succeed("explore", str(naked), "--method", "pca", "--out", str(out))
    page = out.read_text()
    assert "Colours show 12 clusters of embeddings." in page
    assert "cluster 12" in page
    assert FeatureStore(naked).labels().max() == -1
    assert 'value="class" checked> group</label>' in page


def test_a_text_colours_what_is_nearest_to_it(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "map.html"
    succeed("explore", str(workshop.store), "--text", "low tone", "--method", "pca", "--out", str(out))
    assert "nearest to &#39;low tone&#39;" in out.read_text()
    words = ("explore", str(workshop.store), "--text", "x", "--clusters", "2")
    assert call(*words).exit_code == 2
    assert "text is empty" in fail("explore", str(workshop.store), "--text", " ", "--out", str(out))
