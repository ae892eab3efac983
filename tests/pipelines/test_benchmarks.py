from __future__ import annotations

import torch

from palm_cache.params import FitParams
from palm_cache.types import Training
from pipelines.benchmarks.fit import SHAPES, Shape, describe, measure


def test_the_loop_by_hand_and_palm_cache_learn_the_same_weights() -> None:
    params = FitParams(heads=("palm",), shots=(5,), seeds=(0, 1), training=Training(epochs=3))
    shape = Shape("small", n_classes=4, n_folds=2)
    threads = torch.get_num_threads()
    measured = measure(shape, params, threads=(threads,), passes=1, every_run=True, dim=48)
    assert measured.n_runs == 2 * 2
    assert measured.single < 5e-4
    assert measured.double < 1e-9
    assert measured.loop.keys() == measured.ours.keys() == {threads}
    assert describe("all", [measured, measured]).split()[:2] == ["all", "8"]


def test_the_paper_has_105_runs() -> None:
    assert sum(shape.n_folds * len(FitParams().seeds) for shape in SHAPES) == 105
