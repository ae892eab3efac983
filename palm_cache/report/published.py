"""What the PALM paper reports, to stand beside our own numbers.

Facts from Hanif et al., EMNLP 2024, arXiv:2409.19806, and the authors' published logs: PENGI, 16 shots, seeds
0 to 2, encoders in training mode; see ``paper/README.md``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

SHOTS = 16
"""Clips per class in the paper's tables."""

SOURCE = "Hanif et al., EMNLP 2024, arXiv:2409.19806, and the authors' logs: PENGI, 16 shots, training mode"

PARAMETERS = {"palm": 12_393, "cocoop": 98_880}
"""Table 3: PALM's is the mean over the eleven datasets; COCOOP's counts the network without the context."""


def results() -> pd.DataFrame:
    """Return every published run: head, dataset, fold, seed, accuracy, macro F1, precision, recall, loss."""
    return _read("results.csv")


def datasets() -> pd.DataFrame:
    """Return per dataset and fold: n_classes, n_train (16 shots), n_test."""
    return _read("datasets.csv")


def figures() -> pd.DataFrame:
    """Return the accuracies printed on figures: figure, dataset, series, accuracy."""
    return _read("figures.csv")


def claims() -> pd.DataFrame:
    """Return what later papers report: method, head, encoders, dataset, accuracy (%), source.

    ``dataset`` is empty for the mean over all eleven, ``head`` where none of ours comes near. They were taken
    from digests and are unverified.
    """
    return _read("claims.csv")


@cache
def names() -> tuple[str, ...]:
    """Return the names of the paper's eleven datasets."""
    return tuple(datasets()["dataset"].unique())


def _read(name: str) -> pd.DataFrame:
    with files("palm_cache.report").joinpath("paper", name).open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False)
