from __future__ import annotations

import doctest
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from samples import make_features, write_palm_folder, write_sample
from sklearn.model_selection import cross_val_score
from spectrum import LetterTower
from upath import UPath

import palm_cache
from palm_cache import estimators
from palm_cache.adaptation import fit
from palm_cache.adaptation.calibration import runs_to_calibrate
from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.tasks import few_shot
from palm_cache.api import adaptation, extraction, features
from palm_cache.api.adaptation import FitResult
from palm_cache.errors import ParameterError, StoreError, UnknownNameError
from palm_cache.params.use import LoadingParams
from palm_cache.prediction import table
from palm_cache.store.header import StoreHeader
from palm_cache.store.places import place
from palm_cache.store.scores import COLUMNS
from palm_cache.types import Fold


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the examples of the documentation run: a store and a dataset."""
    monkeypatch.chdir(tmp_path)
    write_sample(Path("data/features/demo/mini.zarr"), replace(make_features(), dataset="demo"))
    write_palm_folder(Path("Tones"))
    return tmp_path


@pytest.mark.parametrize(
    "module", [adaptation, estimators, extraction, features, table], ids=lambda module: module.__name__
)
def test_the_examples_in_the_documentation_run(workplace: Path, module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 1


def test_every_public_name_has_an_example_or_needs_none() -> None:
    for name in palm_cache.__all__:
        documented = getattr(palm_cache, name).__doc__
        assert documented
        if name in ("extract", "open_features", "fit", "predict") or name.endswith("Classifier"):
            assert ">>> import palm_cache" in documented


def test_type_checkers_see_the_types_of_the_package() -> None:
    assert (Path(palm_cache.__file__).parent / "py.typed").is_file()


def test_no_answer_of_nothing_is_given(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="nothing to listen to: give audio or store"):
        palm_cache.predict(tmp_path)
    with pytest.raises(ParameterError, match="no feature store is named"):
        palm_cache.search([], text="dog")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, palm_cache\n"
        "assert {'fit', 'PalmClassifier', '__version__'} <= set(dir(palm_cache))\n"
        "heavy = 'torch torchaudio transformers zarr h5py pandas numpy sklearn matplotlib typer'.split()\n"
        "print(*(name for name in heavy if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_verb_stays_a_verb_whatever_is_imported() -> None:
    """No module of the package may take the name of a function."""
    code = (
        "import palm_cache, palm_cache.api.extraction, palm_cache.cli, palm_cache.prediction.export\n"
        "print(*(callable(getattr(palm_cache, name)) for name in palm_cache.__all__ for _ in range(2)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"True"}


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'adapt'"):
        palm_cache.adapt  # noqa: B018
    assert all(hasattr(palm_cache, name) for name in palm_cache.__all__)


def test_an_open_store_gives_what_was_written(tmp_path: Path) -> None:
    features = make_features(n_views=2, failed=(5, 70))
    opened = palm_cache.open_features(write_sample(tmp_path / "x.zarr", features))
    np.testing.assert_array_equal(opened.audio, features.audio)
    np.testing.assert_array_equal(opened.centre, features.audio[:, 0])
    np.testing.assert_array_equal(opened.labels, features.labels)
    assert opened.class_names == features.class_names
    assert opened.paths[70] == "70.wav"
    assert [row for row, error in enumerate(opened.errors) if error] == [5, 70]
    assert opened.content_sha256[64] == f"{65:064x}"
    for mine, theirs in zip(opened.folds, features.folds, strict=True):
        np.testing.assert_array_equal(mine[0], theirs.train)
        np.testing.assert_array_equal(mine[1], theirs.test)
    text = torch.nn.functional.normalize(features.text[:, 3], dim=1)
    np.testing.assert_array_equal(opened.text(opened.templates[3]), text)
    with pytest.raises(UnknownNameError, match="unknown template"):
        opened.text("no {c}")


def test_notes_of_a_fit_call_parameters_as_python_does() -> None:
    nothing = pd.DataFrame(columns=list(COLUMNS))
    fitted = FitResult(Path("heads.h5"), nothing, ("fit with more `shots`",), nothing)
    assert repr(fitted).splitlines() == ["<FitResult heads.h5>", "note: fit with more shots"]


def test_splits_are_those_of_fit_and_scikit_learn_takes_them(tmp_path: Path) -> None:
    features = make_features(failed=(5,), noise=1.2)
    opened = palm_cache.open_features(write_sample(tmp_path / "x.zarr", features))
    splits = [opened.few_shot(fold=fold, shots=4, seed=2) for fold in (1, 2, 3)]
    for fold, (train, test) in enumerate(splits, start=1):
        task = few_shot(features, fold=fold, shots=4, seed=2)
        np.testing.assert_array_equal(train, task.train)
        np.testing.assert_array_equal(test, task.test)
    palm = palm_cache.PalmClassifier(opened.text(), epochs=5, random_state=2)
    scores = cross_val_score(palm, opened.centre, opened.labels, cv=splits)
    params = palm_cache.FitParams(
        heads=("palm",), shots=(4,), seeds=(2,), training=palm_cache.Training(epochs=5)
    )
    fitted = palm_cache.fit(opened, params, out=tmp_path)
    assert 0.3 < scores.min() < scores.max() < 1
    np.testing.assert_allclose(scores, fitted.scores["accuracy"])
    told = str(fitted)
    assert f"<FitResult {fitted.heads.as_posix()}>" in told
    assert "..." not in told
    for head in params.heads:
        assert any(head in line and "%" not in line for line in told.splitlines())


def test_few_shot_takes_what_fit_takes(tmp_path: Path) -> None:
    opened = palm_cache.open_features(write_sample(tmp_path / "x.zarr", make_features()))
    train, _ = opened.few_shot(shots="all")
    assert sorted(train) == sorted(opened.folds[0][0])
    np.testing.assert_array_equal(opened.few_shot(shots=np.int64(4))[0], opened.few_shot(shots=4)[0])
    for wrong in (
        *({"shots": shots} for shots in (0, "many", -1, 4.0, None, (4, 8))),
        *({"fold": fold} for fold in (0, None, (1, 2))),
        *({"seed": seed} for seed in (-1, 1.5, (1, 2))),
    ):
        with pytest.raises(ParameterError, match="is not a whole number"):
            opened.few_shot(**wrong)


def test_an_open_store_stands_for_its_place_with_the_options_of_that(tmp_path: Path) -> None:
    write_sample(tmp_path / "x.zarr", make_features())
    where = UPath("memory://open/x.zarr", use_listings_cache=False)
    where.fs.put(str(tmp_path / "x.zarr"), where.path, recursive=True)
    assert place(palm_cache.open_features(where)) is where  # its text would lack them


def test_a_data_frame_has_a_row_per_clip_and_says_where_it_belongs(tmp_path: Path) -> None:
    features = make_features(failed=(5,))
    rows = torch.arange(120)
    features = replace(features, folds=(*features.folds, Fold(rows[:6], rows[4:8])))
    opened = palm_cache.open_features(write_sample(tmp_path / "x.zarr", features))
    table = opened.to_pandas()
    assert len(table) == 120
    assert table["path"].is_unique
    assert (table["class_name"] == [f"class {label}" for label in features.labels]).all()
    assert table.loc[5, "error"] == "broken"
    assert table["fold4"].tolist() == ["train"] * 4 + ["both"] * 2 + ["test"] * 2 + [""] * 112
    assert set(table.loc[table["fold1"] == "test"].index) == set(features.folds[0].test.tolist())
    wide = opened.to_pandas(embeddings=True)
    pd.testing.assert_frame_equal(wide[table.columns], table)
    np.testing.assert_array_equal(wide[[str(place) for place in range(24)]], features.audio[:, 0])


def test_fit_scores_the_runs_that_were_asked_for(workplace: Path) -> None:
    store = "data/features/demo/mini.zarr"
    told: list[str] = []
    params = palm_cache.FitParams(heads=("zero-shot",), folds=(1,))
    palm_cache.fit(store, params)
    params = palm_cache.FitParams(
        heads=("palm",), shots=(2, 4), seeds=(0,), folds=(1, 3), training=palm_cache.Training(epochs=2)
    )
    fitted = palm_cache.fit(
        palm_cache.open_features(store), params, progress=lambda what, done, total: told.append(what)
    )
    assert fitted.scores[["head", "shots", "fold"]].to_numpy().tolist() == [
        ["palm", 2, 1],
        ["palm", 2, 3],
        ["palm", 4, 1],
        ["palm", 4, 3],
    ]
    assert len(pd.read_csv("runs/scores.csv")) == 5
    assert {"training palm", "evaluating"} <= set(told)


def test_extract_opens_what_it_stored_and_does_nothing_twice(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palm_cache.store.places.local.RACY_NS", 0)
    told: list[tuple[str, int, int]] = []
    first = palm_cache.extract(Path("Tones"), store="here.zarr", progress=lambda *step: told.append(step))
    assert first.audio.shape == (12, 1, 512)
    assert any(what == "embedding" for what, _, _ in told)
    known = {path.name for path in Path(".cache").glob("audio-*/*")}
    assert len(known) == 2  # a segment, and what it is
    again = palm_cache.extract("Tones", store="here.zarr")
    np.testing.assert_array_equal(again.audio, first.audio)
    assert again.header.id == first.header.id
    assert {path.name for path in Path(".cache").glob("audio-*/*")} == known


def test_what_extract_noticed_is_shown_in_python_too(workplace: Path) -> None:
    """Clips that cannot be read were left out in silence."""
    Path("Tones/audios/train_0_0.wav").write_text("no sound")
    extracted = palm_cache.extract("./Tones")
    assert repr(extracted).startswith(
        "<OpenFeatures Tones, mini: 12 clips x 1 view x 512, 2 classes, 1 fold, 1 "
    )
    Path("mixed").mkdir()
    Path("Tones/audios/train_0_1.wav").rename("mixed/a.wav")
    extracted = palm_cache.extract("mixed")
    assert "read as audio without labels: 1 file" in extracted.notes
    assert "note: read as audio without labels: 1 file" in repr(extracted).splitlines()
    assert palm_cache.open_features(extracted).notes == ()


@pytest.mark.parametrize("happening", ["replaced", "gone"])
def test_what_happens_to_a_store_while_heads_are_fitted_does_not_end_the_fit(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, happening: str
) -> None:
    store, training = Path("data/features/demo/mini.zarr"), palm_cache.Training(epochs=1)
    params = palm_cache.FitParams(heads=("prototype", "cocoop"), shots=4, seeds=0, training=training)
    loaded: list[str] = []

    def load(header: StoreHeader, loading: LoadingParams) -> LetterTower:
        loaded.append(header.dataset)
        return LetterTower(24)

    monkeypatch.setattr(adaptation, "load_text_tower", load)
    undisturbed = palm_cache.fit(store, params, out="undisturbed")
    assert loaded == ["demo"]  # to learn and to be scored

    def fit_and_replace(*given: Any, **options: Any) -> Any:
        store.rename("old.zarr")
        if happening == "replaced":
            other = make_features()
            write_sample(store, replace(other, dataset="demo", audio=other.audio.flip(0)))
        return fit_runs(*given, **options)

    monkeypatch.setattr(fit, "fit_runs", fit_and_replace)
    fitted = palm_cache.fit(store, params)
    assert fitted.notes == undisturbed.notes
    assert fitted.scores["accuracy"].tolist() == undisturbed.scores["accuracy"].tolist()
    assert not runs_to_calibrate(fitted.heads)


def test_an_absent_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no feature store here; make it with: palm-cache extract"):
        palm_cache.open_features(tmp_path / "none.zarr")
