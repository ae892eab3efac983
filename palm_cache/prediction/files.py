"""Clips: one answer per file, through the same path as extraction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from palm_cache.errors import AudioError
from palm_cache.extraction.audio import content_hash, cut_windows, duration, open_regular, read_views, slide
from palm_cache.prediction.answers import Failure, Prediction, printable
from palm_cache.prediction.classifier import BATCH_SIZE, Classifier
from palm_cache.types import Progress, no_progress

SILENT_PEAK = 1e-4
"""-80 dB of full scale, three steps of 16 bit: nothing but dither below it."""

SILENT = "nothing but silence: the peak is below -80 dB of full scale"
NOT_FINITE = "the encoder returned NaN or infinity"


@dataclass(slots=True)
class _Clip:
    """A file that was read."""

    path: str
    views: list[Tensor]
    """Per view (n_windows, samples)."""
    unheard: float
    logits: list[Tensor] = field(default_factory=list)
    """Per view (n_classes,), once they are scored."""


def predict_files(
    classifier: Classifier,
    found: Sequence[Path | Failure],
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
) -> Iterator[Prediction | Failure]:
    """Classify files, in their order and as they come.

    A clip that is longer than the encoder reads is cropped at its centre, or read in stretches whose
    embeddings are averaged: as it was extracted what the head was fitted on.

    Parameters
    ----------
    found : sequence of Path or Failure
        From :func:`~palm_cache.prediction.inputs.find_recordings`; failures are passed on in their place.
    batch_size : int
        Views that go through the encoder at once.

    Yields
    ------
    Prediction or Failure
        One for every entry of ``found``.
    """
    # Twice a batch: clips of few and of many windows go through the encoder apart.
    group = 2 * batch_size
    for start in range(0, len(found), group):
        results = _predict_group(classifier, found[start : start + group], batch_size)
        for number, result in enumerate(results, start=start + 1):
            progress("predicting", number, len(found))
            yield result


def is_silent(waveform: Tensor) -> bool:
    """Tell whether a waveform never leaves the floor of :data:`SILENT_PEAK`."""
    return float(waveform.abs().max()) < SILENT_PEAK


def _predict_group(
    classifier: Classifier, found: Sequence[Path | Failure], batch_size: int
) -> list[Prediction | Failure]:
    whole = classifier.recipe.long == "mean"
    read: list[_Clip | Failure] = []
    for entry in found:
        if isinstance(entry, Failure):
            read.append(entry)
        else:
            read.append(_hear_whole(classifier, entry, batch_size) if whole else _read(classifier, entry))
    waiting: dict[int, list[tuple[_Clip, Tensor]]] = {}
    for clip in read:
        if isinstance(clip, _Clip):
            for windows in clip.views:
                waiting.setdefault(len(windows), []).append((clip, windows))
    for alike in waiting.values():
        for start in range(0, len(alike), batch_size):
            batch = alike[start : start + batch_size]
            logits = classifier.logits(torch.stack([windows for _, windows in batch]))
            for (clip, _), scores in zip(batch, logits, strict=True):
                clip.logits.append(scores)
    return [clip if isinstance(clip, Failure) else _result(classifier, clip) for clip in read]


def _read(classifier: Classifier, path: Path) -> _Clip | Failure:
    encoder, views = classifier.encoder, classifier.recipe.views
    try:
        with open_regular(path) as file:
            waveforms = read_views(
                file,
                sample_rate=encoder.sample_rate,
                samples=classifier.longest,
                views=views,
                # Where the centre lies does not depend on the content.
                content_sha256=content_hash(file) if views > 1 else "",
            )
            heard = len(waveforms[0]) / encoder.sample_rate
            unheard = duration(file) - heard if len(waveforms[0]) == classifier.longest else 0.0
    except AudioError as error:
        return Failure(printable(path), str(error))
    if all(is_silent(waveform) for waveform in waveforms):
        where = f" in the {heard:g} s at its centre" if unheard > 0 else ""
        return Failure(printable(path), f"{SILENT}{where}")
    windows = [cut_windows(waveform, encoder.window) for waveform in waveforms]
    return _Clip(printable(path), windows, max(unheard, 0.0))


def _hear_whole(classifier: Classifier, path: Path, batch_size: int) -> _Clip | Failure:
    """Read and score all of a clip, however long, by the mean embedding of the stretches that cover it."""
    encoder = classifier.encoder
    total, count, silent = torch.zeros(encoder.dim, dtype=torch.float64), 0, True
    try:
        with open_regular(path) as file:
            stretches = slide(file, sample_rate=encoder.sample_rate, samples=classifier.longest, hop=None)
            while batch := [waveform for _, waveform in islice(stretches, batch_size)]:
                windows = torch.stack([cut_windows(waveform, encoder.window) for waveform in batch])
                total += encoder.embed_audio(windows).double().sum(dim=0)
                count += len(batch)
                silent = silent and all(map(is_silent, batch))
    except AudioError as error:
        return Failure(printable(path), str(error))
    if silent:
        return Failure(printable(path), SILENT)
    logits = classifier.score((total / count).float()[None])
    return _Clip(printable(path), [], 0.0, [logits[0]])


def _result(classifier: Classifier, clip: _Clip) -> Prediction | Failure:
    logits = torch.stack(clip.logits).mean(dim=0)
    if not torch.isfinite(logits).all():
        return Failure(clip.path, NOT_FINITE)
    return Prediction(clip.path, logits, classifier.probabilities(logits), clip.unheard)
