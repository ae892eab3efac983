"""Time PALM's fit of the paper's whole experiment against the loop that one would write by hand.

``python -m pipelines.benchmarks.fit [--quick] [--threads 1,2]``

Features are made up, in the shapes of the paper's eleven datasets: 105 runs of 50 epochs, 16 shots, 1024
dimensions. The loop trains run by run, with a DataLoader, autograd and torch's SGD; palm-cache goes through
``fit_runs``, draws included. Both are timed with one thread and with all, and the better counts. Runs of one
shape take equally long, so that the loop's time is its fastest run's times their number, and palm-cache's its
fastest pass's: what both can do, whatever else the machine does. The last columns are the largest difference
between the weights of both, in single precision over all runs that the loop trained, in double
over one of each dataset.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from palm_cache.adaptation.fit import fit_runs, text_of
from palm_cache.adaptation.heads.base import SCALE
from palm_cache.adaptation.heads.palm import CONTEXT_STD
from palm_cache.adaptation.tasks import few_shot
from palm_cache.params import FitParams
from palm_cache.types import BARE_TEMPLATE, Features, Fold
from palm_cache.types.runs import FittedHead, Training

DIM = 1024
CLIPS_PER_CLASS = 40
N_CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Shape:
    """What a dataset's runs look like."""

    name: str
    n_classes: int
    n_folds: int


SHAPES = (
    Shape("Beijing-Opera", 4, 5),
    Shape("CREMA-D", 6, 1),
    Shape("ESC50", 50, 5),
    Shape("ESC50-Actions", 10, 5),
    Shape("GT-Music-Genre", 10, 1),
    Shape("NS-Instruments", 10, 1),
    Shape("RAVDESS", 8, 1),
    Shape("SESA", 4, 1),
    Shape("TUT2017", 15, 4),
    Shape("UrbanSound8K", 10, 10),
    Shape("VocalSound", 6, 1),
)
"""The paper's datasets: classes and folds."""

Weights = dict[str, Tensor]
"""``context`` (n_classes, dim) and ``gate`` (n_classes,)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One dataset, both ways."""

    shape: Shape
    n_runs: int
    loop: dict[int, float]
    """Seconds for all runs, by number of threads."""
    ours: dict[int, float]
    single: float
    """Largest difference of any weight, in single precision."""
    double: float


def make_features(shape: Shape, dim: int = DIM) -> Features:
    """Make clips around their classes' centres, and text near the centres; all have a common part."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator) / dim**0.5

    rows = torch.arange(shape.n_classes * CLIPS_PER_CLASS)
    labels = rows % shape.n_classes
    common, centres = random(dim), random(shape.n_classes, dim)
    audio = common + centres[labels] + 1.5 * random(len(rows), dim)
    text = common + 0.5 * random(dim) + 0.5 * centres + random(shape.n_classes, dim)
    part = rows // shape.n_classes % max(shape.n_folds, 2)  # one fold is a train and a test half
    return Features(
        dataset=shape.name,
        encoder="made-up",
        fingerprint="",
        digest="",
        audio=audio[:, None],
        text=text[:, None],
        labels=labels,
        usable=torch.ones(len(rows), dtype=torch.bool),
        class_names=tuple(f"class {number}" for number in range(shape.n_classes)),
        templates=(BARE_TEMPLATE,),
        folds=tuple(Fold(rows[part != fold], rows[part == fold]) for fold in range(shape.n_folds)),
    )


def plain_loop(audio: Tensor, labels: Tensor, text: Tensor, seed: int, training: Training) -> Weights:
    """Train one run by hand, on unit clips (n_clips, dim) and unit text (n_classes, dim)."""
    generator = torch.Generator().manual_seed(seed)
    context = nn.Parameter((CONTEXT_STD * torch.randn(text.shape, generator=generator)).to(text))
    gate = nn.Parameter(torch.rand(len(text), generator=generator).to(text))
    optimiser = torch.optim.SGD([context, gate], lr=training.lr, momentum=training.momentum)
    data = TensorDataset(audio, labels)
    for _ in range(training.epochs):
        order = torch.randperm(len(labels), generator=generator).tolist()
        for clips, targets in DataLoader(data, batch_size=training.batch_size, sampler=order):
            trust = torch.sigmoid(gate)[:, None]
            mixed = normalize((1 - trust) * text + trust * context, dim=1)
            loss = cross_entropy(SCALE * clips @ mixed.T, targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {"context": context.detach(), "gate": gate.detach()}


def time_loop(features: Features, heads: list[FittedHead], training: Training) -> tuple[float, float]:
    """Train the runs of some heads by hand; return the fastest run's seconds and the largest difference."""
    text = text_of(features, BARE_TEMPLATE)
    seconds, difference = [], 0.0
    for head in heads:
        run = head.run
        rows = few_shot(features, fold=run.fold, shots=run.shots, seed=run.seed).train
        started = time.perf_counter()
        audio = normalize(features.audio[rows, 0], dim=1)
        weights = plain_loop(audio, features.labels[rows], text, run.seed, training)
        seconds.append(time.perf_counter() - started)
        for name, value in weights.items():
            difference = max(difference, float((value - head.state[name]).abs().max()))
    return min(seconds), difference


def time_ours(features: Features, params: FitParams, passes: int) -> tuple[float, list[FittedHead]]:
    """Fit all runs some times; return the fastest pass's seconds and the heads."""
    seconds = []
    for _ in range(passes):
        started = time.perf_counter()
        heads, _ = fit_runs(features, params)
        seconds.append(time.perf_counter() - started)
    return min(seconds), heads


def measure(
    shape: Shape, params: FitParams, *, threads: Sequence[int], passes: int, every_run: bool, dim: int = DIM
) -> Measured:
    """Time one dataset both ways and compare the weights.

    Parameters
    ----------
    threads : sequence of int
        Numbers of threads to try.
    passes : int
        How often palm-cache fits all runs.
    every_run : bool
        Let the loop train every run with the first number of threads, not those of the first fold alone.
    """
    features = make_features(shape, dim)
    loop, ours, difference = {}, {}, 0.0
    for number in threads:
        torch.set_num_threads(number)
        ours[number], heads = time_ours(features, params, passes)
        sample = heads if every_run and number == threads[0] else heads[: len(params.seeds)]
        fastest, apart = time_loop(features, sample, params.training)
        loop[number] = fastest * len(heads)
        difference = max(difference, apart)
    exact = replace(features, audio=features.audio.double(), text=features.text.double())
    one = replace(params, folds=(1,), seeds=params.seeds[:1])
    _, double = time_loop(exact, fit_runs(exact, one)[0], params.training)
    return Measured(shape, len(heads), loop, ours, difference, double)


def describe(name: str, measured: list[Measured]) -> str:
    """Return a line of the table, over one or more datasets."""
    n_runs = sum(one.n_runs for one in measured)
    loop, loop_threads = _best([one.loop for one in measured])
    ours, our_threads = _best([one.ours for one in measured])
    single, double = max(one.single for one in measured), max(one.double for one in measured)
    return (
        f"{name:15}{n_runs:6}{loop:9.2f} ({loop_threads}){ours:9.3f} ({our_threads}){loop / ours:8.1f}"
        f"{single:10.1e}{double:10.1e}"
    )


def _best(seconds: list[dict[int, float]]) -> tuple[float, int]:
    """Return the least sum of seconds, and with how many threads."""
    return min((sum(one[threads] for one in seconds), threads) for threads in seconds[0])


def main() -> None:
    """Measure every dataset and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the loop trains three runs of each dataset")
    parser.add_argument(
        "--threads", help="numbers of threads to try, comma-separated", default=f"1,{N_CORES}"
    )
    options = parser.parse_args()
    threads = sorted({int(number) for number in options.threads.split(",")})
    params = FitParams(heads=("palm",))
    print(f"torch {torch.__version__}, {N_CORES} cores, load {os.getloadavg()[0]:.1f}; in brackets: threads")
    print(f"{'dataset':15}{'runs':>6}{'loop s':>13}{'ours s':>13}{'ratio':>8}{'float32':>10}{'float64':>10}")
    measured = []
    for shape in SHAPES:
        one = measure(shape, params, threads=threads, passes=3, every_run=not options.quick)
        print(describe(shape.name, [one]), flush=True)
        measured.append(one)
    print(describe("all", measured))


if __name__ == "__main__":
    main()
