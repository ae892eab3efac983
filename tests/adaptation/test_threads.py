from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

import palm_cache.adaptation.fit as fit_module
from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads.prototype import Prototype
from palm_cache.adaptation.threads import LARGE, threads_for
from palm_cache.params import FitParams
from palm_cache.types import Features


def test_heads_fit_and_score_small_tensors_with_one_thread(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            counts.append(torch.get_num_threads())
            return function(*given)

        return run

    monkeypatch.setattr(fit_module, "unit", counting(fit_module.unit))
    monkeypatch.setattr(Prototype, "fit", counting(Prototype.fit))
    monkeypatch.setattr(Prototype, "logits", staticmethod(counting(Prototype.logits)))
    with threadpool_limits(2, user_api="openmp"):
        (head, *_), _ = fit_runs(features, FitParams(heads=("prototype",), shots=(4,)))
        evaluate_head(features, head)
        assert torch.get_num_threads() == 2
    assert len(counts) >= 3
    assert set(counts) == {1}


def test_large_tensors_keep_the_threads_that_there_are() -> None:
    with threadpool_limits(2, user_api="openmp"), threads_for(LARGE):
        assert torch.get_num_threads() == 2


def test_a_batch_of_systems_is_solved_after_threads_were_limited() -> None:
    matrices = torch.eye(64).expand(8, 64, 64) + 0.01
    with threadpool_limits(2, user_api="openmp"):
        with threads_for(0):
            alone = torch.linalg.solve(matrices, torch.ones(8, 64, 3))
        torch.testing.assert_close(torch.linalg.solve(matrices, torch.ones(8, 64, 3)), alone)
