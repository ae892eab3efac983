"""What is heard in files: result by result as it comes, or all of it as a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from palm_cache.errors import ParameterError
from palm_cache.params import CLIP_TOKENIZER
from palm_cache.params.use import LoadingParams, PredictParams
from palm_cache.prediction.answers import Answer, Failure, label_of
from palm_cache.prediction.classifier import Classifier
from palm_cache.prediction.clips import predict_files
from palm_cache.prediction.inputs import find_recordings
from palm_cache.prediction.rows import ScoredRows, score_rows
from palm_cache.prediction.sources import find_heads
from palm_cache.prediction.timeline import Sliding, join, listen
from palm_cache.store.places import as_places
from palm_cache.store.run_names import run_name
from palm_cache.types import AnyPath, AnyPlace, Progress, no_progress


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What :func:`predict` heard."""

    table: pd.DataFrame
    """One row per file, or per stretch of a recording: ``path``, with ``timeline`` ``start`` and ``end`` in
    seconds, ``label`` (missing where no class reaches the threshold, in silence and where ``error`` says why
    nothing can be said), ``probability`` of that class (NaN where there is none), and ``error``."""
    probabilities: NDArray[np.float64]
    """(n_rows, n_classes) of every class; NaN in silence and where there is an error."""
    class_names: tuple[str, ...]
    run: str
    """Name of the run that was asked."""
    calibrated: bool
    """Whether the probabilities are: ``palm-cache fit`` and ``palm-cache calibrate`` see to that."""


_DEFAULTS = PredictParams()


def predict(
    heads: AnyPath | None,
    audio: AnyPath | Iterable[AnyPath] | None = None,
    *,
    store: AnyPlace | Sequence[AnyPlace] | None = None,
    run: str | None = None,
    classes: Sequence[str] | None = None,
    threshold: float = _DEFAULTS.threshold,
    timeline: bool = _DEFAULTS.timeline,
    window: float | None = _DEFAULTS.window,
    hop: float | None = _DEFAULTS.hop,
    batch_size: int = _DEFAULTS.batch_size,
    encoder: str | None = None,
    device: str = "auto",
    tokenizer: str = CLIP_TOKENIZER,
    trust_remote_code: bool = False,
    progress: Progress = no_progress,
) -> PredictResult:
    """Say what is heard in audio files, with a fitted head and the encoder that it was fitted on.

    Parameters
    ----------
    heads : path or None
        A ``heads.h5``, an exported ``.safetensors``, the folder that it lies in, or ``hf://user/name`` (see
        :func:`push`); ``None`` where ``classes`` are given instead.
    audio : path or several
        Files, folders, which are searched for audio, or patterns such as ``"night/*.flac"``.
    store : path or several, optional
        Instead of audio: every row of these feature stores, by its embedding, in milliseconds; of a head on
        joined encoders a store of each.
    run : str, optional
        A run of the file, by its name or the beginning of it; by default, of the calibrated runs with most
        shots, the one with the least loss on its held-out shots.
    classes : sequence of str, optional
        Names of classes to tell apart by their prompts alone, zero-shot, without any fitted head.
    threshold : float
        Probability below which no class is named.
    timeline : bool
        Slide a window over recordings of any length instead of hearing each at its centre; neighbouring
        windows of one label are joined.
    window, hop : float, optional
        Seconds heard at once and from window to window; by default the encoder's window, without overlap.
    batch_size : int
        Clips or windows per encoder call; 0 is what suits the device.
    encoder : str, optional
        Where the encoder's weights lie now, if they have moved; with ``classes`` which encoder, ``mini`` by
        default.
    device, tokenizer : str
        Of the encoder.
    trust_remote_code : bool
        Run again the code that lies with an ``hf:`` model and that embedded before.
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
    >>> fitted = palm_cache.fit(features, palm_cache.FitParams(heads=("palm",), shots=(4,)))
    >>> heard = palm_cache.predict(fitted.heads, "Tones/audios")
    >>> heard.run
    'palm-4shots-fold1-seed0'
    >>> heard.probabilities.shape == (len(heard.table), 2)
    True
    >>> list(heard.table.columns)
    ['path', 'label', 'probability', 'error']
    """
    params = PredictParams(threshold, timeline, window, hop, batch_size)
    loading = LoadingParams(encoder, device, tokenizer, trust_remote_code)
    if store is not None:
        if heads is None or classes is not None or audio is not None:
            raise ParameterError("`store`: goes with heads, and without audio and classes")
        scored = score_rows(find_heads(heads).file, as_places(store), run, loading)
    elif audio is None:
        raise ParameterError("nothing to listen to: give audio or `store`")
    else:
        paths = [audio] if isinstance(audio, str | PathLike) else audio
        recordings = find_recordings([os.fspath(path) for path in paths], read_stdin=bytes)
        if heads is not None and classes is None:
            classifier = Classifier.load(heads, run, loading)
        elif heads is None and classes is not None:
            classifier = Classifier.zero_shot(classes, loading)
        else:
            raise ParameterError("`heads` and `classes`: give one of them")
        scored = _scored(classify(classifier, recordings, params, progress=progress), classifier, timeline)
    head = scored.head
    return PredictResult(
        table=scored.table(threshold),
        probabilities=scored.probabilities,
        class_names=head.class_names,
        run=run_name(head.run),
        calibrated=head.calibration is not None,
    )


def classify(
    classifier: Classifier,
    recordings: Sequence[Path | Failure],
    params: PredictParams,
    *,
    merge: bool = True,
    progress: Progress = no_progress,
) -> Iterator[Answer | Failure]:
    """Classify files, or the stretches of recordings, in their order and as they come.

    Parameters
    ----------
    recordings : sequence of Path or Failure
        From :func:`~palm_cache.prediction.inputs.find_recordings`.
    merge : bool
        Join neighbouring windows of one label.
    """
    if not params.timeline:
        return predict_files(classifier, recordings, batch_size=params.batch_size, progress=progress)
    sliding = Sliding.over(classifier, params.window, params.hop)
    stretches = listen(classifier, recordings, sliding, batch_size=params.batch_size, progress=progress)
    if not merge:
        return stretches
    return join(
        stretches,
        lambda stretch: label_of(stretch.probabilities, classifier.head.class_names, params.threshold),
    )


def _scored(results: Iterable[Answer | Failure], classifier: Classifier, over_time: bool) -> ScoredRows:
    """Put what comes one by one into arrays, as of rows."""
    told = list(results)
    unknown = np.full(len(classifier.head.class_names), np.nan)
    heard = [None if isinstance(one, Failure) else one.probabilities for one in told]
    shares = [unknown if one is None else one.numpy() for one in heard]
    rows = pd.DataFrame(
        {
            "path": [one.path for one in told],
            "start": [np.nan if isinstance(one, Failure) else one.start for one in told],
            "end": [np.nan if isinstance(one, Failure) else one.end for one in told],
            "error": [one.reason if isinstance(one, Failure) else "" for one in told],
        }
    )
    return ScoredRows(classifier.head, rows, np.array(shares).reshape(-1, len(unknown)), over_time)
