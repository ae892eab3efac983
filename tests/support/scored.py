"""Scores and predictions of two heads on a dataset of two classes, made up."""

from __future__ import annotations

import pandas as pd
import torch

from palm_cache.store.scores import COLUMNS, RunPrediction


def scores_table(dataset: str = "demo") -> pd.DataFrame:
    rows = []
    for head, shots, seeds in (("zero-shot", 0, (0,)), ("palm", 4, (0, 1, 2)), ("palm", 16, (0, 1, 2))):
        for fold in (1, 2):
            for seed in seeds:
                accuracy = 0.5 + 0.01 * shots + 0.1 * fold + 0.03 * seed
                rows.append(
                    {
                        **dict.fromkeys(COLUMNS, 0),
                        "dataset": dataset,
                        "encoder": "mini",
                        "head": head,
                        "shots": shots,
                        "fold": fold,
                        "seed": seed,
                        "variant": "",
                        "n_test": 80,
                        "accuracy": accuracy,
                        "macro_f1": accuracy - 0.05,
                        "hyperparameters": "{}",
                        "fingerprint": "f" * 64,
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def predictions(dataset: str = "demo", class_names: tuple[str, ...] = ("dog", "cat")) -> list[RunPrediction]:
    """Make predictions for every run of :func:`scores_table`; PALM is mostly right, zero-shot a coin."""
    made = []
    for run in scores_table(dataset).itertuples():
        generator = torch.Generator().manual_seed(1000 * run.fold + run.seed)
        labels = torch.arange(80) % len(class_names)
        logits = torch.randn(80, len(class_names), generator=generator)
        if run.head == "palm":
            logits += torch.nn.functional.one_hot(labels, len(class_names)) * run.shots / 4
        name = f"{run.head}-{run.shots}shots-fold{run.fold}-seed{run.seed}"
        made.append(RunPrediction(dataset, run.encoder, name, torch.arange(80), labels, logits, class_names))
    return made
