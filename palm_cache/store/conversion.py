"""Feature stores in other places and formats, for those who want the embeddings and not us.

========== ==========================================================================================
``.zarr``  the same store, file by file, here or behind a URL; or an exported ``.h5`` back again
``.h5``    every array under its own name, ``class_names``, ``templates``, and the attributes as JSON in
           ``header``
``.npz``   the same, read whole by ``numpy.load``; a fold's rows are ``fold_1_train``, ``fold_1_test`` ...
``.parquet`` a row per clip: path, start, end, label, class name, hash, error, ``embedding`` (further views
           ``embedding_1`` ...), and per fold ``fold_1`` ...: train, test or both; the attributes as JSON in
           the metadata ``palm_cache``; no text embeddings, and not the order of the folds' tables
========== ==========================================================================================

Every checksum is read on the way, and what is written appears whole or not at all. An ``.h5`` that is read
back may come from anybody: nothing in it may point elsewhere or claim more than it holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from palm_cache.errors import DamagedStoreError, OutputError, ParameterError, StoreError
from palm_cache.store.atomic import parse_json, replacing, write_errors
from palm_cache.store.features import CHUNK_ROWS, FeatureStore
from palm_cache.store.hdf5 import growing
from palm_cache.store.header import StoredRows, check_format, read_header
from palm_cache.store.layout import STORE_ROOT
from palm_cache.store.places import folder, opened
from palm_cache.store.writing import name_source, publish, write_store
from palm_cache.types import Fold, Place, Progress, no_progress

Write = Callable[[FeatureStore, Place, Progress], None]


def export(source: Place, target: Place, progress: Progress = no_progress) -> int:
    """Write a feature store in another place or format, by the ending of the target.

    Parameters
    ----------
    source : Place
        A feature store, or the ``.h5`` of one, which becomes a store again.
    target : Place
        Where nothing is yet.

    Returns
    -------
    int
        Number of clips.

    Raises
    ------
    ParameterError
        If the formats are not known.
    StoreError
        If the source is missing, damaged or replaced meanwhile.
    OutputError
        If there is something at the target, or it cannot be written.
    """
    with write_errors(target, "target"):
        if target.exists():
            raise OutputError(f"{target}: there is something here already; remove it or choose another place")
    if source.suffix in (".h5", ".hdf5"):
        if target.suffix != ".zarr":
            raise ParameterError(f"{target}: an exported .h5 becomes a .zarr again, nothing else")
        return _from_hdf5(source, target, progress)
    if target.suffix not in FORMATS:
        raise ParameterError(f"{target}: the ending says the format; known: {', '.join(FORMATS)}")
    store = FeatureStore(source)
    FORMATS[target.suffix](store, target, progress)
    return store.n_clips


def _blocks(store: FeatureStore, progress: Progress) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    for rows, audio in store.blocks():
        yield rows, audio
        progress("exporting", rows.stop, store.n_clips)
    store.check_steady()


def _to_zarr(store: FeatureStore, target: Place, progress: Progress) -> None:
    problems = store.file_problems("everything")
    if problems:
        raise store.damaged(problems[0])
    source, where = folder(store.path), folder(target)
    names = [*store.manifest, STORE_ROOT]
    with write_errors(target, "target"), where.workspace() as work:
        built = Path(work, "store")
        for number, name in enumerate(names, start=1):
            (built / name).parent.mkdir(parents=True, exist_ok=True)
            source.fetch(name, built / name)
            progress("copying", number, len(names))
        store.check_steady()
        name_source(built, store.header.source, target.parent)
        publish(built, where)


def _to_hdf5(store: FeatureStore, target: Place, progress: Progress) -> None:
    header, rows = store.header, store.rows()
    arrays = {
        "text": store.text(),
        "label": rows.labels,
        "start": rows.start,
        "end": rows.end,
        "content_sha256": rows.contents,
        "errors/row": np.array(list(rows.errors), np.int64),
    }
    strings = {
        "path": rows.names,
        "errors/reason": list(rows.errors.values()),
        "class_names": header.class_names,
        "templates": header.templates,
        **({} if rows.groups is None else {"group": rows.groups}),
    }
    with replacing(target, "target") as temporary, growing(temporary) as file:
        file["header"] = json.dumps(asdict(header))
        for name, values in arrays.items():
            file[name] = values
        for name, texts in strings.items():
            file.create_dataset(name, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())
        for number, fold in enumerate(rows.folds, start=1):
            file[f"folds/{number}/train"] = fold.train.numpy()
            file[f"folds/{number}/test"] = fold.test.numpy()
        shape = (store.n_clips, header.views, header.dim)
        chunks = (max(1, min(CHUNK_ROWS, store.n_clips)), *shape[1:])
        audio = file.create_dataset("audio", shape, "float32", chunks=chunks, fletcher32=True)
        for span, embeddings in _blocks(store, progress):
            audio[span] = embeddings


def _from_hdf5(source: Place, target: Place, progress: Progress) -> int:
    try:
        with opened(source) as content, h5py.File(content) as file:
            return _rebuild(file, source, target, progress)
    except FileNotFoundError:
        raise StoreError(f"{source}: no such file") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedStoreError(f"{source}: not an exported feature store ({error})") from error


def _rebuild(file: h5py.File, source: Place, target: Place, progress: Progress) -> int:
    """Write an exported store as a feature store again."""
    words = parse_json(_member(file, "header")[()])
    check_format(words, source)
    header = read_header(words)
    names = _member(file, "path").asstr()[:].tolist()
    numbers = sorted(int(name) for name in file["folds"]) if "folds" in file else []
    folds = tuple(
        Fold(*(torch.from_numpy(_numbers(file, f"folds/{number}/{part}")) for part in ("train", "test")))
        for number in numbers
    )
    reasons = _member(file, "errors/reason").asstr()[:].tolist()
    rows = StoredRows(
        names=names,
        start=_numbers(file, "start"),
        end=_numbers(file, "end"),
        labels=_numbers(file, "label"),
        contents=_numbers(file, "content_sha256"),
        errors=dict(zip(_numbers(file, "errors/row").tolist(), reasons, strict=True)),
        folds=folds,
        groups=_member(file, "group").asstr()[:].tolist() if "group" in file else None,
    )
    audio = _stored(_member(file, "audio"))
    text = _numbers(file, "text")
    if audio.shape != (len(names), header.views, header.dim) or rows.contents.shape != (len(names), 32):
        raise ValueError(f"audio of shape {audio.shape} for {len(names)} rows")
    if rows.sha256(header.class_names) != header.rows_sha256:
        raise ValueError("paths, labels, hashes or folds are not those of the header")

    def embeddings(some: slice) -> NDArray[np.float32]:
        block: NDArray[np.float32] = audio[some]
        if not np.isfinite(block).all():
            raise ValueError("audio holds NaN or infinity")
        progress("importing", some.stop, len(names))
        return block

    write_store(target, header, rows, text, embeddings)
    return len(names)


def _member(file: h5py.File, name: str) -> h5py.Dataset:
    """Return an array of a file of anybody's: it must lie in the file itself."""
    group: Any = file
    for part in name.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is not in the file itself")
        group = group[part]
    if not isinstance(group, h5py.Dataset) or group.external or group.is_virtual:
        raise ValueError(f"{name} is not an array in the file itself")
    if group.size > file.id.get_filesize():
        raise ValueError(f"{name} claims {group.size} values, more than the file has bytes")
    return group


def _stored(member: h5py.Dataset) -> h5py.Dataset:
    """Refuse an array that claims to be larger than what is stored of it."""
    if member.dtype.kind not in "fiu" or member.id.get_storage_size() < member.nbytes:
        raise ValueError(f"{member.name} is not stored whole")
    return member


def _numbers(file: h5py.File, name: str) -> NDArray[Any]:
    return np.asarray(_stored(_member(file, name))[()])


def _to_npz(store: FeatureStore, target: Place, progress: Progress) -> None:
    features, rows = store.read(), store.rows()
    folds = {
        f"fold_{number}_{part}": getattr(fold, part).numpy()
        for number, fold in enumerate(rows.folds, start=1)
        for part in ("train", "test")
    }
    with replacing(target, "target") as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            header=json.dumps(asdict(store.header)),
            audio=features.audio.numpy(),
            text=features.text.numpy(),
            label=rows.labels,
            start=rows.start,
            end=rows.end,
            # As unicode of fixed width: nothing in the file needs to be unpickled.
            path=np.array(rows.names, dtype=np.str_),
            content_sha256=np.array(store.content_hashes(), dtype=np.str_),
            error=np.array([rows.errors.get(row, "") for row in range(store.n_clips)], dtype=np.str_),
            class_names=np.array(features.class_names, dtype=np.str_),
            templates=np.array(features.templates, dtype=np.str_),
            **folds,
        )
    progress("exporting", store.n_clips, store.n_clips)


def _to_parquet(store: FeatureStore, target: Place, progress: Progress) -> None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise ParameterError(f"{target}: Parquet needs pyarrow: pip install 'palm-cache[parquet]'") from error
    features, rows = store.read(), store.rows()
    columns: dict[str, object] = {
        "path": rows.names,
        "start": rows.start,
        "end": arrow.array(rows.end, from_pandas=True),
        "label": rows.labels,
        "class_name": [features.class_names[label] if label >= 0 else None for label in rows.labels.tolist()],
        "content_sha256": store.content_hashes(),
        "error": [rows.errors.get(row, "") for row in range(store.n_clips)],
    }
    for view in range(features.audio.shape[1]):
        values = arrow.array(features.audio[:, view].numpy().ravel())
        name = f"embedding_{view}" if view else "embedding"
        columns[name] = arrow.FixedSizeListArray.from_arrays(values, store.header.dim)
    for number, fold in enumerate(features.folds, start=1):
        columns[f"fold_{number}"] = _parts(fold, store.n_clips)
    table = arrow.table(columns).replace_schema_metadata({"palm_cache": json.dumps(asdict(store.header))})
    with replacing(target, "target") as temporary:
        parquet.write_table(table, temporary)
    progress("exporting", store.n_clips, store.n_clips)


def _parts(fold: Fold, n_clips: int) -> list[str | None]:
    """Return in which tables of a fold every clip is."""
    train, test = set(fold.train.tolist()), set(fold.test.tolist())
    names = {(True, False): "train", (False, True): "test", (True, True): "train and test"}
    return [names.get((row in train, row in test)) for row in range(n_clips)]


FORMATS: dict[str, Write] = {
    ".zarr": _to_zarr,
    ".h5": _to_hdf5,
    ".hdf5": _to_hdf5,
    ".npz": _to_npz,
    ".parquet": _to_parquet,
}
