"""What a feature store says of itself: how its embeddings were made, and of which rows."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from math import isnan
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import OlderFormatError, StoreError, counted
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.remedies import remedy_of_store
from palm_cache.types import Fold, Place

FORMAT_VERSION = 2

LIMITS = ("limit", "limited_from")
"""Fields of a header that say that a store holds some clips of its dataset alone."""

TEXTS_AT_ONCE = 1 << 14
"""Texts that are hashed at once."""


@dataclass(frozen=True, slots=True)
class StoreHeader:
    """Attributes of a store: how its embeddings were made."""

    format_version: int
    id: str
    """Hash of all of the store, given when it is written."""
    dataset: str
    source: str
    """Where the dataset lay, "" if that is not known."""
    encoder: str
    """Encoder spec."""
    recipe: Mapping[str, object]
    """Everything that decided the audio embeddings."""
    fingerprint: str
    """Hash of the recipe."""
    text_recipe: Mapping[str, object] | None
    """Everything that decided the text embeddings, but for the prompts; ``None`` where there are none."""
    dim: int
    token_dim: int
    """Length of the text tower's token embeddings: what a learned prompt is counted in; 0 without a tower."""
    sample_rate: int
    seconds: float
    """Longest stretch of a clip that is embedded at once."""
    views: int
    templates: tuple[str, ...]
    class_names: tuple[str, ...]
    rows_sha256: str
    """Hash of everything but header and embeddings: see :meth:`Rows.sha256`."""
    text_sha256: str
    """Hash of the text embeddings."""
    made_with: Mapping[str, str]
    """Device, libraries, commit of the weights; provenance only."""
    descriptions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By class name, where ``"descriptions"`` is among the templates."""
    limit: int = 0
    """Of every class the first so many clips for training and for testing are here alone; 0 if all are."""
    limited_from: int = 0
    """Clips that the dataset had, where there is a limit."""
    published: str = ""
    """The known dataset as which it was read; "" is anybody's, or not known."""

    @property
    def limited(self) -> str:
        """Say that the store holds some clips of its dataset alone, as what it does; "" where it has all."""
        if not self.limit:
            return ""
        return (
            f"holds of every class the first {self.limit} to train on and the first {self.limit} to test on "
            f"alone, of {counted(self.limited_from, 'clip')} in all (limit {self.limit})"
        )

    @property
    def digest(self) -> str:
        """Hash of everything that a head depends on, clips being known by their content."""
        return fingerprint(
            {
                "dataset": self.dataset,
                "audio": self.fingerprint,
                "text": self.text_recipe,
                "templates": list(self.templates),
                "prompts": self.text_sha256,
                "rows": self.rows_sha256,
            }
        )

    def stale(self, recipe: Mapping[str, object]) -> str:
        """Say in words how another recipe differs from this store's; "" if it does not."""
        return "; ".join(differences(self.recipe, recipe))


ABSENT = (None, "")
"""What a recipe holds of an option that was not given."""


def differences(old: Mapping[str, object], new: Mapping[str, object], within: str = "") -> Iterator[str]:
    """Yield in words, field by field, how two recipes differ."""
    for key in dict.fromkeys([*old, *new]):
        before, now = old.get(key), new.get(key)
        name = f"{within}{key.removesuffix('_sha256').replace('_', ' ')}"
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from differences(before, now, f"{name} ")
        elif json.dumps(before) != json.dumps(now):
            if key.endswith("_sha256"):
                yield f"other {name}"
            elif before in ABSENT or now in ABSENT:
                yield f"with {name} {now}" if before in ABSENT else f"no more {name} {before}"
            else:
                yield f"{name} {before}, now {now}"


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The rows of a store, but for their embeddings."""

    names: Sequence[str]
    """Path of every row's file inside the dataset."""
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    """(rows,) seconds; NaN is the end of the file."""
    labels: NDArray[np.int64]
    """(rows,) -1 is unlabelled."""
    contents: NDArray[np.uint8]
    """(rows, 32) sha256 of every file; zeros where it could not be read."""
    errors: Mapping[int, str]
    """Why a row has no embedding."""
    folds: tuple[Fold, ...]
    groups: Sequence[str] | None = None
    """What no split may tear apart, such as a recording or a speaker; ``None`` where none are named."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what of it is numbers, by the names of a store's arrays."""
        arrays: dict[str, NDArray[Any]] = {
            "content_sha256": self.contents,
            "errors/row": np.array(sorted(self.errors), np.int64),
            "label": self.labels,
            "start": self.start,
            "end": self.end,
        }
        for number, fold in enumerate(self.folds, start=1):
            arrays[f"folds/{number}/train"] = fold.train.numpy()
            arrays[f"folds/{number}/test"] = fold.test.numpy()
        return arrays

    def texts(self) -> dict[str, Sequence[str]]:
        """Return what of it is text, by the names of a store's arrays."""
        groups = {} if self.groups is None else {"group": self.groups}
        return {
            "errors/reason": [self.errors[row] for row in sorted(self.errors)],
            "path": self.names,
            **groups,
        }

    def sha256(self, class_names: Sequence[str]) -> str:
        """Return a hash of all of it and of the class names."""
        digest = hashlib.sha256()
        tables = [list(class_names), sorted(self.errors.items()), len(self.names)]
        digest.update(json.dumps(tables).encode())
        for texts in (self.names, self.groups or ()):
            for at in range(0, len(texts), TEXTS_AT_ONCE):
                some = "\0".join(texts[at : at + TEXTS_AT_ONCE])
                digest.update((some if at == 0 else f"\0{some}").encode("utf-8", "surrogatepass"))
        for array in (self.start, self.end, self.labels, self.contents):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for fold in self.folds:
            for rows in (fold.train.numpy(), fold.test.numpy()):
                digest.update(len(rows).to_bytes(8, "little"))
                digest.update(np.ascontiguousarray(rows).view(np.uint8).data)
        return digest.hexdigest()


def written_source(source: str, folder: Place) -> str:
    """Return where a dataset lies as a store says it: from the store's folder on, if both lie in this one.

    So a project's stores are the same, byte by byte, wherever the project lies. ``source`` is an absolute
    path, a URL, or "" if it is not known; the store lies in ``folder``.
    """
    project = Path.cwd()
    if not isinstance(folder, Path) or not Path(source).is_relative_to(project):
        return source
    start = os.path.abspath(folder)  # noqa: PTH100  # links stay as they are named
    return os.path.relpath(source, start) if Path(start).is_relative_to(project) else source


def read_source(written: str, folder: Place) -> str:
    """Return where a dataset lies, from what its store says of it; see :func:`written_source`."""
    if not written or "://" in written or not isinstance(folder, Path):
        return written
    return os.path.abspath(folder / written)  # noqa: PTH100


def row_keys(
    contents: NDArray[np.uint8], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return what the cache knows rows by, (rows, 32): the file's hash, of a stretch that and its borders.

    Zeros stay zeros. Where all rows are whole files it is the same array.
    """
    stretches = np.flatnonzero(((start > 0) | ~np.isnan(end)) & contents.any(axis=1)).tolist()
    keys = contents.copy() if stretches else contents
    for row in stretches:
        key = row_key(contents[row].tobytes(), start[row], end[row])
        keys[row] = np.frombuffer(key, np.uint8)
    return keys


def row_key(content: bytes, start: float, end: float) -> bytes:
    """Return what the cache knows one row by; see :func:`row_keys`."""
    if start == 0 and isnan(end):
        return content
    return hashlib.sha256(content + struct.pack("<dd", start, end)).digest()


def check_format(attributes: Mapping[str, Any], path: Place) -> None:
    """Refuse the attributes of a store of another format: ``OlderFormatError`` or ``StoreError``."""
    version = attributes.get("format_version")
    what = f"{path}: store format {version}, this palm-cache reads {FORMAT_VERSION}"
    if isinstance(version, int) and version < FORMAT_VERSION:
        raise OlderFormatError(
            f"{what}; its embeddings are taken over by {remedy_of_store(path, attributes)}"
        )
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StoreError(f"{what}; update palm-cache")


def read_header(attributes: Mapping[str, Any]) -> StoreHeader:
    """Read a header from a store's attributes; what is missing or wrong is a key or value error."""
    # The first stores of this format had none of what has a default.
    names = [item.name for item in fields(StoreHeader) if item.name in attributes or _is_required(item)]
    values = {name: attributes[name] for name in names}
    kinds = get_type_hints(StoreHeader)
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            raise ValueError(f"{name} is {value!r:.50}")
    header = StoreHeader(**values)
    return replace(
        header,
        templates=tuple(header.templates),
        class_names=tuple(header.class_names),
        descriptions={name: tuple(texts) for name, texts in header.descriptions.items()},
    )


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _fits(value: object, kind: Any) -> bool:
    """Tell whether a value that was read from JSON is of the kind of a header's field."""
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, parts[0]) for item in value)
    if get_origin(kind) is Mapping:
        return isinstance(value, Mapping) and all(_fits(item, parts[1]) for item in value.values())
    if parts:
        return any(_fits(value, part) for part in parts)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float if kind is float else kind)


def twins(
    keys: NDArray[np.uint8],
    labels: NDArray[np.int64],
    folds: Sequence[Fold],
    names: Callable[[], Sequence[str]],
) -> list[str]:
    """Say where the same sound is in a fold's train and test rows, or bears several labels.

    ``keys``, (rows, 32), are what the cache knows rows by, zeros where there is nothing; ``names`` gives the
    names of all rows.
    """
    # Of a hash 8 bytes tell all sounds apart that there are.
    sound = np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]
    ordered = np.sort(sound[sound != 0])
    several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(several):
        return []
    at = np.minimum(np.searchsorted(several, sound), len(several) - 1)
    shared = np.where(several[at] == sound, sound, 0)
    """Those that are there more than once."""
    notes, leaking = [], []
    for number, fold in enumerate(folds, start=1):
        train, test = shared[fold.train.numpy()], shared[fold.test.numpy()]
        if count := int(np.isin(test[test != 0], train[train != 0]).sum()):
            leaking.append(f"{count} of {int((sound[fold.test.numpy()] != 0).sum())} in fold {number}")
    if leaking:
        notes.append(
            "test clips that are byte for byte also training clips: "
            f"{', '.join(leaking)}; accuracy on them says nothing"
        )
    labelled = np.flatnonzero((labels >= 0) & (shared != 0))
    pairs = np.unique(np.column_stack([shared[labelled], labels[labelled].astype(np.uint64)]), axis=0)
    torn, counts = np.unique(pairs[:, 0], return_counts=True)
    torn = torn[counts > 1]
    if len(torn):
        notes.append(
            f"{counted(len(torn), 'sound bears', 'sounds bear')} several labels, e.g. "
            f"{names()[int(np.isin(shared, torn).argmax())]}: the same bytes in different classes"
        )
    return notes
