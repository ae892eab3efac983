"""Clips: one answer per file, through the same path as extraction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from palm_cache.errors import AudioError
from palm_cache.extraction.audio import content_hash, cut_windows, open_regular, read_views, slide
from palm_cache.extraction.hearing import Heard
from palm_cache.prediction.answers import Failure, Prediction, printable
from palm_cache.prediction.classifier import BATCH_SIZE, Classifier
from palm_cache.types import Progress, no_progress

NOT_FINITE = "the encoder returned NaN or infinity"


@dataclass(slots=True)
class _Clip:
    """A file that was read."""

    path: str
    views: list[Tensor]
    """Per view (n_windows, samples)."""
    unheard: float
    remarks: tuple[str, ...]
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


def _predict_group(
    classifier: Classifier, found: Sequence[Path | Failure], batch_size: int
) -> list[Prediction | Failure]:
    whole = classifier.encoder.window.long == "mean"
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
    encoder, views = classifier.encoder, classifier.views
    heard = Heard()
    try:
        with open_regular(path) as file:
            waveforms = read_views(
                file,
                sample_rate=encoder.sample_rate,
                samples=classifier.longest,
                views=views,
                # Where the centre lies does not depend on the content.
                content_sha256=content_hash(file) if views > 1 else "",
                heard=heard,
            )
    except AudioError as error:
        return Failure(printable(path), str(error))
    seconds = len(waveforms[0]) / encoder.sample_rate
    unheard = max(heard.seconds - seconds, 0.0) if len(waveforms[0]) == classifier.longest else 0.0
    if heard.silence:
        where = f" in the {seconds:g} s at its centre" if unheard else ""
        return Failure(printable(path), f"{heard.silence}{where}")
    windows = [cut_windows(waveform, encoder.window) for waveform in waveforms]
    return _Clip(printable(path), windows, unheard, heard.remarks)


def _hear_whole(classifier: Classifier, path: Path, batch_size: int) -> _Clip | Failure:
    """Read and score all of a clip, however long, by the mean embedding of the stretches that cover it."""
    encoder = classifier.encoder
    total, count, heard = torch.zeros(encoder.dim, dtype=torch.float64), 0, Heard()
    try:
        with open_regular(path) as file:
            stretches = slide(
                file, sample_rate=encoder.sample_rate, samples=classifier.longest, hop=None, heard=heard
            )
            while batch := [waveform for _, waveform in islice(stretches, batch_size)]:
                windows = torch.stack([cut_windows(waveform, encoder.window) for waveform in batch])
                total += encoder.embed_audio(windows).double().sum(dim=0)
                count += len(batch)
    except AudioError as error:
        return Failure(printable(path), str(error))
    if heard.silence:
        return Failure(printable(path), heard.silence)
    logits = classifier.score((total / count).float()[None])
    return _Clip(printable(path), [], 0.0, heard.remarks, [logits[0]])


def _result(classifier: Classifier, clip: _Clip) -> Prediction | Failure:
    logits = torch.stack(clip.logits).mean(dim=0)
    if not torch.isfinite(logits).all():
        return Failure(clip.path, NOT_FINITE)
    return Prediction(clip.path, logits, classifier.probabilities(logits), clip.unheard, clip.remarks)
