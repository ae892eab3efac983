from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import make_features, write_sample
from sklearn.metrics import accuracy_score

from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.prompt_study import score_prompts, study_prompts
from palm_cache.errors import DataError
from palm_cache.params import FitParams
from palm_cache.store.scores import read_prompts
from palm_cache.types import TEMPLATES, Features


def test_every_template_scores_as_zero_shot_fitted_with_it(features: Features) -> None:
    rows = {(row["template"], row["fold"]): row["accuracy"] for row in score_prompts(features)}
    assert len(rows) == 3 * (len(TEMPLATES) + 1)
    for template in TEMPLATES[:3]:
        heads, _ = fit_runs(features, FitParams(heads=("zero-shot",), template=template))
        for head in heads:
            assert evaluate_head(features, head)[0]["accuracy"] == rows[template, head.run.fold]


def test_the_ensemble_is_the_mean_of_unit_embeddings(features: Features) -> None:
    text = torch.nn.functional.normalize(features.text, dim=-1).mean(dim=1)
    text /= text.norm(dim=-1, keepdim=True)
    test = features.folds[1].test
    predicted = (features.audio[test, 0] @ text.T).argmax(dim=1)
    row = next(row for row in score_prompts(features, [2]) if row["template"] == "all")
    assert row["accuracy"] == accuracy_score(features.labels[test], predicted)


def test_rows_of_other_datasets_stay_and_ones_own_are_renewed(tmp_path: Path) -> None:
    stores = [
        write_sample(tmp_path / f"{name}.zarr", replace(make_features(), dataset=name))
        for name in ("one", "two")
    ]
    study_prompts(stores, tmp_path)
    study_prompts(stores[1:], tmp_path, folds=[3])
    kept = read_prompts(tmp_path / "prompts.csv").groupby("dataset")["fold"].unique()
    assert {name: list(folds) for name, folds in kept.items()} == {"one": [1, 2, 3], "two": [3]}


def test_a_fold_that_is_not_there_is_named(features: Features) -> None:
    with pytest.raises(DataError, match="clusters: no fold 4; it has 3"):
        score_prompts(features, [4])
