"""The verb ``predict`` of the Python interface: what is heard in files, as a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from palm_cache.params import CLIP_TOKENIZER
from palm_cache.prediction.answers import Failure, Prediction, Stretch, answer
from palm_cache.prediction.classifier import Classifier
from palm_cache.prediction.clips import predict_files
from palm_cache.prediction.inputs import find_recordings
from palm_cache.prediction.timeline import Sliding, join, listen
from palm_cache.store.heads import run_name
from palm_cache.types import AnyPath, Progress, no_progress


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What :func:`predict` heard."""

    table: pd.DataFrame
    """One row per file, or per stretch of a recording: ``path``, with ``timeline`` ``start`` and ``end`` in
    seconds, ``label`` (missing where no class reaches the threshold, in silence and where ``error`` says why
    nothing can be said), ``probability`` of the likeliest class, and ``error``."""
    probabilities: NDArray[np.float64]
    """(n_rows, n_classes) of every class; NaN in silence and where there is an error."""
    class_names: tuple[str, ...]
    run: str
    """Name of the run that was asked."""
    calibrated: bool
    """Whether the probabilities are: ``palm-cache fit`` and ``palm-cache calibrate`` see to that."""


def predict(
    heads: AnyPath,
    audio: AnyPath | Iterable[AnyPath],
    *,
    run: str | None = None,
    threshold: float = 0.0,
    timeline: bool = False,
    window: float | None = None,
    hop: float | None = None,
    encoder: str | None = None,
    device: str = "auto",
    tokenizer: str = CLIP_TOKENIZER,
    progress: Progress = no_progress,
) -> PredictResult:
    """Say what is heard in audio files, with a fitted head and the encoder that it was fitted on.

    Parameters
    ----------
    heads : path
        A ``heads.h5``.
    audio : path or several
        Files, folders, which are searched for audio, or patterns such as ``"night/*.flac"``.
    run : str, optional
        A run of the file, by its name or the beginning of it; by default PALM's with most shots.
    threshold : float
        Where no class is as probable, none is named.
    timeline : bool
        Slide a window over recordings of any length instead of hearing each at its centre; neighbouring
        windows of one label are joined.
    window, hop : float, optional
        Seconds heard at once and from window to window; by default the encoder's window, without overlap.
    encoder : str, optional
        Where the encoder's weights lie now, if not where they lay.
    device, tokenizer : str
        Of the encoder.
    progress : callable
        Told what is done, how many are, and of how many: files, or seconds of a timeline.

    Raises
    ------
    PalmCacheError
        As ``palm-cache predict`` tells it: no such heads, another encoder ... What is wrong with a single
        file is in the table, and the rest goes on.

    Examples
    --------
    >>> import palm_cache
    >>> features = palm_cache.extract("Tones")
    >>> fitted = palm_cache.fit(features, palm_cache.FitParams(shots=(4,)))
    >>> heard = palm_cache.predict(fitted.heads, "Tones/audios")
    >>> heard.run
    'palm-4shots-fold1-seed0'
    >>> heard.probabilities.shape == (len(heard.table), 2)
    True
    >>> list(heard.table.columns)
    ['path', 'label', 'probability', 'error']
    """
    paths = [audio] if isinstance(audio, str | PathLike) else audio
    classifier = Classifier.load(Path(heads), run, encoder=encoder, device=device, tokenizer=tokenizer)
    found = find_recordings([os.fspath(path) for path in paths], _no_list)
    results: Iterator[Prediction | Stretch | Failure]
    if timeline:
        sliding = Sliding.over(classifier, window, hop)
        stretches = listen(classifier, found, sliding, progress=progress)
        results = join(stretches, lambda stretch: _row(stretch, classifier, threshold)["label"])
    else:
        results = predict_files(classifier, found, progress=progress)
    return _collect(results, classifier, threshold, over_time=timeline)


def _no_list() -> bytes:
    """Return what stands for the command line's list of paths on standard input: nothing."""
    return b""


def _collect(
    results: Iterable[Prediction | Stretch | Failure],
    classifier: Classifier,
    threshold: float,
    *,
    over_time: bool,
) -> PredictResult:
    rows, probabilities = [], []
    unknown = np.full(len(classifier.class_names), np.nan)
    for result in results:
        rows.append(_row(result, classifier, threshold))
        heard = None if isinstance(result, Failure) else result.probabilities
        probabilities.append(unknown if heard is None else heard.numpy())
    head, times = classifier.head, ("start", "end") if over_time else ()
    return PredictResult(
        table=pd.DataFrame(rows, columns=["path", *times, "label", "probability", "error"]),
        probabilities=np.stack(probabilities) if probabilities else np.empty((0, len(unknown))),
        class_names=classifier.class_names,
        run=run_name(head.run),
        calibrated=head.calibration is not None,
    )


def _row(
    result: Prediction | Stretch | Failure, classifier: Classifier, threshold: float
) -> dict[str, object]:
    row: dict[str, object] = {"path": result.path, "label": None, "probability": np.nan, "error": ""}
    if isinstance(result, Failure):
        return {**row, "error": result.reason}
    if isinstance(result, Stretch):
        row |= {"start": result.start, "end": result.end}
    if result.probabilities is None:
        return row
    told = answer(result.probabilities, classifier.class_names, threshold=threshold)
    return {**row, "label": told.label, "probability": told.probability}
