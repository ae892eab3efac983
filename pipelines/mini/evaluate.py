"""Measure ``mini``: ``python -m pipelines.mini.evaluate --dataset demo --root data/raw/demo``.

Zero-shot with every template and with shuffled class names, PALM at a few shots, and the same clips
as plain log-mel statistics, without anything learned. The measured sounds are never trained on.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.prompt_study import score_prompts
from palm_cache.adaptation.tasks import few_shot
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.encoders.mini import WEIGHTS, MiniEncoder
from palm_cache.extraction.encoders.mini_towers import CNN_DIM, clip_statistics, log_mel
from palm_cache.extraction.reading import CuttingRule, read_file
from palm_cache.params import FitParams, Recipe
from palm_cache.types import ALL_TEMPLATES, TEMPLATES, ClipTable, Features

SEEDS = (0, 1, 2)


def embed(encoder: MiniEncoder, table: ClipTable) -> tuple[Features, Tensor]:
    """Embed a dataset in memory, and take the plain statistics of the same windows.

    Returns
    -------
    features : Features
    statistics : Tensor, shape (n_clips, N_STATISTICS)
    """
    audio = torch.zeros(len(table.clips), 1, encoder.dim)
    statistics = torch.zeros(len(table.clips), encoder.towers.audio.projection.shape[0])
    usable, cut = torch.ones(len(table.clips), dtype=torch.bool), CuttingRule.of(encoder, Recipe())
    for row, clip in enumerate(table.clips):
        (piece,) = read_file([(row, clip)], cut)
        if piece.error:
            usable[row] = False
            print(f"{clip.name}: {piece.error}")
            continue
        windows = cut_windows(piece.stretches[0], encoder.window)[None]
        audio[row] = encoder.embed_audio(windows)
        statistics[row] = clip_statistics(log_mel(encoder.towers.front_end(windows)))[0]
    prompts = [template.replace("{c}", name) for name in table.class_names for template in TEMPLATES]
    text = encoder.embed_text(prompts).view(len(table.class_names), len(TEMPLATES), -1)
    labels = torch.tensor([clip.label for clip in table.clips])
    return Features(
        table.dataset, "mini", "", "", audio, text, labels, usable, table.class_names, TEMPLATES, table.folds
    ), statistics


def accuracy(features: Features, head: str, shots: int = 1) -> tuple[float, float]:
    """Return a head's accuracy, folds averaged first: mean and standard deviation over seeds."""
    params = FitParams(heads=(head,), shots=(shots,), seeds=SEEDS, template=TEMPLATES[1])
    heads, _ = fit_runs(features, params)
    scored = pd.DataFrame([evaluate_head(features, fitted)[0] for fitted in heads])
    means = scored.groupby("seed")["accuracy"].mean()
    # A head that learns nothing has one seed.
    return float(means.mean()), float(means.std()) if len(means) > 1 else 0.0


def shuffled_accuracy(features: Features) -> float:
    """Return zero-shot accuracy with wrong names: every shift of the classes against their names."""
    n_classes = len(features.class_names)
    shifts = [np.roll(np.arange(n_classes), shift) for shift in range(1, n_classes)]
    return float(
        np.mean([accuracy(replace(features, text=features.text[shift]), "zero-shot")[0] for shift in shifts])
    )


def regression_accuracy(features: Features, inputs: Tensor, shots: int) -> tuple[float, float]:
    """Return the accuracy of logistic regression on the clips that PALM would learn from."""
    seeds = []
    for seed in SEEDS:
        folds = []
        for fold in range(1, len(features.folds) + 1):
            task = few_shot(features, fold=fold, shots=shots, seed=seed)
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            model.fit(inputs[task.train].numpy(), features.labels[task.train].numpy())
            folds.append(model.score(inputs[task.test].numpy(), features.labels[task.test].numpy()))
        seeds.append(np.mean(folds))
    return float(np.mean(seeds)), float(np.std(seeds, ddof=1))


def clips_per_second(encoder: MiniEncoder, clips: int = 256, batch: int = 16) -> float:
    """Return how many clips of 3 s are embedded in a second on one thread, decoding not counted."""
    torch.set_num_threads(1)
    waveforms = torch.randn(batch, 2, encoder.window.samples)
    encoder.embed_audio(waveforms)
    start = time.perf_counter()
    for _ in range(clips // batch):
        encoder.embed_audio(waveforms)
    return clips / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="demo", help="known name, or a folder in the PALM layout")
    parser.add_argument("--root", type=Path, help="where a known dataset lies")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = MiniEncoder.load(weights=options.weights)
    features, statistics = embed(encoder, read_dataset(options.dataset, options.root))
    scores = pd.DataFrame(score_prompts(features)).groupby("template", sort=False)["accuracy"].mean()
    by_template = scores.drop(ALL_TEMPLATES)
    for template, value in by_template.items():
        print(f"zero-shot {value:.3f}  {template!r}")
    print(f"zero-shot {by_template.mean():.3f}  mean over templates, worst {by_template.min():.3f}")
    print(f"zero-shot {shuffled_accuracy(features):.3f}  with shuffled class names")
    plain = replace(features, audio=features.audio[..., CNN_DIM:], text=features.text[..., CNN_DIM:])
    for shots in options.shots:
        ways = {
            "PALM": accuracy(features, "palm", shots),
            "regression": regression_accuracy(features, features.audio[:, 0], shots),
            "PALM on projected statistics": accuracy(plain, "palm", shots),
            "regression on statistics": regression_accuracy(features, statistics, shots),
        }
        print(
            f"{shots:2d} shots:",
            "; ".join(f"{way} {mean:.3f} +- {std:.3f}" for way, (mean, std) in ways.items()),
        )
    print(f"{clips_per_second(encoder):.0f} clips of 3 s per second on one thread")


if __name__ == "__main__":
    main()
