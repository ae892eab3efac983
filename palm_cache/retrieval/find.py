"""The verb ``search``: rows of feature stores by text, by example, by a fitted head, or unlike the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from palm_cache.errors import ParameterError, UnknownNameError
from palm_cache.extraction.whereabouts import locate
from palm_cache.params import CLIP_TOKENIZER
from palm_cache.params.use import ROWS_FOUND, LoadingParams, RowFilter, SearchParams, Uncertainty
from palm_cache.retrieval.queries import ask_head, file_query, probabilities, row_query, text_query
from palm_cache.retrieval.ranking import Ranking, diverse, highest, nearest, uncertainty
from palm_cache.retrieval.sounds import sounds_folder
from palm_cache.retrieval.stores import Stores
from palm_cache.store.nearby import heads_file
from palm_cache.store.places import as_places
from palm_cache.store.run_names import run_name
from palm_cache.store.shared import open_head
from palm_cache.types import AnyPath, AnyPlace, Place

COLUMNS = ("score", "dataset", "row", "path", "start", "end", "label", "note")

GONE = "no such file now"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What :func:`search` found."""

    table: pd.DataFrame
    """Rows, the best first: ``score``, ``dataset``, ``row`` (its number in its store), ``path``, ``start``
    and ``end`` in seconds (a missing end is the file's), ``label`` (missing where there is none) and
    ``note``, which says so where the file is gone since extraction."""
    query: str
    """What was looked for, in words."""
    measure: str
    """What the score is: ``cosine``, ``probability``, ``doubt`` or ``distance``."""
    files: tuple[Place | None, ...]
    """Where the file of every row lies; ``None`` where it is gone."""
    remarks: tuple[str, ...] = ()
    """What should be known."""

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of the table, with ``None`` for what is missing."""
        rows = self.table.to_dict("records")
        return [{str(name): None if value != value else value for name, value in row.items()} for row in rows]


def search(
    stores: AnyPlace | Sequence[AnyPlace],
    *,
    text: str | None = None,
    like: AnyPath | None = None,
    row: int | str | None = None,
    head: AnyPath | None = None,
    class_name: str | None = None,
    uncertain: bool = False,
    by: Uncertainty | None = None,
    diverse: bool = False,
    k: int = ROWS_FOUND,
    labels: str | Sequence[str] = (),
    unlabelled: bool = False,
    path: str = "",
    datasets: str | Sequence[str] = (),
    run: str | None = None,
    audio: AnyPlace | None = None,
    encoder: str | None = None,
    device: str = "auto",
    tokenizer: str = CLIP_TOKENIZER,
    trust_remote_code: bool = False,
) -> SearchResult:
    """Find rows of feature stores: exactly, and in memory that does not grow with their number.

    One of ``text``, ``like``, ``row``, ``head`` and ``diverse`` says what is looked for.

    Parameters
    ----------
    stores : path or several
        Of one encoder and the same options.
    text : str
        What is to be heard: its cosine with a row counts, averaged over the stores' prompt templates.
    like : path
        A sound file, or a stretch of it: ``"night.flac@12.5-15"``.
    row : int or str
        A row of the store; of several stores ``"DATASET:12"``.
    head : path
        A ``heads.h5``, with ``class_name`` for the rows that are most probably of that class, or with
        ``uncertain`` for those that it is most in doubt about.
    by : str
        How doubt is measured: ``"margin"``, the default, or ``"entropy"``.
    diverse : bool
        Rows without a label, each as far as can be from all that have one and from those before it.
    k : int
        How many, at most.
    labels, unlabelled, path, datasets
        Only rows of these classes; without a label; whose path fits a pattern; of these datasets.
    run : str, optional
        A run of ``head``, by its name or the beginning of it.
    audio : path, optional
        Where the dataset's files lie now, if not where they lay.
    encoder : str, optional
        Where the encoder's weights lie now; a text, a file and some heads need them.
    device, tokenizer : str
        Of the encoder.
    trust_remote_code : bool
        Run again the code that lies with an ``hf:`` model and that embedded before.

    Raises
    ------
    PalmCacheError
        As ``palm-cache search`` tells it: stores that cannot be compared, an encoder without text, a stretch
        past the end of its file, an unknown class ...

    Examples
    --------
    >>> import palm_cache
    >>> features = palm_cache.extract("Tones")
    >>> found = palm_cache.search(features.store, row=0, k=3)
    >>> found.table["label"].tolist()
    ['low tone', 'low tone', 'low tone']
    """
    params = SearchParams(
        text=text,
        like=None if like is None else str(like),
        row=None if row is None else str(row),
        head=None if head is None else str(head),
        class_name=class_name,
        uncertain=uncertain,
        by=by,
        run=run,
        diverse=diverse,
        k=k,
    )
    rows = RowFilter(labels, unlabelled, path, datasets)  # type: ignore[arg-type]
    loading = LoadingParams(encoder, device, tokenizer, trust_remote_code)
    opened, folder = Stores(as_places(stores)), sounds_folder(audio)
    remarks: tuple[str, ...] = ()
    if diverse:
        ranking, query, measure = _diverse(opened, rows, k), "unlike all that is labelled", "distance"
    elif params.head is not None:
        ranking, query, measure = _by_head(opened, rows, params, params.head, loading)
    else:
        ranking, query, remarks = _like_an_example(opened, rows, params, loading)
        measure = "cosine"
    table, files = describe(opened, ranking, folder)
    return SearchResult(table, query, measure, files, remarks)


def _like_an_example(
    stores: Stores, rows: RowFilter, params: SearchParams, loading: LoadingParams
) -> tuple[Ranking, str, tuple[str, ...]]:
    among = stores.among(rows)
    remarks: tuple[str, ...] = ()
    if params.text is not None:
        vector, query = text_query(stores, params.text, loading), f"text: {params.text}"
    elif params.like is not None:
        vector, remarks = file_query(stores, params.like, loading)
        query = f"like {params.like}"
    else:
        assert params.row is not None
        vector, itself = row_query(stores, params.row)
        among[itself] = False
        if not among.any():
            raise ParameterError(f"row {params.row}: no other row passes what was asked for; ask for less")
        query = f"like row {params.row}"
    return nearest(stores, vector, params.k, among=among), query, remarks


def _by_head(
    stores: Stores, rows: RowFilter, params: SearchParams, heads: str, loading: LoadingParams
) -> tuple[Ranking, str, str]:
    head = open_head(heads_file(Path(heads)), params.run).head
    scorer, name = ask_head(stores, head, loading), run_name(head.run)
    if params.class_name is not None:
        if params.class_name not in head.class_names:
            raise UnknownNameError.among("class", params.class_name, head.class_names)
        label = head.class_names.index(params.class_name)
        measure, query = "probability", f"{params.class_name}, says {name}"
    else:
        by = params.by or "margin"
        measure, query = "doubt", f"{name} is in doubt ({by})"

    def score(block: NDArray[np.float32]) -> NDArray[np.float64]:
        shares = probabilities(scorer, block)
        return (shares[:, label] if params.class_name is not None else uncertainty(shares, by))[None]

    ranking = highest(stores, score, params.k, among=stores.among(rows))
    return Ranking(ranking.rows[0], ranking.scores[0]), query, measure


def _diverse(stores: Stores, rows: RowFilter, k: int) -> Ranking:
    labelled = np.flatnonzero((stores.labels >= 0) & stores.usable)
    among = stores.among(rows) & (stores.labels < 0)
    if not among.any():
        raise ParameterError("diverse: every row that was asked for has a label; nothing is left to propose")
    return diverse(stores, labelled, k, among=among)


def describe(
    stores: Stores, ranking: Ranking, root: Place | None = None
) -> tuple[pd.DataFrame, tuple[Place | None, ...]]:
    """Return what is known of some rows, and where their files lie; a file that is gone leaves its row.

    Parameters
    ----------
    root : Place, optional
        Where the dataset lies now, if not where it lay.
    """
    files = np.full(len(ranking.rows), None, dtype=object)
    parts = []
    for store, places in stores.origins(ranking.rows):
        rows = ranking.rows[places] - stores.number(store, 0)
        names, (start, end) = store.clip_names(rows), store.stretches(rows)
        found = locate(store.header, names, root)
        files[places] = [found.get(name) for name in names]
        part = {"dataset": store.header.dataset, "row": rows, "path": names, "start": start, "end": end}
        parts.append(pd.DataFrame(part, index=places))
    table = pd.concat(parts).sort_index()
    table["score"] = ranking.scores
    table["label"] = np.array([*stores.class_names, None], dtype=object)[stores.labels[ranking.rows]]
    table["note"] = ["" if file is not None else GONE for file in files]
    return table[list(COLUMNS)], tuple(files)
