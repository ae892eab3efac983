"""Writing a feature store: built whole beside its place or on this machine, then put there at once.

What lies at the place and is not a store of ours is never touched. Whose a file is, a store says itself: by
the manifest in its root, which bears the store's id and names every file.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from palm_cache.errors import OutputError
from palm_cache.store.features import CHUNK_ROWS, MANIFEST, ROOT, Rows, StoreHeader
from palm_cache.store.files import write_errors
from palm_cache.store.places import Folder, folder
from palm_cache.store.places.local import unfinished
from palm_cache.types import Place

_MEMBERS = "audio|content_sha256|errors?|text|path|label|start|end|folds"
_OF_A_STORE = re.compile(
    rf"zarr\.json|({_MEMBERS})(/(row|reason|\d+|train|test))*/(zarr\.json|c(/\d+)+(\.\w+\.partial)?)"
)
"""Files of a store whose manifest is lost, or of format 1, which had none."""


def write_store(
    path: Place,
    header: StoreHeader,
    rows: Rows,
    text: NDArray[np.float32],
    audio: Iterable[NDArray[np.float32]],
) -> None:
    """Write a store in the place of whatever store of ours is there.

    Parameters
    ----------
    header : StoreHeader
        Its id and its hash of the rows are given here.
    text : array, shape (n_classes, n_templates, dim)
    audio : iterable of arrays, shape (n, views, dim)
        ``CHUNK_ROWS`` rows each, the last what is left.

    Raises
    ------
    OutputError
        If it cannot be written, or something else lies there.
    """
    where = folder(path)
    ours = claimed_files(where)
    header = replace(header, id=uuid.uuid4().hex, rows_sha256=rows.sha256(header.class_names))
    with write_errors(path), where.workspace() as work:
        built = Path(work, "store")
        _write_arrays(built, header, rows, text, audio)
        files = {
            file.relative_to(built).as_posix(): (file.stat().st_size, crc32c(file.read_bytes()))
            for file in sorted(built.rglob("*"))
            if file.is_file()
        }
        manifest = {"palm_cache": "feature store", "id": header.id, "files": files}
        (built / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        where.publish(built, ours, first=MANIFEST, last=ROOT)
    if isinstance(path, Path):
        remove_unfinished(path.parent)


def claimed_files(where: Folder) -> set[str]:
    """Return the files of the store at a place: those that may go when it is replaced.

    Raises
    ------
    OutputError
        If there is something that is not a feature store.
    """
    with write_errors(where.place):
        present = where.files()
        if not present:
            if isinstance(where.place, Path) and where.place.exists() and not where.place.is_dir():
                raise OutputError(f"{where.place}: there is a file here; choose another place with --out")
            return set()
        manifest = _read_json(where, MANIFEST) if MANIFEST in present else {}
        root = _read_json(where, ROOT) if ROOT in present else {}
    attributes = root.get("attributes")
    header = attributes if isinstance(attributes, Mapping) else {}
    if manifest.get("palm_cache") == "feature store" and isinstance(manifest.get("files"), dict):
        return {ROOT, MANIFEST, *map(str, manifest["files"])}.intersection(present)
    if {"format_version", "fingerprint", "dataset", "encoder"} <= header.keys():
        return {name for name in present if name == MANIFEST or _OF_A_STORE.fullmatch(name)}
    stranger = min(present)
    raise OutputError(
        f"{where.place}: there is something else here ({stranger}), not a feature store; "
        "choose another place with --out"
    )


def remove_store(path: Place) -> None:
    """Remove a feature store; what else lies in its folder stays.

    Raises
    ------
    OutputError
        If it cannot be removed, or is not a feature store.
    """
    where = folder(path)
    with write_errors(path):
        where.remove(claimed_files(where))


def remove_unfinished(beside: Path) -> None:
    """Remove what processes that were killed have left of stores that they were building."""
    for work in unfinished(beside):
        shutil.rmtree(work, ignore_errors=True)


def _read_json(where: Folder, name: str) -> dict[str, Any]:
    try:
        content = json.loads(where.read(name))
    except (ValueError, FileNotFoundError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_arrays(
    path: Path,
    header: StoreHeader,
    rows: Rows,
    text: NDArray[np.float32],
    audio: Iterable[NDArray[np.float32]],
) -> None:
    group = zarr.create_group(path, attributes=asdict(header))
    n_rows, checksum = len(rows.names), Crc32cCodec()
    # Embeddings are noise to a compressor: a checksum is all they need.
    chunk = max(1, min(CHUNK_ROWS, n_rows))
    embeddings = group.create_array(
        "audio",
        shape=(n_rows, header.views, header.dim),
        chunks=(chunk, header.views, header.dim),
        dtype="float32",
        compressors=[checksum],
        fill_value=0.0,
    )
    start = 0
    for block in audio:
        embeddings[start : start + len(block)] = block
        start += len(block)
    if start != n_rows:
        raise ValueError(f"{start} embeddings for {n_rows} rows")
    errors = sorted(rows.errors.items())
    strings = np.dtypes.StringDType()
    arrays: dict[str, NDArray[Any]] = {
        "content_sha256": rows.contents,
        "errors/row": np.array([row for row, _ in errors], np.int64),
        "errors/reason": np.array([reason for _, reason in errors], strings),
        "path": np.array(rows.names, strings),
        "label": rows.labels,
        "start": rows.start,
        "end": rows.end,
    }
    if text.size:
        arrays["text"] = text
    for number, fold in enumerate(rows.folds, start=1):
        arrays[f"folds/{number}/train"] = fold.train.numpy()
        arrays[f"folds/{number}/test"] = fold.test.numpy()
    for name, values in arrays.items():
        codecs = [ZstdCodec(), checksum]
        group.create_array(name, data=np.asarray(values), chunks=_chunks(values), compressors=codecs)


def _chunks(values: NDArray[np.generic]) -> tuple[int, ...]:
    return (max(1, min(SMALL_ROWS, len(values))), *values.shape[1:])


SMALL_ROWS = 1 << 16
"""Rows of everything but embeddings in a file."""
