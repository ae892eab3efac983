"""Several feature stores of one recipe as one table of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import ParameterError, StaleStoreError, StoreError, UnknownNameError, counted
from palm_cache.params.use import RowFilter
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import StoreHeader
from palm_cache.types import Place


class Stores:
    """Feature stores of one recipe; their rows are numbered through, the first store's first.

    Parameters
    ----------
    places : sequence of Place
        At least one; one that is given twice is read once.

    Raises
    ------
    StoreError
        If there is no store, or two of one dataset hold the same rows.
    StaleStoreError
        If they were made by different recipes: their embeddings cannot be compared.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        distinct: dict[Place, Place] = {}
        for place in places:
            distinct.setdefault(place.resolve() if isinstance(place, Path) else place, place)
        self.stores = [FeatureStore(place) for place in distinct.values()]
        first = self.stores[0]
        for other in self.stores[1:]:
            if other.header.fingerprint != first.header.fingerprint:
                why = other.header.stale(first.header.recipe) or "another version made it"
                raise StaleStoreError(
                    f"{other.path} and {first.path} were not made alike ({why}), so their embeddings "
                    "cannot be compared; extract both with one encoder and the same options"
                )
        _check_apart(self.stores)
        counts = [store.n_clips for store in self.stores]
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    @property
    def header(self) -> StoreHeader:
        """The first store's: what decides an embedding is the same in all."""
        return self.stores[0].header

    @property
    def n_clips(self) -> int:
        """Rows of all stores."""
        return int(self._starts[-1])

    def audio(self, rows: slice) -> NDArray[np.float32]:
        """Return the embeddings of rows, (rows, views, dim)."""
        parts = [
            store.audio(slice(max(rows.start - start, 0), rows.stop - start))
            for store, start in zip(self.stores, self._starts.tolist(), strict=False)
            if rows.start < start + store.n_clips and rows.stop > start
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def spans(self) -> list[slice]:
        """Return rows that are read together at least cost."""
        return [
            slice(start + span.start, start + span.stop)
            for store, start in zip(self.stores, self._starts.tolist(), strict=False)
            for span in store.spans()
        ]

    def origins(self, rows: NDArray[np.int64]) -> Iterator[tuple[FeatureStore, NDArray[np.int64]]]:
        """Yield the stores of some rows, and for each where in ``rows`` those of it stand."""
        number = np.searchsorted(self._starts, rows, side="right") - 1
        for of_store in np.unique(number).tolist():
            yield self.stores[of_store], np.flatnonzero(number == of_store)

    def number(self, store: FeatureStore, row: int) -> int:
        """Return the number of a store's row among all."""
        return int(self._starts[self.stores.index(store)]) + row

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Of all stores, sorted."""
        return tuple(sorted({name for store in self.stores for name in store.header.class_names}))

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """False for rows without an embedding, (rows,)."""
        usable = np.ones(self.n_clips, bool)
        for store, start in zip(self.stores, self._starts.tolist(), strict=False):
            usable[[start + row for row in store.errors()]] = False
        return usable

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Index into :attr:`class_names`, -1 for rows without a label, (rows,)."""
        number = {name: place for place, name in enumerate(self.class_names)}
        return np.concatenate(
            [
                np.array([*(number[name] for name in store.header.class_names), -1])[store.labels().numpy()]
                for store in self.stores
            ]
        )

    def among(self, rows: RowFilter) -> NDArray[np.bool_]:
        """Return which rows have an embedding and pass a filter, (rows,).

        Raises
        ------
        UnknownNameError
            If a class or dataset does not exist.
        ParameterError
            If nothing passes.
        """
        _check(rows.labels, self.class_names, "class")
        _check(rows.datasets, {store.header.dataset for store in self.stores}, "dataset")
        kept = self.usable.copy()
        if rows.labels:
            kept &= np.isin(self.labels, [self.class_names.index(name) for name in rows.labels])
        if rows.unlabelled:
            kept &= self.labels < 0
        if rows.datasets:
            kept &= self._each(lambda store: np.full(store.n_clips, store.header.dataset in rows.datasets))
        if rows.path:
            kept &= self._each(lambda store: _fits(store.clip_names(), rows.path))
        if not kept.any():
            raise ParameterError(
                f"none of {self.n_clips:,} rows has an embedding and passes what was asked for; ask for less"
            )
        return kept

    def _each(self, choose: Callable[[FeatureStore], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        return np.concatenate([choose(store) for store in self.stores])


def _check_apart(stores: Sequence[FeatureStore]) -> None:
    """Refuse two stores that hold rows of one dataset twice: each of these rows would count twice."""
    for dataset, count in Counter(store.header.dataset for store in stores).items():
        if count == 1:
            continue
        alike = [(store, _sounds(store)) for store in stores if store.header.dataset == dataset]
        for (first, ours), (second, theirs) in combinations(alike, 2):
            shared = np.intersect1d(ours, theirs, assume_unique=True)
            if len(shared):
                raise StoreError(
                    f"{first.path} and {second.path} hold {counted(len(shared), 'row')} of {dataset} twice; "
                    "give one of them"
                )


def _sounds(store: FeatureStore) -> NDArray[np.void]:
    """Return what tells rows apart by their sound, sorted; files that could not be read have none."""
    keys = store.row_keys()[store.contents().any(axis=1)]
    return np.unique(np.ascontiguousarray(keys).view("V32").ravel())


def _fits(names: Iterable[str], pattern: str) -> NDArray[np.bool_]:
    return np.array([fnmatchcase(name, pattern) for name in names], bool)


def _check(given: Iterable[str], known: Iterable[str], kind: str) -> None:
    for name in given:
        if name not in known:
            raise UnknownNameError.among(kind, name, sorted(known))
