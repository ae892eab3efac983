from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, bootstrap
from sklearn.metrics import recall_score

from palm_cache.report.statistics import accuracy_interval, compare, confusion, recalls
from palm_cache.store.scores import Prediction


def draw(share: float, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


def test_the_interval_of_one_fold_is_scipys() -> None:
    right = draw(0.7, 300, seed=1)
    ours = accuracy_interval({1: {0: right}})
    theirs = bootstrap((right,), np.mean, method="percentile", n_resamples=9999, rng=2).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)


def test_folds_and_seeds_are_resampled_as_a_naive_loop_does() -> None:
    folds = {
        fold: {seed: draw(0.5 + 0.1 * fold, 60 + 20 * fold, 10 * fold + seed) for seed in range(3)}
        for fold in (1, 2)
    }
    random, means = np.random.default_rng(5), []
    for _ in range(4000):
        of_folds = []
        for seeds in folds.values():
            chosen = random.integers(len(seeds[0]), size=len(seeds[0]))
            of_folds.append(np.mean([right[chosen].mean() for right in seeds.values()]))
        means.append(np.mean(of_folds))
    ours = accuracy_interval(folds)
    assert ours.low == pytest.approx(np.quantile(means, 0.025), abs=0.006)
    assert ours.high == pytest.approx(np.quantile(means, 0.975), abs=0.006)


def test_heads_are_compared_clip_by_clip() -> None:
    base = draw(0.6, 400, seed=1)
    better = base | draw(0.2, 400, seed=2)  # right wherever the other is
    compared = compare({1: {0: better}}, {1: {0: base}})
    assert compared.difference == pytest.approx(better.mean() - base.mean())
    assert compared.interval.low > 0
    assert compared.bootstrap_p < 0.001
    gained = int((better & ~base).sum())
    assert compared.mcnemar_p == pytest.approx(min(1.0, 2 * binom.cdf(0, gained, 0.5)))
    other_way = compare({1: {0: base}}, {1: {0: better}})
    assert other_way.difference == -compared.difference


def test_equal_heads_do_not_differ() -> None:
    right = draw(0.6, 100, seed=1)
    compared = compare({1: {0: right}}, {1: {0: right}})
    assert (compared.difference, compared.bootstrap_p, compared.mcnemar_p) == (0, 1, 1)


def test_a_head_of_one_run_stands_against_every_seed_and_the_largest_p_counts() -> None:
    one = draw(0.5, 200, seed=1)
    seeds = {0: one | draw(0.3, 200, seed=2), 1: one.copy()}
    compared = compare({1: seeds}, {1: {0: one}})
    assert compared.mcnemar_p == 1.0
    assert compared.difference == pytest.approx((seeds[0].mean() - one.mean()) / 2)


def test_only_seeds_that_both_have_are_compared() -> None:
    runs = {seed: draw(0.5, 50, seed) for seed in range(4)}
    compared = compare(
        {1: {seed: runs[seed] for seed in (0, 1)}}, {1: {seed: runs[seed] for seed in (1, 0, 3)}}
    )
    assert compared.difference == 0
    with pytest.raises(ValueError, match="no fold or no seed in common"):
        compare({1: {0: runs[0], 1: runs[1]}}, {1: {2: runs[2], 3: runs[3]}})
    with pytest.raises(ValueError, match="no fold or no seed in common"):
        compare({1: {0: runs[0]}}, {2: {0: runs[0]}})


def test_recall_is_scikit_learns_and_missing_where_a_class_has_no_clips() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (100,), generator=generator)
    logits = torch.randn(100, 4, generator=generator)
    names = ("a", "b", "c", "never")
    counts = confusion([Prediction("demo", "mini", "x", torch.arange(100), labels, logits, names)] * 2)
    assert counts.sum() == 200
    recall = recalls(counts)
    expected = recall_score(labels, logits.argmax(dim=1), labels=[0, 1, 2], average=None)
    np.testing.assert_allclose(recall[:3], expected)
    assert np.isnan(recall[3])
