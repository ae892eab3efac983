from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import succeed
from samples import make_features, write_sample

from palm_cache.adaptation.fit import fit_store
from palm_cache.params import FitParams


@pytest.mark.parametrize("name", ["birds[1]", "birds*", "a?"])
def test_a_name_that_is_a_pattern_means_itself(name: str, tmp_path: Path) -> None:
    for dataset in (name, "birds1", "birdsong", "ab"):
        store = write_sample(tmp_path / f"{dataset}.zarr", replace(make_features(), dataset=dataset))
        fit_store(store, tmp_path / "runs", FitParams(heads=("zero-shot",), folds=(1,)))
    told = succeed("evaluate", "--out", str(tmp_path / "runs"), "--dataset", name).stdout
    assert name in told
    assert not {"birds1", "birdsong", "ab"} & set(told.split())
