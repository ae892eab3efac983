"""Feature stores in other places and formats, for those who want the embeddings and not us.

What each format holds, ``docs/pages/elsewhere.md`` says. Every checksum is read on the way, and what is
written appears whole or not at all. An ``.h5`` that is read back may come from anybody: nothing in it may
point elsewhere or claim more than it holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DamagedStoreError, OutputError, ParameterError, StoreError
from palm_cache.store.atomic import parse_json, replacing, write_errors
from palm_cache.store.features import CHUNK_ROWS, FeatureStore, fold_parts
from palm_cache.store.hdf5 import DAMAGE, array, growing, members, tensor
from palm_cache.store.header import StoredRows, check_format, read_header
from palm_cache.store.layout import STORE_ROOT
from palm_cache.store.places import folder, opened
from palm_cache.store.writing import name_source, publish, write_store
from palm_cache.types import Fold, Place, Progress, no_progress

Write = Callable[[FeatureStore, Place, Progress], None]


def export(source: Place, target: Place, progress: Progress = no_progress) -> int:
    """Write a feature store in another place or format, by the ending of the target; return how many clips.

    The source may also be the ``.h5`` of a store, which becomes one again; at the target is nothing yet.

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
    texts = {**rows.texts(), "class_names": header.class_names, "templates": header.templates}
    with replacing(target, "target") as temporary, growing(temporary) as file:
        file["header"] = json.dumps(asdict(header))
        for name, values in {**rows.arrays(), "text": store.text()}.items():
            file[name] = values
        for name, words in texts.items():
            file.create_dataset(name, data=np.array(words, dtype=object), dtype=h5py.string_dtype())
        shape = (store.n_clips, header.views, header.dim)
        chunks = (max(1, min(CHUNK_ROWS, store.n_clips)), *shape[1:])
        audio = file.create_dataset("audio", shape, "float32", chunks=chunks, fletcher32=True)
        for span in store.spans():
            audio[span] = store.audio(span)
            progress("exporting", span.stop, store.n_clips)
        store.check_steady()


def _from_hdf5(source: Place, target: Place, progress: Progress) -> int:
    try:
        with opened(source) as content, h5py.File(content) as file:
            return _rebuild(file, source, target, progress)
    except FileNotFoundError:
        raise StoreError(f"{source}: no such file") from None
    except DAMAGE as error:
        raise DamagedStoreError(f"{source}: not an exported feature store ({error})") from error


def _rebuild(file: h5py.File, source: Place, target: Place, progress: Progress) -> int:
    """Write an exported store as a feature store again."""

    def numbers(name: str) -> NDArray[Any]:
        return array(_member(file, name))

    def texts(name: str) -> list[str]:
        return list(_member(file, name).asstr()[:].tolist())

    words = parse_json(_member(file, "header")[()])
    check_format(words, source)
    header, names = read_header(words), texts("path")
    folds = tuple(
        Fold(*(tensor(_member(file, f"folds/{number}/{part}")) for part in ("train", "test")))
        for number in sorted(map(int, file.get("folds", ())))
    )
    rows = StoredRows(
        names=names,
        start=numbers("start"),
        end=numbers("end"),
        labels=numbers("label"),
        contents=numbers("content_sha256"),
        errors=dict(zip(numbers("errors/row").tolist(), texts("errors/reason"), strict=True)),
        folds=folds,
        groups=texts("group") if "group" in file else None,
    )
    audio = _member(file, "audio")
    if audio.dtype.kind != "f" or audio.id.get_storage_size() < audio.nbytes:
        raise ValueError("audio is not stored whole")
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

    write_store(target, header, rows, numbers("text"), embeddings)
    return len(names)


def _member(file: h5py.File, name: str) -> h5py.Dataset:
    """Return an array of a file of anybody's: it must lie in the file itself."""
    member: Any = file
    for part in name.split("/"):
        member = members(member)[part]
    if not isinstance(member, h5py.Dataset) or member.external or member.is_virtual:
        raise ValueError(f"{name} is not an array in the file itself")
    if member.size > file.id.get_filesize():
        raise ValueError(f"{name} claims {member.size} values, more than the file has bytes")
    return member


def _per_clip(store: FeatureStore, rows: StoredRows) -> dict[str, Any]:
    """Return what there is of every clip but its embeddings."""
    return {
        "path": rows.names,
        "start": rows.start,
        "end": rows.end,
        "label": rows.labels,
        "content_sha256": store.content_hashes(),
        "error": [rows.errors.get(row, "") for row in range(store.n_clips)],
    }


def _to_npz(store: FeatureStore, target: Place, progress: Progress) -> None:
    features, rows = store.read(), store.rows()
    texts = {"class_names": features.class_names, "templates": features.templates}
    folds = {
        f"fold_{number}_{part}": getattr(fold, part).numpy()
        for number, fold in enumerate(rows.folds, start=1)
        for part in ("train", "test")
    }
    # Text as unicode of fixed width: nothing in the file needs to be unpickled.
    columns: dict[str, Any] = {
        name: values if isinstance(values, np.ndarray) else np.array(values, np.str_)
        for name, values in {**_per_clip(store, rows), **texts}.items()
    }
    with replacing(target, "target") as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            header=json.dumps(asdict(store.header)),
            audio=features.audio.numpy(),
            text=features.text.numpy(),
            **columns,
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
    columns = _per_clip(store, rows)
    columns["end"] = arrow.array(rows.end, from_pandas=True)
    columns["class_name"] = np.array([*features.class_names, None], object)[rows.labels]
    for view in range(features.audio.shape[1]):
        values = arrow.array(features.audio[:, view].numpy().ravel())
        name = f"embedding_{view}" if view else "embedding"
        columns[name] = arrow.FixedSizeListArray.from_arrays(values, store.header.dim)
    for number, fold in enumerate(features.folds, start=1):
        columns[f"fold_{number}"] = fold_parts(fold, store.n_clips)
    table = arrow.table(columns).replace_schema_metadata({"palm_cache": json.dumps(asdict(store.header))})
    with replacing(target, "target") as temporary:
        parquet.write_table(table, temporary)
    progress("exporting", store.n_clips, store.n_clips)


FORMATS: dict[str, Write] = {
    ".zarr": _to_zarr,
    ".h5": _to_hdf5,
    ".hdf5": _to_hdf5,
    ".npz": _to_npz,
    ".parquet": _to_parquet,
}
