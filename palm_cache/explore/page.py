"""The page: one file that needs nothing but a browser, and the clips where they shall be heard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DataError, counted
from palm_cache.explore.groups import group, with_unlabelled
from palm_cache.explore.projection import check_count, project
from palm_cache.explore.verdicts import PREDICTIONS, Verdicts, confusions, neighbour_votes, read_run
from palm_cache.extraction.datasets.texts import as_written
from palm_cache.extraction.whereabouts import first_below, roots_of
from palm_cache.pages.rendering import render
from palm_cache.params.use import LoadingParams, MapMethod, MapParams
from palm_cache.retrieval.sounds import sounds_folder
from palm_cache.store.atomic import check_target, replacing
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import StoreHeader
from palm_cache.store.outputs import MAP_PAGE
from palm_cache.types import Features, Place, Progress, no_progress
from palm_cache.types.stretches import stretch_text

METHOD_NAMES: dict[MapMethod, str] = {"tsne": "t-SNE", "pca": "principal components", "umap": "UMAP"}


@dataclass(frozen=True, slots=True)
class Page:
    """What was written."""

    file: Path
    n_clips: int
    notes: tuple[str, ...]


def write_page(
    store: Place,
    out: Path,
    by: MapParams = MapParams(),  # noqa: B008  # frozen
    *,
    loading: LoadingParams = LoadingParams(),  # noqa: B008
    audio: Path | None = None,
    progress: Progress = no_progress,
) -> Page:
    """Write the map of a feature store, its centre crops, as one HTML file.

    Parameters
    ----------
    by : MapParams
        With a run's predictions clips are judged by them, else by their neighbours.
    loading : LoadingParams
        Of the encoder, for a text and some heads.
    audio : Path, optional
        The dataset's folder, which the page plays clips from by relative addresses; by default where the
        dataset lay, and beside the page if it is not there. Of rows that are stretches of a file the page
        plays the stretch.

    Raises
    ------
    StoreError
        If the store or the predictions are missing or damaged.
    StaleStoreError
        If the predictions were made on another state of the store.
    DataError
        If there are too few clips, or none of them lies below ``audio``.
    OutputError
        If the page cannot be written, or another file is there.
    """
    check_target(out, "out", MAP_PAGE)
    opened = FeatureStore(store)
    features, paths = opened.read(), opened.clip_names()
    usable = np.flatnonzero(features.usable.numpy())
    check_count(len(usable))
    sounds, notes = _sounds(opened.header, audio, out, [paths[row] for row in usable])
    if len(usable) < len(paths):
        notes.append(
            f"{counted(len(paths) - len(usable), 'clip has', 'clips have')} no embedding and are not on "
            "the map"
        )
    start, end = opened.stretches()
    # First what may be refused, then what takes long.
    if by.predictions or (by.run and not by.head):
        verdicts, caption = read_run(by.predictions or PREDICTIONS, by.run, features, store), ""
        features = with_unlabelled(features)
    else:
        features, caption = group(features, store, by, loading)
        verdicts = neighbour_votes(features, progress)
    labels = features.labels.numpy()[usable]
    verdicts = Verdicts(verdicts.run, verdicts.said[usable], verdicts.share[usable])
    places = project(features.audio[usable, 0].numpy(), by.method, progress=progress)
    data = {
        "classes": features.class_names,
        **sounds,
        "start": start[usable].tolist(),
        "end": [None if isnan(second) else second for second in end[usable].tolist()],
        "path": [" ".join(filter(None, (paths[row], stretch_text(start[row], end[row])))) for row in usable],
        "label": labels.tolist(),
        "x": np.rint(10_000 * places[:, 0]).astype(int).tolist(),
        "y": np.rint(10_000 * places[:, 1]).astype(int).tolist(),
        "said": verdicts.said.tolist(),
        "share": np.round(verdicts.share, 4).tolist(),
        "verdict": f"{verdicts.run} says" if verdicts.run else "Neighbours say",
        "verdicts": _words(of_run=bool(verdicts.run), of_classes=not caption),
    }
    with replacing(out, kind=MAP_PAGE) as temporary:
        temporary.write_text(_render(features, labels, verdicts, by.method, data, caption), encoding="utf-8")
    return Page(out, len(usable), tuple(notes))


def _render(
    features: Features,
    labels: NDArray[np.int64],
    verdicts: Verdicts,
    method: MapMethod,
    data: dict[str, object],
    caption: str,
) -> str:
    return render(
        Path(__file__).with_name("template"),
        "map.html.j2",
        styles=("map.css",),
        scripts=("map.js", "page.js"),
        command="explore",
        media="'self' file:",
        features=features,
        verdicts=verdicts,
        confusions=confusions(verdicts, labels, len(features.class_names)),
        counts=np.bincount(labels, minlength=len(features.class_names)).tolist(),
        judged=int((verdicts.said >= 0).sum()),
        right=int((verdicts.said == labels).sum()),
        method=METHOD_NAMES[method],
        data=data,
        caption=caption,
    )


def _words(*, of_run: bool, of_classes: bool) -> dict[str, str]:
    """Return what it is called that a clip's label is the one that was said, and that it is another."""
    if of_run:
        return {"right": "correct", "wrong": "wrong"}
    what = "class" if of_classes else "colour"
    return {"right": f"same {what}", "wrong": f"another {what}"}


def _sounds(
    header: StoreHeader, audio: Path | None, out: Path, paths: Sequence[str]
) -> tuple[dict[str, object], list[str]]:
    """Return where the page finds the sounds of its clips, and what should be said about it.

    Returns
    -------
    sounds : dict
        ``audio``: address of the folder as the page sees it; ``files``: addresses below it; ``file``: for
        every clip the number of its file. A file that is gone has the address at which it should lie.
    notes : list of str
    """
    names = list(dict.fromkeys(paths))
    sounds_folder(audio)
    roots = [audio] if audio is not None else [root for root in roots_of(header) if isinstance(root, Path)]
    root, there = first_below(header, names, roots)
    if root is None and audio is not None:
        raise DataError(
            f"`audio` {audio}: none of the clips lies in it, e.g. {names[0]}; give the dataset's folder"
        )
    address, notes = "./", []
    if root is not None:
        relative = Path(os.path.relpath(Path(str(root)).resolve(), out.resolve().parent)).as_posix()
        address = f"{_address(relative)}/"
        if absent := [path for path in paths if path not in there]:
            notes.append(f"{counted(len(absent), 'clip is', 'clips are')} not below {root}, e.g. {absent[0]}")
    inside = [
        Path(str(there[name])).relative_to(str(root)).as_posix() if name in there else as_written(name)
        for name in names
    ]
    number = {name: place for place, name in enumerate(names)}
    return {
        "audio": address,
        "files": list(map(_address, inside)),
        "file": [number[path] for path in paths],
    }, notes


def _address(path: str) -> str:
    return quote_from_bytes(os.fsencode(path))
