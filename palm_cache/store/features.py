"""The feature store: one Zarr group per dataset and encoder, complete or absent.

Layout (Zarr v3, readable with plain ``zarr.open``)::

    <dataset>/<encoder>.zarr      attributes: StoreHeader, and size and hash of every file
    ├── audio           (rows, views, dim) float32     1,024 rows a chunk; zeros where there is an error
    ├── content_sha256  (rows, 32) uint8               zeros where the file could not be read
    ├── errors/row, errors/reason                      the rows without an embedding, and why
    ├── text            (classes, templates, dim) float32
    ├── path, label     (rows,) string, int64          label -1: unlabelled
    ├── start, end      (rows,) float64                seconds; an end of NaN is the file's
    ├── group           (rows,) string                 only where the dataset names groups
    └── folds/K/train, folds/K/test   row numbers, in the order of the dataset's tables

A store is written whole by :mod:`palm_cache.store.writing` and replaced as a whole; nothing in it is changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from palm_cache.store.header import StoredRows, row_keys, twins
from palm_cache.store.layout import STORE_ROOT
from palm_cache.store.root import StoreRoot
from palm_cache.types import Features, Fold
from palm_cache.types.stretches import stretch_text

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ROWS = 1024
"""Rows of ``audio`` in a file."""

CRC32C_OF_WHOLE = 0x48674BC7
"""The crc32c of anything that ends with its own crc32c."""


class FeatureStore(StoreRoot):
    """A feature store; opened by its constructor, which takes and raises what :class:`StoreRoot`'s does."""

    @cached_property
    def _group(self) -> zarr.Group:
        """The arrays, once all their files are known to be there and their metadata to be whole."""
        problems = self.file_problems("metadata")
        if problems:
            raise self.damaged(problems[0])
        return zarr.open_group(self.folder.zarr(), mode="r", zarr_format=3)

    @property
    def _shape(self) -> tuple[int, int]:
        """Of a row's embeddings: views and dimensions."""
        return self.header.views, self.header.dim

    def clip_names(self, rows: slice | NDArray[np.int64] = slice(None)) -> list[str]:
        """Return the path of every row's file inside the dataset, or of some rows'."""
        return [str(name) for name in self._read("path", rows)]

    def contents(self, rows: slice = slice(None)) -> NDArray[np.uint8]:
        """Return the sha256 of every row's file, (rows, 32); zeros where it could not be read."""
        return np.asarray(self._read("content_sha256", rows), np.uint8)

    def content_hashes(self) -> list[str]:
        """Return the same in hexadecimal, "" where the file could not be read."""
        return [content.tobytes().hex() if content.any() else "" for content in self.contents()]

    def row_keys(self) -> NDArray[np.uint8]:
        """Return what every row is known by, (rows, 32): see :func:`row_keys`."""
        return row_keys(self.contents(), *self.stretches())

    def stretches(
        self, rows: slice | NDArray[np.int64] = slice(None)
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return start and end of rows in seconds, (rows,) each; NaN is the end of the file."""
        return np.asarray(self._read("start", rows)), np.asarray(self._read("end", rows))

    def groups(self) -> list[str] | None:
        """Return the group of every row, ``None`` where none are named."""
        return [str(name) for name in self._read("group")] if f"group/{STORE_ROOT}" in self.manifest else None

    def labels(self) -> Tensor:
        """Return the label of every row, (rows,) int64; -1 is unlabelled."""
        return self._integers("label")

    def folds(self) -> tuple[Fold, ...]:
        """Return the train and test rows of every fold, fold 1 first."""
        return tuple(
            Fold(*(self._integers(f"folds/{number}/{part}") for part in ("train", "test")))
            for number in self._fold_numbers()
        )

    def fold_sizes(self) -> list[tuple[int, int]]:
        """Return how many train and test rows every fold has, fold 1 first."""
        return [
            (self._array(f"folds/{number}/train").size, self._array(f"folds/{number}/test").size)
            for number in self._fold_numbers()
        ]

    def _fold_numbers(self) -> list[int]:
        matches = (re.fullmatch(r"folds/(\d+)/train/zarr\.json", name) for name in self.manifest)
        return sorted(int(match[1]) for match in matches if match)

    def _integers(self, name: str) -> Tensor:
        import torch  # here and below: a second to import, and what describes a store needs none

        return torch.from_numpy(np.asarray(self._read(name), np.int64))

    def errors(self) -> dict[int, str]:
        """Return why a row has no embedding, by row."""
        rows, reasons = self._read("errors/row"), self._read("errors/reason")
        return {int(row): str(reason) for row, reason in zip(rows, reasons, strict=True)}

    def failures(self) -> list[tuple[str, str, str]]:
        """Return (path, reason, stretch in words) of every row that has no embedding."""
        errors = self.errors()
        names, (start, end) = (self.clip_names(), self.stretches()) if errors else ([], ((), ()))
        return [(names[row], why, stretch_text(start[row], end[row])) for row, why in errors.items()]

    def text(self) -> NDArray[np.float32]:
        """Return the prompts' embeddings, (n_classes, n_templates, dim)."""
        shape = (len(self.header.class_names), len(self.header.templates), self.header.dim)
        if not (shape[0] and shape[1]):
            return np.zeros(shape, np.float32)
        return np.asarray(self._read("text"), np.float32)

    def twins(self) -> list[str]:
        """Say where the same sound is in a fold's train and test rows, or bears several labels."""
        return twins(self.row_keys(), self.labels().numpy(), self.folds(), self.clip_names)

    def rows(self) -> StoredRows:
        """Return everything of the rows but their embeddings."""
        start, end = self.stretches()
        labels, contents = self.labels().numpy(), self.contents()
        return StoredRows(
            self.clip_names(), start, end, labels, contents, self.errors(), self.folds(), self.groups()
        )

    def audio(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Return the embeddings of rows, (rows, views, dim); not to be written to."""
        start, stop, _ = rows.indices(self.n_clips)
        files = range(start // CHUNK_ROWS, -(-stop // CHUNK_ROWS))
        if len(files) == 1:
            block = self._chunk(files[0])
            self._check_if_near()
            return block[start - files[0] * CHUNK_ROWS : stop - files[0] * CHUNK_ROWS]
        vectors: NDArray[np.float32] = np.empty((max(0, stop - start), *self._shape), np.float32)

        def take(file: int) -> None:
            first = file * CHUNK_ROWS
            block = self._chunk(file)[max(0, start - first) : stop - first]
            vectors[max(0, first - start) :][: len(block)] = block

        with ThreadPoolExecutor() as pool:
            list(pool.map(take, files))
        self._check_if_near()
        return vectors

    def _chunk(self, number: int) -> NDArray[np.float32]:
        """Read a file of embeddings, (rows, views, dim), three times as fast as zarr does.

        It holds nothing but the numbers and their crc32c; what is all zeros has no file.
        """
        name = chunk_name(number)
        shape = (min(CHUNK_ROWS, self.n_clips), *self._shape)
        if name not in self.manifest:
            return np.zeros(shape, np.float32)
        with self._reading("audio"):
            content = self.folder.read(name)
            if crc32c(content) != CRC32C_OF_WHOLE:
                raise ValueError(f"the checksum of {name} fails")
            return np.frombuffer(content, "<f4")[:-1].reshape(shape)

    def spans(self, size: int = CHUNK_ROWS) -> list[slice]:
        """Return all rows in parts of so many, by default those that lie in one file of embeddings."""
        return [slice(at, min(at + size, self.n_clips)) for at in range(0, self.n_clips, size)]

    def read(self) -> Features:
        """Read the whole store.

        Raises ``StoreError`` if it has been replaced meanwhile, ``DamagedStoreError`` where bytes fail.
        """
        import torch

        header, errors = self.header, self.errors()
        usable = torch.ones(self.n_clips, dtype=torch.bool)
        usable[list(errors)] = False
        try:
            features = Features(
                dataset=header.dataset,
                encoder=header.encoder,
                fingerprint=header.fingerprint,
                digest=header.digest,
                audio=torch.from_numpy(np.require(self.audio(), requirements="W")),
                text=torch.from_numpy(self.text()),
                labels=self.labels(),
                usable=usable,
                class_names=header.class_names,
                templates=header.templates,
                folds=self.folds(),
                groups=_together(self.contents(), self.groups()),
                store=str(self.path),
            )
        finally:
            self.check_steady()
        return features

    def problems(self) -> list[str]:
        """Check every file and every row; one line per problem, none if the store is in order."""
        problems = self.file_problems("everything")
        if problems:
            return problems
        rows = self.rows()
        for some in self.spans():
            problems += _row_problems(self.audio(some), rows.contents[some], rows.errors, some.start)
        return problems

    def _array(self, name: str) -> zarr.Array[Any]:
        with self._reading(name):
            array = self._group[name]
            if not isinstance(array, zarr.Array):
                raise TypeError("not an array")
            return array

    def _read(self, name: str, rows: slice | NDArray[np.int64] = slice(None)) -> Any:
        array = self._array(name)
        with self._reading(name):
            values = array[rows]
        self._check_if_near()  # zarr makes up what has no file
        return values

    def _check_if_near(self) -> None:
        """Make sure that what was read is of this store; far away it would be a request each time."""
        if self.folder.is_near:
            self.check_steady()


def chunk_name(number: int) -> str:
    """Return the name of a file of embeddings."""
    return f"audio/c/{number}/0/0"


def fold_parts(fold: Fold, n_clips: int) -> NDArray[np.object_]:
    """Return in which tables of a fold every clip is: ``train``, ``test``, ``both`` or ``None``."""
    parts = np.full(n_clips, None, dtype=object)
    train, test = fold.train.numpy(), fold.test.numpy()
    parts[train] = "train"
    parts[test] = np.where(parts[test] == "train", "both", "test")
    return parts


def _together(contents: NDArray[np.uint8], groups: Sequence[str] | None) -> Tensor | None:
    """Number what belongs together, rows of one content or group: (rows,) int64, ``None`` if nothing does.

    Rows of one file have its content; a row whose group is "" has none.
    """
    import torch

    _, content = np.unique(np.ascontiguousarray(contents[:, -8:]).view(np.uint64)[:, 0], return_inverse=True)
    if groups is None:
        number = content
    else:
        # Half a second to import, and few datasets have groups.
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        own = [name or f"\0{row}" for row, name in enumerate(groups)]
        _, group = np.unique(np.array(own), return_inverse=True)
        n_rows, ends = len(group), (content, content.max() + 1 + group)
        edges = coo_array((np.ones(n_rows, bool), ends), shape=(ends[1].max() + 1,) * 2)
        number = connected_components(edges, directed=False)[1][content]
    return torch.from_numpy(number.astype(np.int64)) if len(np.unique(number)) < len(number) else None


def _row_problems(
    audio: NDArray[np.float32], contents: NDArray[np.uint8], errors: Mapping[int, str], first_row: int
) -> list[str]:
    good = np.array([first_row + row not in errors for row in range(len(audio))])
    kinds = {
        "not finite": ~np.isfinite(audio).all(axis=(1, 2)),
        "a zero vector": (np.abs(audio).max(axis=2) == 0).any(axis=1),
        "no content hash": ~contents.any(axis=1),
    }
    return [
        f"row {first_row + row}: {kind}"
        for kind, rows in kinds.items()
        for row in np.flatnonzero(good & rows).tolist()
    ]
