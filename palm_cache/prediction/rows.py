"""Every row of feature stores at once: no encoder is needed, and a row takes microseconds."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from palm_cache.adaptation.scorer import Scorer
from palm_cache.errors import ParameterError, StaleStoreError, StoreError
from palm_cache.params.use import LoadingParams
from palm_cache.prediction.answers import Answer, Failure
from palm_cache.retrieval.queries import ask_head, probabilities
from palm_cache.retrieval.stores import Stores
from palm_cache.store.atomic import replacing
from palm_cache.store.features import FeatureStore
from palm_cache.store.join import read_features
from palm_cache.store.outputs import PARQUET
from palm_cache.store.run_names import run_name
from palm_cache.store.shared import open_head
from palm_cache.types import Place
from palm_cache.types.runs import FittedHead


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """What a head says about every row of some stores, or about recordings, in their order."""

    head: FittedHead
    rows: pd.DataFrame
    """``path`` (of a row inside its dataset, of several datasets with its name before it), ``start`` and
    ``end`` in seconds (an end of NaN is the file's), ``error`` (why nothing can be said of it, else "")."""
    probabilities: NDArray[np.float64]
    """(rows, n_classes); NaN for silence and for rows without an embedding."""
    over_time: bool
    """Whether rows are stretches of files."""

    def results(self) -> Iterator[Answer | Failure]:
        """Yield the rows as results of a prediction."""
        rows = self.rows[["path", "start", "end", "error"]].itertuples(index=False)
        for (path, start, end, error), shares in zip(rows, torch.from_numpy(self.probabilities), strict=True):
            yield Failure(path, error) if error else Answer(path, shares, start, end)

    def table(self, threshold: float = 0.0) -> pd.DataFrame:
        """Return ``path``, ``label``, ``probability`` and ``error``; of stretches ``start`` and ``end`` too.

        Parameters
        ----------
        threshold : float
            Probability below which no class is named.
        """
        known = np.asarray(~np.isnan(self.probabilities).any(axis=1))
        first = np.where(known[:, None], self.probabilities, 0).argmax(axis=1)
        likeliest = self.probabilities[np.arange(len(first)), first]
        named = known & (likeliest >= threshold)
        labels = np.array(self.head.class_names, dtype=object)[first]
        labels[~named] = None
        told = self.rows.assign(label=labels, probability=np.where(named, likeliest, np.nan))
        times = ["start", "end"] if self.over_time else []
        return told[["path", *times, "label", "probability", "error"]]


def score_rows(
    heads: Path, stores: Sequence[Place], run: str | None = None, loading: LoadingParams | None = None
) -> ScoredRows:
    """Score every row of some feature stores.

    Parameters
    ----------
    heads : Path
        The heads file.
    stores : sequence of Place
        Made alike, by the encoder of the head. For a head on the joined features of several encoders a
        store of each, of one dataset or of several.
    run : str, optional
        See :func:`~palm_cache.store.heads.chosen_run`.
    loading : LoadingParams, optional
        For heads that look at every row through the text tower.

    Raises
    ------
    StoreError, UnknownNameError
        If there are no such heads or stores, or a store is missing that a joined head needs.
    StaleStoreError
        If the stores were not made as the head's features were.
    """
    head = open_head(heads, run).head
    if "+" in head.run.encoder:
        groups = _of_encoders(head, stores)
        opened = [FeatureStore(of_encoders[0]) for of_encoders in groups]
        shares = [_score_joined(head, of_encoders) for of_encoders in groups]
    else:
        several = Stores(stores)
        opened, scorer = several.stores, ask_head(several, head, loading or LoadingParams())
        scored = np.concatenate([probabilities(scorer, several.audio(span)) for span in several.spans()])
        scored[~several.usable] = np.nan
        shares = np.split(scored, np.cumsum([store.n_clips for store in opened])[:-1])
    rows = pd.concat([_described(*part) for part in zip(opened, shares, strict=True)], ignore_index=True)
    if len(opened) > 1:
        datasets = np.repeat([store.header.dataset for store in opened], list(map(len, shares)))
        rows["path"] = pd.Series(datasets) + "/" + rows["path"]
    over_time = bool((rows["start"] > 0).any() or rows["end"].notna().any())
    return ScoredRows(head, rows, np.concatenate(shares), over_time)


def _described(store: FeatureStore, shares: NDArray[np.float64]) -> pd.DataFrame:
    """Return the rows of a store as :class:`ScoredRows` has them, without the dataset's name."""
    unknown = np.flatnonzero(np.isnan(shares).any(axis=1)).tolist()
    errors = dict.fromkeys(unknown, "no embedding of it in the other encoder's store") | store.errors()
    start, end = store.stretches()
    error = [errors.get(row, "") for row in range(store.n_clips)]
    return pd.DataFrame({"path": store.clip_names(), "start": start, "end": end, "error": error})


def _of_encoders(head: FittedHead, stores: Sequence[Place]) -> list[list[Place]]:
    """Return for every dataset the stores of the head's encoders, in their order."""
    specs = head.run.encoder.split("+")
    datasets: dict[str, dict[str, Place]] = {}
    for store in stores:
        header = FeatureStore(store).header
        given = datasets.setdefault(header.dataset, {})
        twin = given.setdefault(header.encoder, store)
        if twin != store:
            raise StoreError(
                f"{twin} and {store} are both of {header.dataset} and {header.encoder}; give one of them"
            )
    for dataset, given in datasets.items():
        if set(given) != set(specs):
            raise StoreError(
                f"run {run_name(head.run)} reads the joined features of {' and '.join(specs)}: give a "
                f"store of each with `store`; of {dataset} there are those of {', '.join(sorted(given))}"
            )
    return [[given[spec] for spec in specs] for given in datasets.values()]


def _score_joined(head: FittedHead, stores: Sequence[Place]) -> NDArray[np.float64]:
    """Score the rows of a dataset by the stores of all encoders, (rows, n_classes)."""
    features = read_features(stores)
    if features.fingerprint != head.fingerprint:
        raise StaleStoreError(
            f"run {run_name(head.run)} was fitted on embeddings of other versions or options than those of "
            f"{', '.join(map(str, stores))}; extract both alike"
        )
    scorer = Scorer(head, features.audio.shape[2])
    shares = np.concatenate(
        [probabilities(scorer, block.numpy()) for block in torch.split(features.audio, 4096)]
    )
    shares[~features.usable.numpy()] = np.nan
    return shares


def write_parquet(table: pd.DataFrame, file: Path) -> None:
    """Write a table as Parquet, whole or not at all.

    Raises
    ------
    ParameterError
        If pyarrow is not installed.
    OutputError
        If it cannot be written, or another file is there.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ParameterError(f"{file}: Parquet needs pyarrow: pip install 'palm-cache[parquet]'; or `csv`")
    with replacing(file, "parquet", PARQUET) as temporary:
        table.to_parquet(temporary, engine="pyarrow", index=False)
