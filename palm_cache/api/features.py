"""What a feature store holds, from Python, as arrays: ``open_features``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from palm_cache.adaptation.fit import text_of
from palm_cache.adaptation.tasks import few_shot
from palm_cache.errors import counted, naming
from palm_cache.params import FitParams
from palm_cache.store.features import FeatureStore, fold_parts
from palm_cache.store.places import place
from palm_cache.types import BARE_TEMPLATE, AnyPlace, Place
from palm_cache.types.runs import parse_shots

if TYPE_CHECKING:
    from palm_cache.retrieval.find import SearchResult

Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(train, test) row numbers, as scikit-learn's ``cv`` takes a list of."""


class OpenFeatures:
    """The content of a feature store as arrays; made by :func:`open_features`.

    It stands for its store wherever one is asked for.

    Attributes
    ----------
    store : Place
    header : StoreHeader
        How the embeddings were made: encoder, fingerprint, sample rate ...
    audio : array, shape (n_clips, n_views, dim)
        float32, as the encoder gave them: not normalised. Zeros where a clip could not be embedded.
    labels : array, shape (n_clips,)
        int64 index into ``class_names``; -1 is unlabelled.
    class_names : tuple of str
        Sorted.
    paths : tuple of str
        Of every clip inside its dataset.
    start, end : array, shape (n_clips,)
        Seconds of the file that a row is; an end of NaN is the file's.
    content_sha256, errors : tuple of str
        Of every clip; ``errors`` says why it could not be embedded, ``""`` if it could.
    folds : tuple of Split
        The dataset's own (train, test) rows, fold 1 first; clips without an embedding are among them.
    notes : tuple of str
        What :func:`palm_cache.extract` noticed: how the dataset was read, what was left out ...
    """

    def __init__(self, store: Place, opened: FeatureStore, notes: Iterable[str] = ()) -> None:
        self._features = opened.read()
        self.notes = tuple(map(naming, notes))
        self.store = store
        self.header = opened.header
        self.audio: NDArray[np.float32] = self._features.audio.numpy()
        self.labels: NDArray[np.int64] = self._features.labels.numpy()
        self.class_names = self._features.class_names
        self.paths = tuple(opened.clip_names())
        self.content_sha256 = tuple(opened.content_hashes())
        errors = opened.errors()
        self.errors = tuple(errors.get(row, "") for row in range(opened.n_clips))
        self.start, self.end = opened.stretches()
        self.folds: tuple[Split, ...] = tuple(
            (fold.train.numpy(), fold.test.numpy()) for fold in self._features.folds
        )

    def __fspath__(self) -> str:
        return str(self.store)

    def __repr__(self) -> str:
        n_clips, n_views, dim = self.audio.shape
        shape = f"{counted(n_clips, 'clip')} x {counted(n_views, 'view')} x {dim}"
        counts = f"{counted(len(self.class_names), 'class', 'classes')}, {counted(len(self.folds), 'fold')}"
        failed = sum(map(bool, self.errors))
        without = f", {counted(failed, 'clip')} without an embedding" if failed else ""
        line = f"<OpenFeatures {self.header.dataset}, {self.header.encoder}: {shape}, {counts}{without}>"
        return "\n".join([line, *(f"note: {note}" for note in self.notes)])

    @property
    def centre(self) -> NDArray[np.float32]:
        """View 0 of every clip, its centre crop, (n_clips, dim): what the estimators take."""
        return self.audio[:, 0]

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompt templates that :meth:`text` knows."""
        return self._features.templates

    def text(self, template: str = BARE_TEMPLATE) -> NDArray[np.float32]:
        """Return the unit text embedding of every class in one prompt template, (n_classes, dim).

        ``all`` is the mean of all templates, ``descriptions`` that of every class's descriptions.

        Raises
        ------
        UnknownNameError
            If the store does not hold the template.
        """
        return np.asarray(text_of(self._features, template).numpy())

    def few_shot(self, *, fold: int = 1, shots: int | Literal["all"] = 16, seed: int = 0) -> Split:
        """Draw training clips as ``palm-cache fit`` draws them.

        Parameters
        ----------
        fold : int
            Counted from 1.
        shots : int or "all"
            Clips per class; a class with fewer is taken whole, ``"all"`` takes every training clip.
        seed : int

        Returns
        -------
        train, test : array
            Row numbers: the drawn clips, in the order in which heads see them, and all usable test clips of
            the fold. ``[features.few_shot(fold=fold) for fold in (1, 2, 3)]`` is a ``cv`` of scikit-learn.

        Raises
        ------
        DataError
            If the fold does not exist, or nothing can be drawn from it.
        ParameterError
            If a number makes no sense.
        """
        (number,) = FitParams(shots=(shots,), seeds=(seed,), folds=(fold,)).shots
        task = few_shot(self._features, fold=fold, shots=parse_shots(str(number)), seed=seed)
        return task.train.numpy(), task.test.numpy()

    def search(self, **asked: Any) -> SearchResult:
        """Find rows of this store: see :func:`palm_cache.search`, which takes the same keywords."""
        from palm_cache.retrieval.find import search

        return search(self.store, **asked)

    def to_pandas(self, *, embeddings: bool = False) -> pd.DataFrame:
        """Return one row per clip.

        Parameters
        ----------
        embeddings : bool
            Add the embedding of view 0, a column per number: ``0``, ``1`` ...

        Returns
        -------
        DataFrame
            ``path``, ``start``, ``end``, ``class_name``, ``label``, ``content_sha256``, ``error`` and for
            every fold K ``foldK``: ``train``, ``test``, ``both`` or ``""``.
        """
        table = pd.DataFrame(
            {
                "path": self.paths,
                "start": self.start,
                "end": self.end,
                "class_name": np.array([*self.class_names, None], dtype=object)[self.labels],
                "label": self.labels,
                "content_sha256": self.content_sha256,
                "error": self.errors,
            }
        )
        for number, fold in enumerate(self._features.folds, start=1):
            table[f"fold{number}"] = pd.Series(fold_parts(fold, len(table))).fillna("")
        if not embeddings:
            return table
        numbers = pd.DataFrame(self.centre, columns=[str(place) for place in range(self.centre.shape[1])])
        return pd.concat([table, numbers], axis=1)


def open_features(store: AnyPlace) -> OpenFeatures:
    """Open a feature store that has been extracted.

    Raises
    ------
    StoreError
        If there is none.
    DamagedStoreError
        If bytes are missing or fail their checksum.

    Examples
    --------
    >>> import palm_cache
    >>> features = palm_cache.open_features("data/features/demo/mini.zarr")
    >>> features.audio.shape[0] == len(features.labels) == len(features.paths)
    True
    >>> list(features.to_pandas().columns[:3])
    ['path', 'start', 'end']
    """
    where = place(store)
    return OpenFeatures(where, FeatureStore(where))
