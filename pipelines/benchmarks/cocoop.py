"""Time COOP and COCOOP with mini, whose tower knows what a prompt's words give before a context is learned.

``python -m pipelines.benchmarks.cocoop [--epochs 4]``

The demo's runs at 16 shots: ten classes, five folds, three seeds, on made-up features. The same runs are
trained through the same tower twice, prompts filled with their context word by word, as every tower can, and
as mini does it. The fastest of some passes counts; the last column is the largest difference of what was
learned.
"""

from __future__ import annotations

import argparse
import copy
import os
from functools import partial

import torch

from palm_cache.extraction.encoders.mini import MiniEncoder, MiniTextTower
from palm_cache.extraction.encoders.mini_towers import DIM
from palm_cache.extraction.encoders.text import PromptTower
from palm_cache.params import FitParams
from palm_cache.types.runs import Training
from pipelines.benchmarks.fit import Shape, make_features, time_ours

DEMO = Shape("demo", n_classes=10, n_folds=5)
PASSES = 3


def filling(tower: MiniTextTower) -> MiniTextTower:
    """Return mini's tower, as one that fills every prompt with its context and encodes it."""
    other = copy.copy(tower)
    other.encode_behind = partial(PromptTower.encode_behind, tower)  # type: ignore[method-assign]
    return other


def measure(
    head: str, training: Training, shape: Shape = DEMO, passes: int = PASSES
) -> tuple[float, float, float]:
    """Return seconds filled, seconds as mini does it, and the largest difference of any learned number."""
    features = make_features(shape, DIM)
    params = FitParams(heads=(head,), training=training)
    tower = MiniEncoder.load().text_tower()
    before, filled = time_ours(features, params, passes, filling(tower))
    after, ours = time_ours(features, params, passes, tower)
    apart = [
        float((one.state[name] - other.state[name]).abs().max())
        for one, other in zip(filled, ours, strict=True)
        for name in one.state
    ]
    return before, after, max(apart)


def main() -> None:
    """Measure both heads and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4, help="passes over the shots; the paper's are 50")
    training = Training(epochs=parser.parse_args().epochs)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"{'head':10}{'filled s':>10}{'mini s':>10}{'ratio':>8}{'difference':>12}")
    for head in ("coop", "cocoop"):
        before, after, apart = measure(head, training)
        print(f"{head:10}{before:10.2f}{after:10.2f}{before / after:8.1f}{apart:12.1e}", flush=True)


if __name__ == "__main__":
    main()
