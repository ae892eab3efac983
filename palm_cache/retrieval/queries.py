"""What rows are compared with: a text, a stretch of a file, another row, a class of a head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.scorer import Scorer
from palm_cache.errors import AudioError, EncoderError, ParameterError, StaleStoreError, UnknownNameError
from palm_cache.extraction.audio.waveforms import duration, open_regular
from palm_cache.extraction.datasets.columns import seconds
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.recipe import recipe_of
from palm_cache.extraction.recorded import load_encoder_of
from palm_cache.params.use import LoadingParams
from palm_cache.retrieval.stores import Stores
from palm_cache.store.header import StoreHeader
from palm_cache.store.run_names import run_name
from palm_cache.types import TEMPLATES, Clip
from palm_cache.types.runs import FittedHead

PAST_THE_END = 0.01
"""Seconds by which a stretch may overshoot its file: times are rounded."""

Vector: TypeAlias = NDArray[np.float32]


def text_query(stores: Stores, text: str, loading: LoadingParams) -> Vector:
    """Embed a text in every prompt template of the stores; the mean of unit vectors, (dim,).

    Raises
    ------
    EncoderError
        If the encoder reads no text, or not so much.
    ParameterError
        If the text is empty.
    """
    if not text.strip():
        raise ParameterError("search for text: the text is empty; describe a sound")
    if stores.header.text_recipe is None:
        raise EncoderError(
            f"{stores.stores[0].path}: {stores.header.encoder} embeds sound only, no text; search "
            "by example, with a file (`like`) or a row (`row`)"
        )
    return mean_direction(load_encoder_of(stores.header, loading).embed_text(prompts_of(stores.header, text)))


def prompts_of(header: StoreHeader, text: str) -> list[str]:
    """Return a text in every prompt template of a store."""
    templates = [template for template in header.templates if "{c}" in template] or TEMPLATES
    return [template.replace("{c}", text) for template in templates]


def mean_direction(vectors: torch.Tensor) -> Vector:
    """Return the mean of vectors (..., n, dim), each scaled to unit length first, (..., dim)."""
    return np.asarray(torch.nn.functional.normalize(vectors, dim=-1).mean(dim=-2).numpy())


def file_query(stores: Stores, like: str, loading: LoadingParams) -> tuple[Vector, tuple[str, ...]]:
    """Embed a file or a stretch of it, ``FILE@12.5-15``, as the rows were.

    Returns
    -------
    vector : array, shape (dim,)
    remarks : tuple of str
        What should be known of the sound.

    Raises
    ------
    AudioError
        If it cannot be read or is silent.
    ParameterError
        If the stretch does not lie in the file.
    """
    path, start, end = split_stretch(like)
    try:
        with open_regular(path) as file:
            length = duration(file)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    if start >= length or (end is not None and end > length + PAST_THE_END):
        raise ParameterError(f"{like}: the file ends at {length:.2f} s; choose a stretch that lies in it")
    recipe = recipe_of({**stores.header.recipe, "views": 1}, loading.tokenizer)
    with Embedder(load_encoder_of(stores.header, loading), recipe, 1) as embedder:
        (outcome,) = embedder.embed([(0, Clip(path, str(path), None, start, end))])
    if outcome.vectors is None or outcome.heard.silence:
        raise AudioError(f"{like}: {outcome.error or outcome.heard.silence}")
    return outcome.vectors[0], outcome.heard.remarks


def split_stretch(like: str) -> tuple[Path, float, float | None]:
    """Part ``FILE@START-END`` into file, start and end; times as ``12.5`` or ``1:02.5``.

    Raises
    ------
    ParameterError
        If the end is not after the start.
    DataError
        If a time is none.
    """
    match = re.fullmatch(r"(.+)@([\d:.,]*)-([\d:.,]*)", like, re.DOTALL)
    if match is None or Path(like).is_file():
        return Path(like), 0.0, None
    start = seconds(match[2], like, "start") if match[2] else 0.0
    end = seconds(match[3], like, "end") if match[3] else None
    if end is not None and end <= start:
        raise ParameterError(f"{like}: it ends at {end:g} s, not after its start at {start:g} s")
    return Path(match[1]), start, end


def row_query(stores: Stores, row: int | str) -> tuple[Vector, int]:
    """Return the embedding of a row, (dim,), and its number among all rows.

    Parameters
    ----------
    row : int or str
        Its number in the store; of several stores ``DATASET:NUMBER``.

    Raises
    ------
    ParameterError
        If there is no such row, or it has no embedding.
    """
    dataset, _, number = str(row).rpartition(":")
    named = [store for store in stores.stores if dataset in ("", store.header.dataset)]
    if not named:
        raise UnknownNameError.among("dataset", dataset, [store.header.dataset for store in stores.stores])
    if len(named) > 1:
        example = f"{named[0].header.dataset}:{number}"
        raise ParameterError(f"row {row}: which of the {len(named)} stores? write it like this: {example}")
    (store,) = named
    if not re.fullmatch(r"\d+", number) or int(number) >= store.n_clips:
        raise ParameterError(f"row {row}: {store.path} has rows 0 to {store.n_clips - 1}")
    if (reason := store.errors().get(int(number))) is not None:
        raise ParameterError(f"row {row}: it has no embedding: {reason}")
    of_row = store.audio(slice(int(number), int(number) + 1))[0, 0]
    return of_row, stores.number(store, int(number))


def probabilities(scorer: Scorer, block: Vector) -> NDArray[np.float64]:
    """Return the probabilities of the clips of a block (rows, views, dim), (rows, n_classes)."""
    clips = torch.from_numpy(np.require(block, requirements="W"))
    return np.asarray(scorer.probabilities(scorer.clip_logits(clips)).numpy())


def ask_head(stores: Stores, head: FittedHead, loading: LoadingParams) -> Scorer:
    """Make a head ready to score rows that was fitted on embeddings like those of the stores.

    Raises
    ------
    EncoderError
        If it reads the features of several encoders.
    StaleStoreError
        If it was fitted on embeddings of another kind.
    """
    name = run_name(head.run)
    if "+" in head.run.encoder:
        raise EncoderError(
            f"run {name} reads the joined features of {head.run.encoder}, and a search looks "
            f"at one encoder's; score the rows with: palm-cache predict HEADS --store A --store B"
        )
    if head.fingerprint != stores.header.fingerprint:
        raise StaleStoreError(
            f"run {name} was fitted on embeddings of {head.run.encoder}, and {stores.stores[0].path} holds "
            f"those of {stores.header.encoder} or of other options; give a store that was made alike"
        )
    needs_tower = find_head(head.run.head).scores_through_tower
    tower = load_encoder_of(stores.header, loading).text_tower() if needs_tower else None
    return Scorer(head, stores.header.dim, tower)
