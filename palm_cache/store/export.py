"""Feature stores in other places and formats, for those who want the embeddings and not us.

========== ==========================================================================================
``.zarr``  the same store, file by file, here or behind a URL; or an exported ``.h5`` back again
``.h5``    every array under its own name, ``class_names``, ``templates``, and the attributes as JSON in
           ``header``
``.npz``   the same, read whole by ``numpy.load``; a fold's rows are ``fold_1_train``, ``fold_1_test`` ...
``.parquet`` a row per clip: path, label, class name, hash, error, ``embedding`` (further views
           ``embedding_1`` ...), and per fold ``fold_1`` ...: train, test or both; the attributes as JSON in
           the metadata ``palm_cache``; no text embeddings, and not the order of the folds' tables
========== ==========================================================================================

Only a finished store is exported, every checksum is read on the way, and what is written appears whole or
not at all.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from palm_cache.errors import DamagedStoreError, OutputError, ParameterError, StoreError
from palm_cache.store import trees
from palm_cache.store.features import CHUNK_CLIPS, FeatureStore, read_header
from palm_cache.store.files import replacing, write_errors
from palm_cache.store.places import copy_files
from palm_cache.types import Clip, ClipTable, Fold, Place, Progress, no_progress

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
        If the source is missing, unfinished, damaged or being written to.
    OutputError
        If there is something at the target, or it cannot be written.
    """
    with write_errors(target):
        if target.exists():
            raise OutputError(f"{target}: there is something here already; remove it or choose another place")
    if source.suffix in (".h5", ".hdf5"):
        if target.suffix != ".zarr":
            raise ParameterError(f"{target}: an exported .h5 becomes a .zarr again, nothing else")
        return _from_hdf5(source, target, progress)
    if target.suffix not in FORMATS:
        raise ParameterError(f"{target}: the ending says the format; known: {', '.join(FORMATS)}")
    store = FeatureStore(source)
    if store.missing():
        raise StoreError(
            f"{source}: {len(store.missing())} of {store.n_chunks} chunks are not extracted yet; "
            "finish it with: palm-cache extract"
        )
    FORMATS[target.suffix](store, target, progress)
    return store.n_clips


def _check_steady(store: FeatureStore, digest: str) -> None:
    """Make sure that nobody has written to a store since its digest was taken."""
    if FeatureStore(store.path).digest() != digest:
        raise StoreError(f"{store.path}: an extraction has written to it meanwhile; wait for it to end")


def _chunks(store: FeatureStore, progress: Progress) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Read a store's embeddings chunk by chunk, so that memory does not grow with it."""
    for chunk in range(store.n_chunks):
        rows = store.rows(chunk)
        yield rows, store.read_chunk(chunk)
        progress("exporting", rows.stop, store.n_clips)


def _to_zarr(store: FeatureStore, target: Place, progress: Progress) -> None:
    digest = store.digest()
    for _ in _chunks(store, progress):
        pass  # a damaged chunk is found before anything is copied
    trees.copy(store.path, target, lambda: _check_steady(store, digest), progress)


def _to_hdf5(store: FeatureStore, target: Place, progress: Progress) -> None:
    header, digest, (hashes, errors) = store.header, store.digest(), store.hashes_and_errors()
    strings = {
        "path": store.clip_names(),
        "content_sha256": hashes,
        "error": errors,
        "class_names": header.class_names,
        "templates": header.templates,
    }
    with replacing(target) as temporary, h5py.File(temporary, "w") as file:
        file["header"] = json.dumps(asdict(header))
        file["text"] = store.text()
        file["label"] = store.labels().numpy()
        for name, values in strings.items():
            file.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype())
        for number, fold in enumerate(store.folds(), start=1):
            file[f"folds/{number}/train"] = fold.train.numpy()
            file[f"folds/{number}/test"] = fold.test.numpy()
        shape = (store.n_clips, header.views, header.dim)
        chunks = (min(CHUNK_CLIPS, store.n_clips), *shape[1:])
        audio = file.create_dataset("audio", shape, "float32", chunks=chunks, fletcher32=True)
        for rows, embeddings in _chunks(store, progress):
            audio[rows] = embeddings
        _check_steady(store, digest)


def _from_hdf5(source: Place, target: Place, progress: Progress) -> int:
    if not source.exists():
        raise StoreError(f"{source}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        path = source
        if not isinstance(path, Path):
            copy_files(path.parent, Path(folder), [path.name])
            path = Path(folder, path.name)
        try:
            with h5py.File(path) as file, trees.building(target) as temporary:
                return _rebuild(file, source, temporary, progress)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DamagedStoreError(f"{source}: not an exported feature store ({error})") from error


def _rebuild(file: h5py.File, source: Place, path: Path, progress: Progress) -> int:
    """Write an exported store as a feature store again."""
    header = read_header(json.loads(file["header"][()]), source)
    names, hashes, errors = (file[name].asstr()[:].tolist() for name in ("path", "content_sha256", "error"))
    clips = tuple(
        Clip(Path(name), name, label) for name, label in zip(names, file["label"][:].tolist(), strict=True)
    )
    folds = tuple(
        Fold(*(torch.from_numpy(file[f"folds/{number}/{part}"][:]) for part in ("train", "test")))
        for number in range(1, len(file["folds"]) + 1)
    )
    table = ClipTable(header.dataset, header.class_names, clips, folds)
    store = FeatureStore.create(path, header, table, torch.from_numpy(file["text"][:]))
    for chunk in range(store.n_chunks):
        rows = store.rows(chunk)
        store.write_chunk(chunk, file["audio"][rows], hashes[rows], errors[rows])
        progress("importing", rows.stop, store.n_clips)
    return store.n_clips


def _to_npz(store: FeatureStore, target: Place, progress: Progress) -> None:
    features, (hashes, errors) = store.read(), store.hashes_and_errors()
    folds = {
        f"fold_{number}_{part}": getattr(fold, part).numpy()
        for number, fold in enumerate(features.folds, start=1)
        for part in ("train", "test")
    }
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            header=json.dumps(asdict(store.header)),
            audio=features.audio.numpy(),
            text=features.text.numpy(),
            label=features.labels.numpy(),
            # As unicode of fixed width: nothing in the file needs to be unpickled.
            path=np.array(store.clip_names(), dtype=np.str_),
            content_sha256=np.array(hashes, dtype=np.str_),
            error=np.array(errors, dtype=np.str_),
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
    features, (hashes, errors) = store.read(), store.hashes_and_errors()
    columns: dict[str, object] = {
        "path": store.clip_names(),
        "label": features.labels.numpy(),
        "class_name": [features.class_names[label] for label in features.labels.tolist()],
        "content_sha256": hashes,
        "error": errors,
    }
    for view in range(features.audio.shape[1]):
        values = arrow.array(features.audio[:, view].numpy().ravel())
        name = f"embedding_{view}" if view else "embedding"
        columns[name] = arrow.FixedSizeListArray.from_arrays(values, store.header.dim)
    for number, fold in enumerate(features.folds, start=1):
        columns[f"fold_{number}"] = _parts(fold, store.n_clips)
    table = arrow.table(columns).replace_schema_metadata({"palm_cache": json.dumps(asdict(store.header))})
    with replacing(target) as temporary:
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
