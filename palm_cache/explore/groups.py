"""What clips are coloured by where that is not their label: clusters, a head's answer, a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from palm_cache.errors import DataError, ParameterError, counted
from palm_cache.params.use import LoadingParams, MapParams
from palm_cache.retrieval.queries import ask_head, probabilities, text_query
from palm_cache.retrieval.ranking import nearest
from palm_cache.retrieval.stores import Stores
from palm_cache.store.nearby import heads_file
from palm_cache.store.run_names import run_name
from palm_cache.store.shared import open_head
from palm_cache.types import Features, Place

UNLABELLED = "without a label"

MAX_CLUSTERS = 12
"""Clusters that are made where nobody says how many: as many as colours and shapes can tell apart."""

FOUND = 50
"""Clips that a search colours."""


def group(features: Features, store: Place, by: MapParams, loading: LoadingParams) -> tuple[Features, str]:
    """Put groups in the place of labels; stores without labels are grouped by clusters.

    Returns
    -------
    features : Features
        Its labels and class names are those of the groups; unlabelled clips are a group of their own.
    caption : str
        What the groups are, in words; "" if they are the labels.

    Raises
    ------
    ParameterError
        If there are more clusters than clips.
    PalmCacheError
        As a search raises.
    """
    usable = np.flatnonzero(features.usable.numpy())
    if by.head is not None:
        head = open_head(heads_file(by.head), by.run).head
        scorer = ask_head(Stores([store]), head, loading)
        likeliest = probabilities(scorer, features.audio[usable].numpy()).argmax(axis=1)
        return _regrouped(features, usable, likeliest, head.class_names), f"what {run_name(head.run)} says"
    if by.text is not None:
        query = text_query(Stores([store]), by.text, loading)
        nearby = nearest(features.audio.numpy(), query, FOUND, among=features.usable.numpy()).rows
        names = (f"like {by.text!r}", "others")
        caption = f"the {counted(len(nearby), 'clip')} nearest to {by.text!r}, and the others"
        return _regrouped(features, usable, (~np.isin(usable, nearby)).astype(int), names), caption
    if by.clusters or not (features.labels >= 0).any():
        count = by.clusters or min(MAX_CLUSTERS, max(1, len(usable) // 5))
        return _regrouped(
            features, usable, *_clusters(features, usable, count)
        ), f"{counted(count, 'cluster')} of embeddings"
    return with_unlabelled(features), ""


def with_unlabelled(features: Features) -> Features:
    """Make unlabelled clips a class of their own, the last."""
    if not (features.labels < 0).any():
        return features
    labels = torch.where(features.labels < 0, len(features.class_names), features.labels)
    return _named(features, labels, (*features.class_names, UNLABELLED))


def _clusters(
    features: Features, usable: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Return the cluster of every usable clip, the largest first."""
    if count > len(usable):
        raise ParameterError(
            f"`clusters`: {count} of {counted(len(usable), 'clip')}; choose from 1 to their number"
        )
    directions = normalize(features.audio[usable, 0].numpy())
    with threadpool_limits(1):  # sums depend on the number of threads in the last bit
        cluster = KMeans(count, n_init=3, random_state=0).fit_predict(directions)
    by_size = np.argsort(-np.bincount(cluster, minlength=count), kind="stable")
    rank = np.empty(count, np.int64)
    rank[by_size] = np.arange(count)
    return rank[cluster], [f"cluster {number + 1}" for number in range(count)]


def _regrouped(
    features: Features, usable: NDArray[np.int64], groups: NDArray[np.integer], names: Sequence[str]
) -> Features:
    if not len(usable):
        raise DataError(f"{features.dataset}: no clip has an embedding")
    labels = torch.zeros(len(features.labels), dtype=torch.int64)
    labels[torch.from_numpy(usable)] = torch.from_numpy(np.asarray(groups, np.int64))
    return _named(features, labels, tuple(names))


def _named(features: Features, labels: torch.Tensor, names: tuple[str, ...]) -> Features:
    text = torch.zeros(len(names), 0, features.audio.shape[2])
    return replace(features, labels=labels, class_names=names, templates=(), text=text)
