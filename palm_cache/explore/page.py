"""The page: one file that needs nothing but a browser, and the clips where they shall be heard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np

from palm_cache.errors import DataError
from palm_cache.explore.groups import Grouping, group, with_unlabelled
from palm_cache.explore.projection import project
from palm_cache.explore.rendering import render
from palm_cache.explore.verdicts import Verdicts, confusions, neighbour_votes, read_run
from palm_cache.params import MapMethod
from palm_cache.store.atomic import keep_inputs, replacing
from palm_cache.store.features import FeatureStore
from palm_cache.types import Features, Place, Progress, no_progress

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
    *,
    method: MapMethod = "tsne",
    predictions: Path | None = None,
    run: str | None = None,
    by: Grouping = Grouping(),  # noqa: B008  # frozen
    audio: Path | None = None,
    progress: Progress = no_progress,
) -> Page:
    """Write the map of a feature store, its centre crops, as one HTML file.

    Parameters
    ----------
    predictions : Path, optional
        A ``predictions.h5``; without it clips are judged by their neighbours.
    run : str, optional
        Which run of it; see :func:`~palm_cache.explore.verdicts.read_run`.
    by : Grouping
        What clips are coloured by; a store without labels by clusters.
    audio : Path, optional
        The dataset's folder, which the page then plays clips from by relative addresses; without it the page
        looks beside itself.

    Raises
    ------
    StoreError
        If the store or the predictions are missing or damaged.
    StaleStoreError
        If the predictions were made on another state of the store.
    DataError
        If there are too few clips, or none of them lies below ``audio``.
    OutputError
        If the page cannot be written.
    """
    opened = FeatureStore(store)
    features, paths = opened.read(), opened.clip_names()
    keep_inputs([out], [predictions] if predictions else [], "--out")
    keep_inputs([out], [audio / path for path in paths] if audio else [], "--out")
    usable = np.flatnonzero(features.usable.numpy())
    address, notes = _audio_address(audio, out, [paths[row] for row in usable])
    if len(usable) < len(paths):
        notes.append(f"{len(paths) - len(usable)} clip(s) have no embedding and are not on the map")
    # First what may be refused, then what takes long.
    if predictions:
        verdicts, told = read_run(predictions, run, features), ""
        features = with_unlabelled(features)
    else:
        features, told = group(features, store, by)
        verdicts = neighbour_votes(features)
    places = project(features.audio[usable, 0].numpy(), method, progress=progress)
    data = {
        "classes": features.class_names,
        "audio": address,
        "path": [paths[row] for row in usable],
        "label": features.labels.numpy()[usable].tolist(),
        "x": np.rint(10_000 * places[:, 0]).astype(int).tolist(),
        "y": np.rint(10_000 * places[:, 1]).astype(int).tolist(),
        "said": verdicts.said[usable].tolist(),
        "share": np.round(verdicts.share[usable], 4).tolist(),
        "verdict": f"{verdicts.run} says" if verdicts.run else "Neighbours say",
    }
    with replacing(out) as temporary:
        temporary.write_text(_render(features, verdicts, method, paths, data, told), encoding="utf-8")
    return Page(out, len(usable), tuple(notes))


def _render(
    features: Features,
    verdicts: Verdicts,
    method: MapMethod,
    paths: Sequence[str],
    data: dict[str, object],
    told: str,
) -> str:
    labels, predicted = features.labels.numpy(), verdicts.said
    place_of = np.cumsum(features.usable.numpy()) - 1  # of a row among the clips on the map
    return render(
        "page.html.j2",
        styles=("page.css",),
        scripts=("map.js", "page.js"),
        features=features,
        verdicts=verdicts,
        confusions=confusions(verdicts, features),
        counts=np.bincount(labels[features.usable.numpy()], minlength=len(features.class_names)).tolist(),
        judged=int((predicted >= 0).sum()),
        right=int((predicted == labels).sum()),
        method=METHOD_NAMES[method],
        paths=paths,
        place_of=place_of.tolist(),
        data=data,
        told=told,
    )


def _audio_address(audio: Path | None, out: Path, paths: Sequence[str]) -> tuple[str, list[str]]:
    """Return the address of the clips' folder as the page sees it, and what should be said about it."""
    if audio is None:
        return "./", []
    if not audio.is_dir():
        raise DataError(f"--audio {audio}: no such folder; give the dataset's, which paths are relative to")
    absent = [path for path in paths if not (audio / path).is_file()]
    if paths and len(absent) == len(paths):
        raise DataError(
            f"--audio {audio}: none of the clips lies in it, e.g. {paths[0]}; give the dataset's folder"
        )
    notes = [f"{len(absent)} clip(s) are not below {audio}, e.g. {absent[0]}"] if absent else []
    relative = Path(os.path.relpath(audio.resolve(), out.resolve().parent)).as_posix()
    return f"{quote_from_bytes(os.fsencode(relative))}/", notes
