"""Clips: one answer per file, embedded as extraction does."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import torch

from palm_cache.extraction.embedding import NOT_FINITE, Embedder, Outcome
from palm_cache.extraction.encoders.devices import default_batch
from palm_cache.prediction.answers import Answer, Failure, printable
from palm_cache.prediction.classifier import Classifier
from palm_cache.store.join import concatenate
from palm_cache.types import Clip, Progress, no_progress

UNHEARD_SECONDS = 0.1
"""What the crop may leave out of a file before that is remarked."""


def predict_files(
    classifier: Classifier,
    recordings: Sequence[Path | Failure],
    *,
    batch_size: int = 0,
    progress: Progress = no_progress,
) -> Iterator[Answer | Failure]:
    """Classify files, in their order and as they come.

    A clip that is longer than the encoder reads is cropped at its centre, or read in stretches whose
    embeddings are averaged: as it was extracted what the head was fitted on.

    Parameters
    ----------
    recordings : sequence of Path or Failure
        From :func:`~palm_cache.prediction.inputs.find_recordings`; failures are passed on in their place.
    batch_size : int
        Views that go through the encoder at once; 0 is what suits the device, and their number.

    Yields
    ------
    Answer or Failure
        One for every entry of ``recordings``.
    """
    clips = [
        (row, Clip(entry, printable(entry), None))
        for row, entry in enumerate(recordings)
        if not isinstance(entry, Failure)
    ]
    if not batch_size:
        n_views = len(clips) * classifier.recipe.views
        batch_size = max(1, min(default_batch(classifier.encoder.device), n_views))
    known: dict[int, Answer | Failure] = {
        row: entry for row, entry in enumerate(recordings) if isinstance(entry, Failure)
    }
    with closing(_heard(classifier, clips, batch_size)) as outcomes:
        for row in range(len(recordings)):
            while row not in known:
                outcome = next(outcomes)
                known[outcome.row] = _result(classifier, recordings[outcome.row], outcome)
            yield known.pop(row)
            progress("predicting", row + 1, len(recordings))


def _heard(classifier: Classifier, clips: Sequence[tuple[int, Clip]], batch_size: int) -> Generator[Outcome]:
    """Embed clips by every encoder of a classifier; those of several stand side by side, as in stores."""
    with ExitStack() as opened:
        embedders = [
            opened.enter_context(Embedder(encoder, recipe, batch_size)) for encoder, recipe in classifier.ears
        ]
        # Each gives an outcome for every clip, in about their order: only few wait for the others.
        waiting: dict[int, dict[int, Outcome]] = {}
        for outcomes in zip(*(embedder.embed(clips) for embedder in embedders), strict=True):
            for ear, outcome in enumerate(outcomes):
                of_clip = waiting.setdefault(outcome.row, {})
                of_clip[ear] = outcome
                if len(of_clip) == len(embedders):
                    del waiting[outcome.row]
                    yield _side_by_side([of_clip[place] for place in range(len(embedders))])


def _side_by_side(outcomes: Sequence[Outcome]) -> Outcome:
    """Join what several encoders gave for a clip, each vector at unit length; one that failed fails it."""
    if len(outcomes) == 1:
        return outcomes[0]
    vectors = []
    for outcome in outcomes:
        if outcome.vectors is None or outcome.heard.silence:
            return outcome
        vectors.append(torch.from_numpy(outcome.vectors))
    return replace(outcomes[0], vectors=concatenate(vectors).numpy())


def _result(classifier: Classifier, path: Path | Failure, outcome: Outcome) -> Answer | Failure:
    name = path.path if isinstance(path, Failure) else printable(path)
    if outcome.error or outcome.vectors is None:
        return Failure(name, outcome.error)
    remarks = outcome.heard.remarks
    longest = min(encoder.window.stretch / encoder.sample_rate for encoder, _ in classifier.ears)
    cropped = classifier.recipe.long == "crop" and outcome.heard.seconds > longest + UNHEARD_SECONDS
    if outcome.heard.silence:
        where = f" in the {longest:g} s at its centre" if cropped else ""
        return Failure(name, f"{outcome.heard.silence}{where}")
    logits = classifier.scorer.logits(torch.from_numpy(outcome.vectors)).mean(dim=0)
    if not torch.isfinite(logits).all():
        return Failure(name, NOT_FINITE)
    if cropped:
        what = f"lasts longer than the {longest:g} s that {classifier.head.run.encoder} reads at once"
        remarks = (*remarks, f"{what}: only the centre was heard; `timeline` hears everything")
    return Answer(name, classifier.scorer.probabilities(logits), remarks=remarks)
