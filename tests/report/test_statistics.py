from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm, spearmanr, t
from sklearn.metrics import recall_score

from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.extraction.datasets.demo import synthesise
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.params import FitParams
from palm_cache.report.statistics import (
    Answers,
    Outcomes,
    accuracy_interval,
    compare,
    confusion,
    difference,
    estimate,
    holm,
    outcomes,
    rank_correlation,
    recalls,
)
from palm_cache.store.features import FeatureStore
from palm_cache.store.scores import RunPrediction

TRIES = 400


def answers(right: np.ndarray, first: int = 0) -> Answers:
    return Answers(first + np.arange(len(right)), right.astype(np.float64))


def draw(share: float, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


def world(random: np.random.Generator, n_clips: int, n_seeds: int) -> tuple[list[Outcomes], float]:
    """Clips that are hard or easy, seeds that are lucky or not: two sets of seeds, and the true accuracy."""
    of_clips, of_seeds, of_both = 1.5, 0.3, 0.8
    clip = random.normal(1, of_clips, n_clips)
    made = []
    for _ in range(2):
        seed = random.normal(0, of_seeds, (n_seeds, 1))
        right = clip + seed + random.normal(0, of_both, (n_seeds, n_clips)) > 0
        made.append({(1, number): answers(row) for number, row in enumerate(right)})
    return made, float(norm.cdf(1 / np.sqrt(of_clips**2 + of_seeds**2 + of_both**2)))


@pytest.mark.parametrize("n_seeds", [3, 10])
def test_intervals_hold_the_truth_and_a_head_differs_from_itself_as_rarely_as_promised(n_seeds: int) -> None:
    random = np.random.default_rng(0)
    held = differ = 0
    for _ in range(TRIES):
        (one, other), truth = world(random, 150, n_seeds)
        interval = accuracy_interval([one])
        held += interval.low <= truth <= interval.high
        differ += compare([difference(one, other)]).p < 0.05
    assert 0.90 <= held / TRIES <= 0.98
    assert 0.02 <= differ / TRIES <= 0.09


def test_among_nine_equal_heads_of_three_seeds_one_is_called_better_as_rarely_as_promised() -> None:
    """Few seeds lie close together by chance, and p of many comparisons are far out in the tails."""
    random, n_heads, called = np.random.default_rng(0), 9, 0
    for _ in range(TRIES):
        clip = random.normal(1, 1.5, 400)
        seed, both = random.normal(0, 0.3, (n_heads, 3, 1)), random.normal(0, 0.8, (n_heads, 3, 400))
        heads = [
            {(1, number): answers(row) for number, row in enumerate(right)}
            for right in clip + seed + both > 0
        ]
        heads.sort(key=lambda runs: -estimate(runs).mean)
        p = [compare([difference(heads[0], other)]).p for other in heads[1:]]
        called += min(holm(p, family=n_heads * (n_heads - 1) // 2)) < 0.05
    assert called / TRIES <= 0.07


def test_a_p_beyond_the_level_of_intervals_goes_on_from_there() -> None:
    runs = {(1, seed): answers(draw(0.5 + 0.02 * seed, 400, seed)) for seed in range(3)}
    weak = {(1, seed): answers(draw(0.4, 400, 10 + seed)) for seed in range(3)}
    found = estimate(difference(runs, weak))
    edge = float(np.sqrt(found.variance) * t.ppf(0.975, found.freedom))
    below, beyond, far = (replace(found, mean=times * edge).p() for times in (1 - 1e-6, 1 + 1e-6, 1e6))
    assert below == pytest.approx(0.05, abs=1e-5)
    assert beyond == pytest.approx(0.05, abs=1e-5)
    assert far < 1e-6
    # All of the variance is that of seeds, or none of it: Student's t of one or the other.
    for of_seeds, freedom in ((found.variance, 2), (0.0, 399)):
        alone = replace(found, of_seeds=of_seeds, freedom=freedom)
        assert alone.p() == pytest.approx(2 * t.sf(found.mean / np.sqrt(found.variance), freedom), rel=1e-6)


def palm_on_demo(root: Path, n_seeds: int) -> dict[tuple[int, int | None], Answers]:
    """What PALM says of real embeddings after one shot, under many seeds."""
    synthesise(root / "raw", clips_per_class=10, folds=2)
    extract(read_dataset("demo", root / "raw"), "mini", root / "mini.zarr")
    features = FeatureStore(root / "mini.zarr").read()
    heads, _ = fit_runs(features, FitParams(heads=("palm",), shots=(1,), seeds=tuple(range(n_seeds))))
    told = {(head.run.fold, head.run.seed): evaluate_head(features, head)[1] for head in heads}
    return dict(outcomes(told))


def test_palm_on_the_demo_is_no_better_than_palm_with_other_seeds(tmp_path: Path) -> None:
    runs = palm_on_demo(tmp_path, n_seeds=40)
    mean, random = estimate(runs).mean, np.random.default_rng(0)

    def those_of(seeds: Sequence[int]) -> Outcomes:
        return {(fold, number): runs[fold, seed] for number, seed in enumerate(seeds) for fold in (1, 2)}

    held = differ = 0
    for _ in range(TRIES):
        seeds = random.permutation(40).tolist()
        one, other = those_of(seeds[:3]), those_of(seeds[3:6])
        interval = accuracy_interval([one])
        held += interval.low <= mean <= interval.high
        differ += compare([difference(one, other)]).p < 0.05
    assert held / TRIES >= 0.90  # the clips are the same, so that it may be all
    assert differ / TRIES <= 0.09


def test_without_a_seed_the_variance_is_that_of_a_share() -> None:
    right = draw(0.7, 300, seed=1)
    found = estimate({(1, None): answers(right)})
    assert found.variance == pytest.approx(right.var() / 299)
    assert (found.mean, found.n_seeds) == (right.mean(), 0)


def test_folds_count_the_same_whatever_their_size() -> None:
    small, large = draw(0.9, 50, seed=1), draw(0.6, 500, seed=2)
    found = estimate({(1, None): answers(small), (2, None): answers(large, first=50)})
    assert found.mean == pytest.approx((small.mean() + large.mean()) / 2)
    assert found.variance == pytest.approx((small.var() / 49 + large.var() / 499) / 4)


def test_a_clip_that_several_folds_test_is_one_clip() -> None:
    right = draw(0.7, 200, seed=1)
    once = accuracy_interval([{(1, 0): answers(right)}])
    thrice = accuracy_interval([{(fold, 0): answers(right) for fold in (1, 2, 3)}])
    apart = accuracy_interval([{(fold, 0): answers(right, first=200 * fold) for fold in (1, 2, 3)}])
    assert thrice == once
    assert (once.high - once.low) / (apart.high - apart.low) == pytest.approx(3**0.5, rel=0.02)


def test_seeds_that_all_say_the_same_are_no_further_evidence() -> None:
    right = draw(0.7, 200, seed=1)
    once = estimate({(1, None): answers(right)})
    thrice = estimate({(1, seed): answers(right) for seed in range(3)})
    assert thrice.variance == pytest.approx(once.variance)
    assert thrice.freedom == pytest.approx(once.freedom)


def test_seeds_far_apart_make_the_interval_wide() -> None:
    near = {(1, seed): answers(draw(0.6, 400, seed)) for seed in range(3)}
    far = {(1, seed): answers(draw(0.4 + 0.2 * seed, 400, seed)) for seed in range(3)}
    widths = [interval.high - interval.low for interval in map(accuracy_interval, ([near], [far]))]
    assert widths[1] > 5 * widths[0]


@pytest.mark.parametrize("right", [True, False])
def test_no_mistake_in_fifty_clips_is_not_taken_for_perfection(right: bool) -> None:
    runs = {(1, seed): answers(np.full(50, right)) for seed in range(3)}
    found = accuracy_interval([runs])
    wilson = binomtest(50 if right else 0, 50).proportion_ci(method="wilson")
    assert found.low == pytest.approx(wilson.low, abs=0.02)
    assert found.high == pytest.approx(wilson.high, abs=0.02)
    assert 0 <= found.low < found.high <= 1
    assert found.low <= right <= found.high
    twice = compare([difference(runs, runs)])
    assert twice.interval.low < 0 < twice.interval.high


def test_heads_are_compared_clip_by_clip() -> None:
    base = draw(0.6, 400, seed=1)
    better = base | draw(0.1, 400, seed=2)  # right wherever the other is
    compared = compare([difference({(1, None): answers(better)}, {(1, None): answers(base)})])
    assert compared.difference == pytest.approx(better.mean() - base.mean())
    assert 0 < compared.interval.low < compared.interval.high < 0.1
    assert compared.p < 0.001
    other_way = compare([difference({(1, None): answers(base)}, {(1, None): answers(better)})])
    assert other_way.difference == -compared.difference
    assert other_way.p == pytest.approx(compared.p)


def test_of_one_clip_no_more_is_said_than_that_nothing_is_known() -> None:
    seeds = [np.array([seed % 2 == 0]) for seed in range(3)]
    runs = {(1, seed): answers(right) for seed, right in enumerate(seeds)}
    other = {(1, seed): answers(~right) for seed, right in enumerate(seeds)}
    interval = compare([difference(runs, other)]).interval
    assert (interval.low, interval.high) == (-1, 1)


def test_equal_heads_do_not_differ() -> None:
    runs = {(1, None): answers(draw(0.6, 100, seed=1))}
    compared = compare([difference(runs, runs)])
    assert (compared.difference, compared.p) == (0, 1)


def test_a_head_that_learns_nothing_stands_against_every_seed() -> None:
    one = draw(0.5, 200, seed=1)
    seeds = {(1, 0): answers(one | draw(0.3, 200, seed=2)), (1, 1): answers(one)}
    for compared, sign in (
        (compare([difference(seeds, {(1, None): answers(one)})]), 1),
        (compare([difference({(1, None): answers(one)}, seeds)]), -1),
    ):
        assert compared.n_seeds == 2
        assert sign * compared.difference == pytest.approx((seeds[1, 0].score.mean() - one.mean()) / 2)


def test_runs_of_different_seeds_are_never_compared() -> None:
    runs = {seed: answers(draw(0.5, 50, seed)) for seed in range(4)}
    assert difference({(1, 0): runs[0]}, {(1, 1): runs[1]}) == {}
    assert difference({(1, 0): runs[0]}, {(2, 0): runs[0]}) == {}
    common = difference({(1, 0): runs[0], (1, 1): runs[1]}, {(1, 1): runs[1], (1, 3): runs[3]})
    assert list(common) == [(1, 1)]
    other_clips = Answers(runs[0].clips + 1, runs[0].score)
    assert difference({(1, 0): runs[0]}, {(1, 0): other_clips}) == {}


def test_the_mean_over_datasets_is_surer_than_each() -> None:
    many: list[Outcomes] = [{(1, None): answers(draw(0.6, 400, seed))} for seed in range(4)]
    widths = [interval.high - interval.low for interval in (accuracy_interval([one]) for one in many)]
    together = accuracy_interval(many)
    assert together.high - together.low == pytest.approx(np.mean(widths) / 2, rel=0.02)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(("n_datasets", "n_clips"), [(1, 4), (3, 4), (11, 4), (40, 4), (11, 400)])
def test_the_interval_of_a_mean_over_datasets_lies_around_it(
    share: float, n_datasets: int, n_clips: int
) -> None:
    right = np.arange(n_clips) < share * n_clips
    alike = [{(1, None): answers(right)}] * n_datasets
    interval = accuracy_interval(alike)
    assert interval.low < share or share == interval.low == 0  # beyond none and all there is nothing
    assert interval.high > share or share == interval.high == 1
    assert interval.high - interval.low > 0.001
    none = {(1, None): answers(np.zeros(n_clips, dtype=bool))}
    compared = compare([difference(first, none) for first in alike])
    assert compared.interval.low < compared.difference == share
    assert compared.interval.high > share or share == compared.interval.high == 1


def test_p_are_adjusted_as_holm_does() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust
    assert holm([0.01, 0.5], family=10) == pytest.approx([0.1, 1.0])
    assert holm([]) == []


def test_recall_is_scikit_learns_and_missing_where_a_class_has_no_clips() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (100,), generator=generator)
    logits = torch.randn(100, 4, generator=generator)
    names = ("a", "b", "c", "never")
    counts = confusion([RunPrediction("demo", "mini", "x", torch.arange(100), labels, logits, names)] * 2)
    assert counts.sum() == 200
    recall = recalls(counts)
    expected = recall_score(labels, logits.argmax(dim=1), labels=[0, 1, 2], average=None)
    np.testing.assert_allclose(recall[:3], expected)
    assert np.isnan(recall[3])


@pytest.mark.parametrize("count", [3, 4, 10, 50])
def test_rank_correlations_are_scipys(count: int) -> None:
    random = np.random.default_rng(count)
    one, other = random.integers(0, 8, (2, count)).astype(float)
    expected = spearmanr(one, other)
    assert rank_correlation(one, other) == pytest.approx((expected.statistic, expected.pvalue))
    assert rank_correlation(np.arange(count), -np.arange(count)) == pytest.approx((-1.0, 0.0))


def test_two_numbers_have_no_rank_correlation_to_speak_of() -> None:
    assert rank_correlation(np.array([1.0, 2.0]), np.array([3.0, 7.0])) == pytest.approx((1.0, 1.0))
