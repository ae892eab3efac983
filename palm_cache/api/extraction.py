"""Stage one from Python, and its result as arrays: ``extract`` and ``open_features``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from palm_cache.adaptation.fit import text_of
from palm_cache.adaptation.tasks import few_shot
from palm_cache.extraction.datasets.registry import identity_of, read_dataset
from palm_cache.extraction.extract import extract as extract_table
from palm_cache.extraction.prompts import Prompts
from palm_cache.params import Params, ReadingParams, Recipe, Resources
from palm_cache.retrieval.find import SearchResult, search
from palm_cache.store.features import FeatureStore
from palm_cache.store.find import address_of
from palm_cache.store.places import place
from palm_cache.types import BARE_TEMPLATE, AnyPlace, Place, Progress, no_progress

Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(train, test) row numbers, as scikit-learn's ``cv`` takes a list of."""


class OpenFeatures:
    """The content of a feature store as arrays; made by :func:`open_features`.

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
    """

    def __init__(self, store: Place, opened: FeatureStore) -> None:
        self._features = opened.read()
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

    def __repr__(self) -> str:
        n_clips, n_views, dim = self.audio.shape
        shape = f"{n_clips} clips x {n_views} view(s) x {dim}"
        counts = f"{len(self.class_names)} classes, {len(self.folds)} fold(s)"
        return f"<OpenFeatures {self.header.dataset}, {self.header.encoder}: {shape}, {counts}>"

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

    def few_shot(self, *, fold: int = 1, shots: int = 16, seed: int = 0) -> Split:
        """Draw training clips as ``palm-cache fit`` draws them.

        Parameters
        ----------
        fold : int
            Counted from 1.
        shots : int
            Clips per class; a class with fewer is taken whole.
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
        """
        task = few_shot(self._features, fold=fold, shots=shots, seed=seed)
        return task.train.numpy(), task.test.numpy()

    def search(self, **asked: Any) -> SearchResult:
        """Find rows of this store: see :func:`palm_cache.search`, which takes the same keywords."""
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
        for number, (train, test) in enumerate(self.folds, start=1):
            part = np.full(len(table), "", dtype=object)
            part[train] = "train"
            part[test] = np.where(part[test] == "train", "both", "test")
            table[f"fold{number}"] = part
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


def extract(
    dataset: AnyPlace,
    encoder: str = "mini",
    *,
    root: AnyPlace | None = None,
    store: AnyPlace | None = None,
    reading: ReadingParams | None = None,
    prompts: Prompts | None = None,
    recipe: Recipe | None = None,
    resources: Resources | None = None,
    progress: Progress = no_progress,
) -> OpenFeatures:
    """Embed every clip and class name of a dataset once, keep the result in a feature store and open it.

    Parameters
    ----------
    dataset : str or path
        A known name, or a folder with ``audios/``, ``train.csv`` and ``test.csv``.
    encoder : str
        ``mini``, ``clap:...`` or ``pengi:...``.
    root : path, optional
        Where a dataset known by name lies, or what the paths of a table are relative to.
    store : path, optional
        The store to write; ``data/features/<dataset>/<encoder>.zarr`` by default.
    reading : ReadingParams, optional
        How data of one's own is understood, split and cut.
    prompts : Prompts, optional
        What the text tower reads of every class: templates, and descriptions of classes.
    recipe : Recipe, optional
        Views, precision ...: what decides the numbers.
    resources : Resources, optional
        Device, batch size, processes, cache ...: what decides none.
    progress : callable
        Told what is done, how many are, and of how many.

    Raises
    ------
    PalmCacheError
        As ``palm-cache extract`` tells it: an unknown or malformed dataset, a stale store ...

    Examples
    --------
    >>> import palm_cache
    >>> palm_cache.extract("Tones")
    <OpenFeatures Tones, mini: 12 clips x 1 view(s) x 512, 2 classes, 1 fold(s)>
    """
    where_from = place(root) if root is not None else None
    table = read_dataset(str(dataset), where_from, reading=reading or ReadingParams())
    resources = resources or Resources()
    where = address_of(
        table.dataset,
        identity_of(table),
        encoder,
        features=place(Params().features),
        out=place(store) if store is not None else None,
        cache=resources.cache,
    )
    named = replace(table, dataset=where.dataset)
    extract_table(
        named, encoder, where.store, recipe, resources, prompts, cache=where.cache, progress=progress
    )
    return open_features(where.store)
