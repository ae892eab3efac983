"""The unit of work of stage one: embed the clips of one chunk and commit them.

A chunk is embedded in batches that never cross its border and depend on its content alone, so that an
interrupted extraction, finished later, gives the same bits as one that ran through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palm_cache.errors import AudioError, DamagedStoreError, EncoderError, StoreError
from palm_cache.extraction.audio import content_hash, cut_windows, open_regular, read_views
from palm_cache.extraction.encoders.base import Encoder, full_identity
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore
from palm_cache.store.fingerprint import fingerprint
from palm_cache.types import Clip, Place


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What became of the clips of one chunk."""

    clips: int
    embedded: int
    failed: int
    known: Mapping[Place, int]
    """Clips whose embedding was taken from a store, by store."""


class KnownEmbeddings:
    """Embeddings that some chunks of a store already hold, found by content hash.

    Damaged chunks and clips that failed count as unknown. The store may be in use by its own extraction:
    only what a chunk holds when its embeddings are read counts.
    """

    def __init__(self, store: FeatureStore, chunks: Iterable[int]) -> None:
        self.store = store.path
        self._place: dict[str, tuple[int, int]] = {}
        for chunk, hashes, errors in _read_hashes(store, sorted(chunks)):
            for place, (sha, error) in enumerate(zip(hashes, errors, strict=True)):
                if sha and not error:
                    self._place[sha] = (chunk, place)

        @lru_cache(maxsize=4)
        def read_chunk(chunk: int) -> tuple[NDArray[np.float32], list[str]]:
            # In this order: a writer changes the hashes before the embeddings.
            return store.read_chunk(chunk), store.hashes_and_errors(chunk)[0]

        self._read_chunk = read_chunk

    def get(self, content_sha256: str) -> NDArray[np.float32] | None:
        """Return the embedding (views, dim) of a content, or ``None`` if it is not known."""
        if content_sha256 not in self._place:
            return None
        chunk, place = self._place[content_sha256]
        try:
            audio, hashes = self._read_chunk(chunk)
        except DamagedStoreError:
            return None
        return np.array(audio[place]) if hashes[place] == content_sha256 else None


def _read_hashes(store: FeatureStore, chunks: Sequence[int]) -> Iterator[tuple[int, list[str], list[str]]]:
    """Read (chunk, content hashes, errors), all at once where nothing is damaged: four times as fast."""
    if len(chunks) > 1:
        try:
            hashes, errors = store.hashes_and_errors()
            for chunk in chunks:
                yield chunk, hashes[store.rows(chunk)], errors[store.rows(chunk)]
            return
        except DamagedStoreError:
            pass
    for chunk in chunks:
        try:
            yield chunk, *store.hashes_and_errors(chunk)
        except DamagedStoreError:
            continue


@dataclass(slots=True)
class _Rows:
    """The content of one chunk while it is made."""

    audio: NDArray[np.float32]
    hashes: list[str]
    errors: list[str]
    waiting: dict[int, list[tuple[int, int, Tensor]]] = field(default_factory=dict)
    """Per number of windows: (row, view, windows) not embedded yet."""


def embed_chunk(
    store: FeatureStore,
    chunk: int,
    clips: Sequence[Clip],
    encoder: Encoder,
    params: ExtractParams,
    *,
    known: Sequence[KnownEmbeddings] = (),
    tick: Callable[[], None] = lambda: None,
) -> ChunkResult:
    """Embed the clips of one chunk, as far as their content is new, and commit the chunk.

    Parameters
    ----------
    store : FeatureStore
        Where the chunk is written.
    clips : sequence of Clip
        The chunk's clips, in the order of its rows.
    known : sequence of KnownEmbeddings
        Embeddings that need not be computed again.
    tick : callable
        Called once per clip read.

    Raises
    ------
    AudioError
        If a clip cannot be read and ``params.on_error`` is ``"fail"``; the chunk is then not committed.
    OutputError
        If the store cannot be written.
    """
    n_clips, views = len(clips), store.header.views
    rows = _Rows(np.zeros((n_clips, views, encoder.dim), np.float32), [""] * n_clips, [""] * n_clips)
    own = [KnownEmbeddings(store, [chunk])] if chunk in store.committed() else []
    kept: Counter[Place] = Counter()
    for row, clip in enumerate(clips):
        try:
            source = _read_clip(rows, row, clip, views, encoder, [*own, *known])
            if source is not None:
                kept[source] += 1
        except AudioError as error:
            if params.on_error == "fail":
                advice = "mend or remove the clip, or use --on-error skip"
                raise AudioError(f"{clip.name}: {error}; {advice}") from None
            rows.errors[row] = str(error)
        for waiting in rows.waiting.values():
            if len(waiting) >= params.batch_size:
                _embed(rows, waiting, encoder, params.batch_size)
        tick()
    for waiting in rows.waiting.values():
        _embed(rows, waiting, encoder, params.batch_size)
    for row in np.flatnonzero(~np.isfinite(rows.audio).all(axis=(1, 2))).tolist():
        rows.audio[row] = 0
        rows.errors[row] = "the encoder returned NaN or infinity"
    store.write_chunk(chunk, rows.audio, rows.hashes, rows.errors)
    failed = sum(1 for error in rows.errors if error)
    return ChunkResult(n_clips, n_clips - kept.total() - failed, failed, kept)


def _read_clip(
    rows: _Rows, row: int, clip: Clip, views: int, encoder: Encoder, known: Sequence[KnownEmbeddings]
) -> Place | None:
    """Take a clip's embedding from what is known and return the store that knew it, or queue its views."""
    # One handle for hash and decoding: a file that is replaced meanwhile cannot mix the two.
    with open_regular(clip.file) as file:
        sha = rows.hashes[row] = content_hash(file)
        for embeddings in known:
            embedding = embeddings.get(sha)
            if embedding is not None:
                rows.audio[row] = embedding
                return embeddings.store
        for view, windows in enumerate(read_windows(file, sha, encoder, views)):
            rows.waiting.setdefault(len(windows), []).append((row, view, windows))
    return None


def read_windows(file: BinaryIO, content_sha256: str, encoder: Encoder, views: int) -> list[Tensor]:
    """Decode a file the way an encoder wants it.

    Returns
    -------
    list of Tensor, shape (windows, samples)
        One per view.

    Raises
    ------
    AudioError
        If the file cannot be decoded.
    """
    window = encoder.window
    waveforms = read_views(
        file,
        sample_rate=encoder.sample_rate,
        samples=window.samples * window.most,
        views=views,
        content_sha256=content_sha256,
    )
    return [cut_windows(waveform, window) for waveform in waveforms]


def _embed(rows: _Rows, waiting: list[tuple[int, int, Tensor]], encoder: Encoder, batch_size: int) -> None:
    """Embed what waits, batch by batch, and empty the queue."""
    for start in range(0, len(waiting), batch_size):
        batch = waiting[start : start + batch_size]
        embeddings = encoder.embed_audio(torch.stack([windows for _, _, windows in batch])).numpy()
        for (row, view, _), embedding in zip(batch, embeddings, strict=True):
            rows.audio[row, view] = embedding
    waiting.clear()


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process needs to embed chunks; small, so that it travels with every chunk."""

    store: Place
    donors: tuple[Place, ...]
    """Other stores of the same encoder and views, whose embeddings need not be computed again."""
    encoder: str
    """Encoder spec."""
    fingerprint: str
    """Of the encoder that the main process loaded; a worker must get the same."""
    params: ExtractParams
    session: str
    """Tells one extraction from the next: workers outlive an extraction and must not reuse its state."""

    def embed(self, chunk: int, clips: Sequence[Clip]) -> ChunkResult:
        """Embed one chunk in this process."""
        encoder, known = _loaded(self)
        return embed_chunk(
            FeatureStore(self.store),
            chunk,
            clips,
            encoder,
            self.params,
            known=known,
        )


def known_embeddings(donors: Iterable[Place]) -> list[KnownEmbeddings]:
    """Return what whole stores know; one that has gone or cannot be read knows nothing."""
    known = []
    for donor in donors:
        with suppress(StoreError, OSError):
            store = FeatureStore(donor)
            known.append(KnownEmbeddings(store, store.committed()))
    return known


@lru_cache(maxsize=1)
def _loaded(worker: Worker) -> tuple[Encoder, list[KnownEmbeddings]]:
    params = worker.params
    encoder = load_encoder(
        worker.encoder, device=params.device, precision=params.precision, tokenizer=params.tokenizer
    )
    found = fingerprint(full_identity(encoder))
    if found != worker.fingerprint:
        raise EncoderError(
            f"encoder {worker.encoder!r}: a worker loaded other weights or libraries (fingerprint "
            f"{found[:12]}, wanted {worker.fingerprint[:12]}); give all workers the same environment"
        )
    return encoder, known_embeddings(worker.donors)
