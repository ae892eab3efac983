"""Writing a feature store: built whole beside its place or on this machine, then put there at once.

What lies at the place and is not a store of ours is never touched. Whose a file is, a store says itself: its
root bears its id and names every file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from palm_cache.errors import OutputError, StoreError
from palm_cache.store.atomic import named, parse_json, write_errors
from palm_cache.store.features import CHUNK_ROWS, FeatureStore, chunk_name
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.header import StoredRows, StoreHeader, row_keys, written_source
from palm_cache.store.layout import STORE_ROOT
from palm_cache.store.places import Folder, folder
from palm_cache.store.root import UNFINISHED_MARK, file_hash, root_hash
from palm_cache.types import Place

_MEMBERS = "audio|content_sha256|errors?|text|path|label|start|end|group|folds"
_OF_A_STORE = re.compile(
    rf"zarr\.json|({_MEMBERS})(/(row|reason|\d+|train|test))*/(zarr\.json|c(/\d+)+(\.\w+\.partial)?)"
)
"""Names of files of a store: a manifest, which may be damaged or forged, can claim no others."""


def write_store(
    path: Place,
    header: StoreHeader,
    rows: StoredRows,
    text: NDArray[np.float32],
    audio: Callable[[slice], NDArray[np.float32]],
    *,
    before: FeatureStore | None = None,
) -> None:
    """Write a store in the place of whatever store of ours is there.

    Parameters
    ----------
    header : StoreHeader
        Its id and its hashes are given here.
    text : array, shape (n_classes, n_templates, dim)
    audio : callable
        From some rows, ``CHUNK_ROWS`` at most, to their embeddings, (rows, views, dim).
    before : FeatureStore, optional
        The store that was there: its files of embeddings are taken over where their rows are the same.

    Raises ``OutputError`` if it cannot be written, or something else lies there.
    """
    where = folder(named(path))
    claimed_files(where)  # before the work: may the store be written here?
    header = replace(
        header,
        source=written_source(header.source, path.parent),
        rows_sha256=rows.sha256(header.class_names),
        text_sha256=hashlib.sha256(np.ascontiguousarray(text).tobytes()).hexdigest(),
    )
    with write_errors(path), where.workspace() as work:
        built = Path(work, "store")
        group = zarr.create_group(built, attributes=asdict(header))
        carried = (
            _carry_over(before, built, rows)
            if before and before.header.fingerprint == header.fingerprint
            else {}
        )
        _write_audio(group, header, len(rows.names), audio, carried)
        _write_rows(group, rows, text)
        _seal(built, carried)
        publish(built, where)


def publish(built: Path, where: Folder) -> None:
    """Put a store that was built here in the place of the one there; raises as :func:`claimed_files`."""
    names = [path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()]
    claim = {UNFINISHED_MARK: sorted({*names, *claimed_files(where)})}
    where.publish(built, claimed_files, STORE_ROOT, json.dumps(claim).encode())


def _seal(built: Path, known: Mapping[str, tuple[int, str]]) -> None:
    """Add the manifest, of which a part is known, to the root of a store."""
    names = folder(built).files().keys() - {STORE_ROOT} - known.keys()
    with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
        new = zip(names, pool.map(partial(_size_and_hash, built), names), strict=True)
        _change_root(built, files=dict(sorted([*known.items(), *new])))


def _size_and_hash(built: Path, name: str) -> tuple[int, str]:
    content = folder(built).read(name)
    return len(content), file_hash(content)


def name_source(built: Path, source: str, folder: Place) -> None:
    """Let a copy of a store say where its dataset lies as one in another folder says it."""
    written = written_source(source, folder)
    if written != json.loads((built / STORE_ROOT).read_bytes())["attributes"]["source"]:
        _change_root(built, source=written)


def _change_root(built: Path, **changes: object) -> None:
    """Change attributes of a root, and give it its id and its hash."""
    root = json.loads((built / STORE_ROOT).read_bytes())
    attributes = {**root["attributes"], **changes, "id": ""}
    attributes.pop("sha256", None)
    # Of the content: DVC, which removes a store before it is made anew, then sees that nothing has changed.
    attributes["id"] = fingerprint(attributes)[:32]
    root["attributes"] = attributes
    attributes["sha256"] = root_hash(json.loads(json.dumps(root)))
    (built / STORE_ROOT).write_text(json.dumps(root), encoding="utf-8")


def claimed_files(where: Folder) -> set[str]:
    """Return the files of the store at a place, which may go; raises ``OutputError`` where others lie."""
    place = where.place
    with write_errors(place):
        try:
            content, present = where.read(STORE_ROOT), where.files()
        except (FileNotFoundError, NotADirectoryError):
            stranger = _any_file(place)
            if stranger is None:
                return set()
            if (place / STORE_ROOT).is_file():  # put there a moment ago
                return claimed_files(where)
            content, present = b"", {stranger: 0}
    if listed := _listed(content):
        return {STORE_ROOT, *filter(_OF_A_STORE.fullmatch, listed)}.intersection(present)
    if all(f'"{key}": '.encode() in content for key in ("format_version", "fingerprint", "encoder")):
        return set(filter(_OF_A_STORE.fullmatch, present))
    if (place / "audio" / STORE_ROOT).exists() and (place / "content_sha256" / STORE_ROOT).exists():
        raise OutputError(
            f"{place}: looks like a feature store that has lost its {STORE_ROOT}; if it is one, remove it: "
            "the cache makes it anew"
        )
    raise OutputError(
        f"{place}: there is something else here ({min(present, default=STORE_ROOT)}), not a feature store; "
        "choose another place with `out`"
    )


def _any_file(place: Place) -> str | None:
    """Return the name of one file at a place: it may hold a whole disk, and empty folders are no one's."""
    found = place.rglob("*") if place.is_dir() else [place] if place.exists() else []
    return next((path.name for path in found if not path.is_dir()), None)


def _listed(root: bytes) -> set[str]:
    """Return the files that a root names, none if it cannot be read or is of format 1."""
    try:
        content = parse_json(root)
        listed = content.get(UNFINISHED_MARK) or content["attributes"]["files"]
        return set(map(str, listed)) if isinstance(listed, list | dict) else set()
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def _carry_over(before: FeatureStore, built: Path, rows: StoredRows) -> dict[str, tuple[int, str]]:
    """Give files of embeddings whose rows are the same to a store that is built; return their manifest.

    Both stores then have one file, which is never written to: it goes with the last of its names.
    """

    def carry(name: str) -> bool:
        file = built / name
        file.parent.mkdir(parents=True)
        with suppress(OSError):  # gone with a store that another process has replaced
            folder(before.path).link(name, file)
            if _size_and_hash(built, name) == before.manifest[name]:
                return True
        shutil.rmtree(file.parent.parent)
        return False

    names = [name for name in map(chunk_name, _unchanged(before, rows)) if name in before.manifest]
    with ThreadPoolExecutor() as pool:
        carried = pool.map(carry, names)
        return {name: before.manifest[name] for name, whole in zip(names, carried, strict=True) if whole}


def _unchanged(store: FeatureStore, rows: StoredRows) -> list[int]:
    """Return the numbers of the files of embeddings that hold the same rows in another table."""
    try:
        n_before, n_now = store.n_clips, len(rows.names)
        if min(n_before, CHUNK_ROWS) != min(n_now, CHUNK_ROWS):  # of another shape
            return []
        same = np.ones(min(n_before, n_now), bool)
        for at in range(0, len(same), SMALL_ROWS):
            some = slice(at, min(at + SMALL_ROWS, len(same)))
            was = row_keys(store.contents(some), *store.stretches(some))
            now = row_keys(rows.contents[some], rows.start[some], rows.end[some])
            same[some] = (was == now).all(axis=1)
        same[[row for row in store.errors().keys() ^ rows.errors.keys() if row < len(same)]] = False
    except StoreError:  # damaged, or replaced meanwhile
        return []
    files = range(0, len(same) if n_before == n_now else len(same) // CHUNK_ROWS * CHUNK_ROWS, CHUNK_ROWS)
    return [first // CHUNK_ROWS for first in files if same[first : first + CHUNK_ROWS].all()]


def _write_audio(
    group: zarr.Group,
    header: StoreHeader,
    n_rows: int,
    audio: Callable[[slice], NDArray[np.float32]],
    there: Collection[str],
) -> None:
    """Write the embeddings, but for the files that are there already."""
    # Embeddings are noise to a compressor: a checksum is all they need.
    array = group.create_array(
        "audio",
        shape=(n_rows, header.views, header.dim),
        chunks=(max(1, min(CHUNK_ROWS, n_rows)), header.views, header.dim),
        dtype="float32",
        compressors=[Crc32cCodec()],
        fill_value=0.0,
    )
    for number, start in enumerate(range(0, n_rows, CHUNK_ROWS)):
        if chunk_name(number) not in there:
            some = slice(start, min(start + CHUNK_ROWS, n_rows))
            array[some] = audio(some)


def _write_rows(group: zarr.Group, rows: StoredRows, text: NDArray[np.float32]) -> None:
    """Write all but the embeddings of sounds."""
    codecs = [ZstdCodec(), Crc32cCodec()]
    columns: dict[str, Any] = {**rows.arrays(), **rows.texts(), **({"text": text} if text.size else {})}
    for name, values in columns.items():
        numbers = isinstance(values, np.ndarray)
        shape = values.shape if numbers else (len(values),)
        dtype = values.dtype if numbers else np.dtypes.StringDType()
        chunks = (_chunk(values), *shape[1:])
        column = group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, compressors=codecs)
        for at in range(0, len(values), SMALL_ROWS):  # zarr would work on all of it at once
            column[at : at + SMALL_ROWS] = np.asarray(values[at : at + SMALL_ROWS], dtype)


def _chunk(values: Sized) -> int:
    return max(1, min(SMALL_ROWS, len(values)))


SMALL_ROWS = 1 << 16
"""Rows of everything but embeddings in a file."""
