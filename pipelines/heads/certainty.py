"""Do intervals and p-values keep their promise, and does calibration help? On the study's own results.

``python -m pipelines.heads.certainty RESULTS [STORE ...]``

From ``predictions.h5`` of RESULTS: for every head with enough seeds, three of them are drawn again and again.
How often does their 95 % interval hold the mean of all seeds, and how often does a head differ from itself
under three other seeds (p < .05)? The clips are the same each time, so that intervals, which allow for other
clips, too, hold that mean more often than 95 times in 100.

On feature stores, if some are given: the mean cross entropy of test clips before and after calibration, at
2, 4 and 16 shots, all folds, three seeds, for every head of RESULTS that needs no text tower.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.nn.functional import cross_entropy

from palm_cache.adaptation.calibration import calibrate
from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads import find_head
from palm_cache.params import FitParams
from palm_cache.report.evidence import HeadRuns, by_kind
from palm_cache.report.statistics import Outcomes, accuracy_interval, compare, difference, estimate
from palm_cache.store.features import FeatureStore
from palm_cache.store.scores import read_predictions, read_scores, tell_apart

SEEDS = 3
"""Of a draw; a head needs twice as many and some more."""

TRIES = 200

SHOTS = (2, 4, 16)


def coverage(kind: HeadRuns, tries: int = TRIES) -> tuple[float, float] | None:
    """Return how often an interval holds the mean of all seeds, and how often a head differs from itself.

    ``None`` where a head has too few seeds.
    """
    runs = kind.outcomes
    seeds = sorted({seed for _, seed in runs if seed is not None})
    if len(seeds) <= 2 * SEEDS:
        return None
    mean, random = estimate(runs).mean, np.random.default_rng(0)
    held = differ = 0
    for _ in range(tries):
        drawn = random.permutation(seeds).tolist()
        one, other = (_those_of(runs, some) for some in (drawn[:SEEDS], drawn[SEEDS : 2 * SEEDS]))
        interval = accuracy_interval([one])
        held += interval.low <= mean <= interval.high
        differ += compare([difference(one, other)]).p < 0.05
    return held / tries, differ / tries


def _those_of(runs: Outcomes, seeds: list[int]) -> Outcomes:
    return {
        (fold, number): runs[fold, seed]
        for number, seed in enumerate(seeds)
        for fold in sorted({fold for fold, _ in runs})
    }


def calibrations(store: Path, heads: tuple[str, ...]) -> Iterator[tuple[str, int, float, float]]:
    """Yield head, shots, and the mean loss of test clips before and after calibration."""
    features = FeatureStore(store).read()
    for head in heads:
        losses: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for one in fit_runs(features, FitParams(heads=(head,), shots=SHOTS))[0]:
            _, told = evaluate_head(features, one)
            temperature = calibrate(features, one).temperature
            pair = [float(cross_entropy(told.logits.double() / t, told.labels)) for t in (1.0, temperature)]
            losses[one.run.shots].append((pair[0], pair[1]))
        for shots, pairs in losses.items():
            before, after = np.mean(pairs, axis=0)
            yield head, shots, float(before), float(after)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("stores", type=Path, nargs="*")
    options = parser.parse_args()
    scores = read_scores(options.results / "scores.csv")
    print("| dataset | head | shots | intervals that hold the mean | differs from itself |")
    print("|---|---|---|---|---|")
    predictions = read_predictions(options.results / "predictions.h5")
    for place, kinds in by_kind(predictions, tell_apart(scores)).items():
        for kind in kinds:
            found = coverage(kind)
            if found:
                held, differ = (f"{100 * share:.0f} %" for share in found)
                print(f"| {place[0]} | {kind.head} | {kind.shots} | {held} | {differ} |", flush=True)
    trained = [name for name in dict.fromkeys(scores["head"]) if find_head(name).trained]
    quick = tuple(name for name in trained if not find_head(name).needs_text_tower)
    for store in options.stores:
        print(f"\n{store}\n\n| head | shots | loss before | loss after |\n|---|---|---|---|")
        for head, shots, before, after in calibrations(store, quick):
            print(f"| {head} | {shots} | {before:.3f} | {after:.3f} |", flush=True)


if __name__ == "__main__":
    main()
