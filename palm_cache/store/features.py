"""The feature store: one Zarr group per dataset and encoder.

Layout (Zarr v3, readable with plain ``zarr.open``)::

    <dataset>/<encoder>.zarr      attributes: StoreHeader
    ├── audio           (clips, views, dim) float32   64 clips a chunk; the commit mark
    ├── content_sha256  (clips,) string               "" where the file could not be opened
    ├── error           (clips,) string               "" = embedded; else the reason, audio is zeros
    ├── text            (classes, templates, dim) float32
    ├── path, label     (clips,) string, int64
    └── folds/K/train, folds/K/test   row numbers, in the order of the dataset's tables

The skeleton (everything but the first three) is built elsewhere and put in its place by
``trees.building``, so a store either exists or does not. A chunk of 64 clips is done when its chunk of
``audio``, which is written last, exists. Every chunk carries a crc32c.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor
from zarr.codecs import Crc32cCodec, ZstdCodec

from palm_cache.errors import DamagedStoreError, OlderFormatError, StoreError
from palm_cache.store import trees
from palm_cache.store.files import write_errors
from palm_cache.store.places import files_below
from palm_cache.types import ClipTable, Features, Fold, Place

FORMAT_VERSION = 1
CHUNK_CLIPS = 64

VIEW_POLICY = "view 0: centre crop; further views: position drawn from content hash and view number"
MEAN_POLICY = "one view: the mean over evenly spaced stretches that cover the clip"


@dataclass(frozen=True, slots=True)
class StoreHeader:
    """Attributes of a store: how its embeddings were made."""

    format_version: int
    dataset: str
    encoder: str
    """Encoder spec."""
    fingerprint: str
    identity: Mapping[str, object]
    """What the fingerprint is the hash of, as far as it belongs to the encoder."""
    dim: int
    token_dim: int
    """Length of the text tower's token embeddings: what a learned prompt is counted in."""
    sample_rate: int
    seconds: float
    """Longest stretch of a clip that is embedded at once."""
    views: int
    view_policy: str
    templates: tuple[str, ...]
    class_names: tuple[str, ...]
    versions: Mapping[str, str]
    """Library versions at creation; provenance only."""

    def difference(self, wanted: StoreHeader) -> str | None:
        """Say in words why this store is not the one wanted, or ``None`` if it is.

        Class names and clips do not count: a store follows its dataset.
        """
        if self.format_version != wanted.format_version:
            return f"format version {self.format_version} instead of {wanted.format_version}"
        if self.view_policy != wanted.view_policy:
            return f"made by another policy for long clips ({self.view_policy}; now {wanted.view_policy})"
        for option, default in (("precision", "fp32"), ("runtime", "torch")):
            mine, theirs = (header.identity.get(option, default) for header in (self, wanted))
            if mine != theirs:
                return f"made with {option} {mine} instead of {theirs}"
        if self.fingerprint != wanted.fingerprint:
            return (
                f"made by another version of the encoder or its preprocessing (fingerprint "
                f"{self.fingerprint[:12]}, now {wanted.fingerprint[:12]})"
            )
        if self.views != wanted.views:
            return f"{self.views} view(s) a clip instead of {wanted.views}"
        if self.templates != wanted.templates:
            return "made with other prompt templates"
        return None


@dataclass(frozen=True, slots=True)
class _Tables:
    """All that a store holds beside the embeddings of its clips."""

    hashes: list[str]
    errors: list[str]
    labels: Tensor
    folds: tuple[Fold, ...]
    text: NDArray[np.float32]

    def digest(self, header: StoreHeader) -> str:
        digest = hashlib.sha256()
        folds = [[fold.train.tolist(), fold.test.tolist()] for fold in self.folds]
        described = [header.dataset, header.fingerprint, header.views, header.templates, header.class_names]
        digest.update(json.dumps([described, self.hashes, self.errors, self.labels.tolist(), folds]).encode())
        digest.update(self.text.tobytes())
        return digest.hexdigest()


class FeatureStore:
    """A feature store on disk; made by :meth:`create`, opened by its constructor.

    Parameters
    ----------
    path : Place
        The store's folder.

    Raises
    ------
    PlaceError
        If it is remote and cannot be reached.
    StoreError
        If there is no store, or its format is not this version's: an older one is an ``OlderFormatError``.
    DamagedStoreError
        If its metadata cannot be read.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self._arrays: dict[str, zarr.Array[Any]] = {}
        if not trees.exists(path):
            raise StoreError(f"{path}: no feature store here; make it with: palm-cache extract")
        try:
            # An all-zero chunk (every clip failed) must exist too: it is the commit mark.
            with zarr.config.set({"array.write_empty_chunks": True}):
                self._group = zarr.open_group(trees.zarr_store(path), mode="r+", zarr_format=3)
                self._audio = self._array("audio")
            self.header = read_header(self._group.attrs.asdict(), path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedStoreError(
                f"{path}: not a readable feature store ({type(error).__name__}: {error}); "
                "make it anew with: palm-cache extract --on-stale rebuild"
            ) from error

    @classmethod
    def create(cls, path: Place, header: StoreHeader, table: ClipTable, text: Tensor) -> Self:
        """Write the skeleton of a store: everything but the embeddings of clips.

        Parameters
        ----------
        text : Tensor, shape (n_classes, n_templates, dim)

        Raises
        ------
        OutputError
            If the folder cannot be written.
        """
        with trees.building(path) as temporary:
            _write_skeleton(temporary, header, table, text)
        return cls(path)

    @property
    def n_clips(self) -> int:
        """Number of clips, embedded or not."""
        return int(self._audio.shape[0])

    @property
    def n_chunks(self) -> int:
        """Number of chunks that make a complete store."""
        return -(-self.n_clips // CHUNK_CLIPS)

    def rows(self, chunk: int) -> slice:
        """Return the rows that a chunk holds."""
        return slice(chunk * CHUNK_CLIPS, min((chunk + 1) * CHUNK_CLIPS, self.n_clips))

    def chunk_of(self, row: int) -> int:
        """Return the number of the chunk that holds a row."""
        return row // CHUNK_CLIPS

    def committed(self) -> set[int]:
        """Return the numbers of the chunks that are done."""
        # A killed writer may leave "<chunk>.<uuid>.partial" behind: only exact names count.
        names = files_below(self.path / "audio" / "c")
        matches = (re.fullmatch(r"(\d+)/0/0", name) for name in names)
        return {int(match[1]) for match in matches if match}

    def is_committed(self, chunk: int) -> bool:
        """Tell whether a chunk is done, without looking at the others."""
        return self._commit_mark(chunk).exists()

    def missing(self) -> list[int]:
        """Return the numbers of the chunks that are not done, in order."""
        return sorted(set(range(self.n_chunks)) - self.committed())

    def write_chunk(
        self, chunk: int, audio: NDArray[np.float32], content_sha256: Sequence[str], error: Sequence[str]
    ) -> None:
        """Commit one chunk.

        Parameters
        ----------
        audio : array, shape (clips of the chunk, views, dim)
        content_sha256, error : sequences of str, one per clip

        Raises
        ------
        OutputError
            If the disk is full or not writable; the chunk then counts as missing.
        """
        rows = self.rows(chunk)
        with write_errors(self.path):
            self.uncommit(chunk)
            self._array("content_sha256")[rows] = np.array(content_sha256, dtype=np.dtypes.StringDType())
            self._array("error")[rows] = np.array(error, dtype=np.dtypes.StringDType())
            self._audio[rows] = audio

    def uncommit(self, chunk: int) -> None:
        """Take back the commit mark of a chunk, so that a crash while it is rewritten shows."""
        self._commit_mark(chunk).unlink(missing_ok=True)

    def _commit_mark(self, chunk: int) -> Place:
        return self.path / "audio" / "c" / str(chunk) / "0" / "0"

    def read_chunk(self, chunk: int) -> NDArray[np.float32]:
        """Return the embeddings of one committed chunk, shape (clips, views, dim).

        Raises
        ------
        DamagedStoreError
            If its bytes are missing or fail their checksum.
        """
        rows = self.rows(chunk)
        return np.asarray(self._read("audio", rows, where=f"chunk {chunk} of audio"), dtype=np.float32)

    def hashes_and_errors(self, chunk: int | None = None) -> tuple[list[str], list[str]]:
        """Return content hash and error of every clip of a committed chunk, or of the whole store.

        Raises
        ------
        DamagedStoreError
            If bytes are missing or fail their checksum.
        """
        rows, where = slice(None), ""
        if chunk is not None:
            rows, where = self.rows(chunk), f"chunk {chunk} of "
        hashes = self._read("content_sha256", rows, where=f"{where}content_sha256")
        errors = self._read("error", rows, where=f"{where}error")
        return [str(value) for value in hashes], [str(value) for value in errors]

    def holds(self, table: ClipTable) -> bool:
        """Tell whether the store was laid out for exactly these clips, classes and folds.

        Raises
        ------
        DamagedStoreError
            If one of the arrays that extraction does not write again is damaged.
        """
        self._read("text", slice(None), where="text")
        clips_and_labels = list(zip(self.clip_names(), self.labels().tolist(), strict=True))
        return (
            self.header.class_names == table.class_names
            and clips_and_labels == [(clip.name, clip.label) for clip in table.clips]
            and len(self.folds()) == len(table.folds)
            and all(
                torch.equal(mine.train, theirs.train) and torch.equal(mine.test, theirs.test)
                for mine, theirs in zip(self.folds(), table.folds, strict=True)
            )
        )

    def clip_names(self) -> list[str]:
        """Return the path of every clip inside the dataset."""
        return [str(value) for value in self._read("path", slice(None), where="path")]

    def content_hashes(self) -> list[str]:
        """Return the sha256 of every clip's content, "" where the file could not be opened."""
        return [str(value) for value in self._read("content_sha256", slice(None), where="content_sha256")]

    def labels(self) -> Tensor:
        """Return the label of every clip, (n_clips,) int64."""
        return torch.from_numpy(np.asarray(self._read("label", slice(None), where="label")))

    def folds(self) -> tuple[Fold, ...]:
        """Return the train and test rows of every fold, fold 1 first."""
        count = len(list(self._group["folds"].group_keys()))  # type: ignore[union-attr]
        return tuple(
            Fold(*(self._fold_rows(f"folds/{number}/{part}") for part in ("train", "test")))
            for number in range(1, count + 1)
        )

    def failures(self) -> list[tuple[str, str]]:
        """Return (path, reason) of every committed clip that could not be embedded."""
        errors = self._read("error", slice(None), where="error")
        return [(name, str(why)) for name, why in zip(self.clip_names(), errors, strict=True) if why]

    def read(self) -> Features:
        """Read the whole store.

        Raises
        ------
        StoreError
            If chunks are missing, because the extraction has not finished, or an extraction has written to
            the store meanwhile.
        DamagedStoreError
            If bytes are missing or fail their checksum.
        """
        missing = self.missing()
        if missing:
            raise StoreError(
                f"{self.path}: {len(missing)} of {self.n_chunks} chunks are not extracted yet; "
                "finish it with: palm-cache extract"
            )
        header, tables = self.header, self._read_tables()
        features = Features(
            dataset=header.dataset,
            encoder=header.encoder,
            fingerprint=header.fingerprint,
            digest=tables.digest(header),
            audio=torch.from_numpy(self._read_audio()),
            text=torch.from_numpy(tables.text),
            labels=tables.labels,
            usable=torch.tensor([not error for error in tables.errors]),
            class_names=header.class_names,
            templates=header.templates,
            folds=tables.folds,
        )
        # A writer changes hashes before embeddings: the same before and after, they belong together.
        if type(self)(self.path).digest() != features.digest:
            raise StoreError(
                f"{self.path}: an extraction has written to it while it was read; wait for it to end"
            )
        return features

    def digest(self) -> str:
        """Return the hash of everything that a head depends on, clips being known by their content.

        Raises
        ------
        DamagedStoreError
            If bytes are missing or fail their checksum.
        """
        return self._read_tables().digest(self.header)

    def problems(self) -> list[str]:
        """Check every chunk and every row; one line per problem, none if the store is sound."""
        found = [f"chunk {chunk} is missing (rows {_span(self.rows(chunk))})" for chunk in self.missing()]
        for chunk in sorted(self.committed()):
            try:
                hashes, errors = self.hashes_and_errors(chunk)
                found += _row_problems(self.read_chunk(chunk), hashes, errors, self.rows(chunk).start)
            except DamagedStoreError as error:
                found.append(f"{error} (rows {_span(self.rows(chunk))})")
        for name in ("text", "path", "label"):
            try:
                self._read(name, slice(None), where=name)
            except DamagedStoreError as error:
                found.append(str(error))
        try:
            self.folds()
        except DamagedStoreError as error:
            found.append(str(error))
        return found

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a writer that was killed; call it only under the lock."""
        if isinstance(self.path, Path):  # object stores have no unfinished files
            for leftover in self.path.rglob("*.partial"):
                leftover.unlink(missing_ok=True)

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:  # opening one costs a remote store a request
            array = self._group[name]
            if not isinstance(array, zarr.Array):
                raise TypeError(f"{name} is not an array")
            self._arrays[name] = array
        return self._arrays[name]

    def _read(self, name: str, rows: slice, where: str) -> Any:
        try:
            return self._array(name)[rows]
        except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
            raise DamagedStoreError(
                f"{self.path}: {where} is damaged ({error}); repair it with: palm-cache extract"
            ) from error

    def _fold_rows(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self._read(name, slice(None), where=name), dtype=np.int64))

    def text(self) -> NDArray[np.float32]:
        """Return the prompts' embeddings, (n_classes, n_templates, dim)."""
        return np.asarray(self._read("text", slice(None), where="text"), dtype=np.float32)

    def _read_tables(self) -> _Tables:
        hashes, errors = self.hashes_and_errors()
        return _Tables(hashes, errors, self.labels(), self.folds(), self.text())

    def _read_audio(self) -> NDArray[np.float32]:
        """Read all embeddings at once, as a remote store must be read."""
        try:
            return np.asarray(self._read("audio", slice(None), where="audio"), dtype=np.float32)
        except DamagedStoreError:
            # One by one they take several times as long, but the damaged chunk is named.
            return np.concatenate([self.read_chunk(chunk) for chunk in range(self.n_chunks)])


def _write_skeleton(path: Path, header: StoreHeader, table: ClipTable, text: Tensor) -> None:
    """Write all arrays of a store but leave the chunks of clips to extraction."""
    group = zarr.create_group(path, attributes=asdict(header))
    n_clips, checksum = len(table.clips), Crc32cCodec()
    group.create_array(
        "audio",
        shape=(n_clips, header.views, header.dim),
        chunks=(CHUNK_CLIPS, header.views, header.dim),
        dtype="float32",
        # Embeddings are noise to a compressor: a checksum is all they need.
        compressors=[checksum],
        fill_value=0.0,
    )
    for name in ("content_sha256", "error"):
        group.create_array(
            name, shape=(n_clips,), chunks=(CHUNK_CLIPS,), dtype=str, compressors=[ZstdCodec(), checksum]
        )
    names = np.array([clip.name for clip in table.clips], dtype=np.dtypes.StringDType())
    group.create_array("path", data=names, compressors=[ZstdCodec(), checksum])
    labels = np.array([clip.label for clip in table.clips], dtype=np.int64)
    group.create_array("label", data=labels, compressors=[checksum])
    group.create_array("text", data=text.numpy(), compressors=[checksum])
    folds = group.create_group("folds")
    for number, fold in enumerate(table.folds, start=1):
        rows = folds.create_group(str(number))
        rows.create_array("train", data=fold.train.numpy(), compressors=[checksum])
        rows.create_array("test", data=fold.test.numpy(), compressors=[checksum])


def read_header(attributes: Mapping[str, Any], path: Place) -> StoreHeader:
    """Read a header from a store's attributes.

    Raises
    ------
    StoreError
        If the format is not this version's: an older one is an ``OlderFormatError``.
    KeyError, TypeError
        If something is missing or not what it must be.
    """
    version = attributes.get("format_version")
    if version is not None and version != FORMAT_VERSION:
        older = version < FORMAT_VERSION
        advice = "" if older else "update palm-cache, or "
        raise (OlderFormatError if older else StoreError)(
            f"{path}: store format {version}, this palm-cache reads {FORMAT_VERSION}; "
            f"{advice}make it anew with: palm-cache extract --on-stale rebuild"
        )
    values = {field.name: attributes[field.name] for field in fields(StoreHeader)}
    values["templates"] = tuple(values["templates"])
    values["class_names"] = tuple(values["class_names"])
    return StoreHeader(**values)


def _row_problems(
    audio: NDArray[np.float32], hashes: Sequence[str], errors: Sequence[str], first_row: int
) -> list[str]:
    good = np.array([not error for error in errors])
    kinds = {
        "not finite": ~np.isfinite(audio).all(axis=(1, 2)),
        "a zero vector": (np.abs(audio).max(axis=2) == 0).any(axis=1),
        "no content hash": np.array([not sha for sha in hashes]),
    }
    return [
        f"row {first_row + row}: {kind}"
        for kind, rows in kinds.items()
        for row in np.flatnonzero(good & rows)
    ]


def _span(rows: slice) -> str:
    return f"{rows.start}-{rows.stop - 1}"
