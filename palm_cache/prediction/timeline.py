"""Long recordings as a timeline: a window slides over them, and memory does not grow with their length.

Where windows overlap, each speaks for the stretch around its own centre: borders lie in the middle of the
overlaps, so stretches follow each other without gap or overlap from the first sample to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from palm_cache.errors import AudioError, EncoderError, ParameterError
from palm_cache.extraction.audio.downmix import SoundFacts, is_silent
from palm_cache.extraction.audio.waveforms import cut_windows, duration, open_regular, slide
from palm_cache.extraction.embedding import NOT_FINITE
from palm_cache.prediction.answers import Answer, Failure, printable
from palm_cache.prediction.classifier import BATCH_SIZE, Classifier
from palm_cache.store.run_names import run_name
from palm_cache.types import Progress, no_progress


@dataclass(frozen=True, slots=True)
class _Scored:
    """A window, in samples, and its probabilities; ``None`` where it is silent."""

    start: int
    stop: int
    probabilities: Tensor | None


@dataclass(frozen=True, slots=True)
class Sliding:
    """How a window moves over recordings."""

    window: int
    """Samples at the encoder's rate."""
    hop: int
    """Samples from one window to the next."""

    @classmethod
    def over(cls, classifier: Classifier, window: float | None = None, hop: float | None = None) -> Sliding:
        """Choose window and hop in seconds; by default the encoder's own window, and no overlap.

        Raises
        ------
        ParameterError
            If the encoder does not read so much at once, or parts would never be heard.
        """
        if len(classifier.ears) > 1:
            raise EncoderError(
                f"run {run_name(classifier.head.run)} hears with {len(classifier.ears)} encoders, and a "
                "timeline slides one window; cut the recordings into rows for each (palm-cache extract "
                "--window 5), then: palm-cache predict HEADS --store A --store B"
            )
        rate = classifier.encoder.sample_rate
        window = classifier.encoder.window.samples / rate if window is None else window
        hop = window if hop is None else hop
        longest = classifier.longest / rate
        if not 0 < window <= longest:
            raise ParameterError(
                f"`window` {window:g} s: {classifier.encoder.spec} reads at most {longest:g} s at once; "
                "choose one above 0 and up to that"
            )
        if not 0 < hop <= window:
            raise ParameterError(
                f"`hop` {hop:g} s: choose one above 0 and up to the window of {window:g} s, "
                "else parts are never heard"
            )
        return cls(max(1, round(window * rate)), max(1, round(hop * rate)))


def listen(
    classifier: Classifier,
    recordings: Sequence[Path | Failure],
    sliding: Sliding,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
) -> Iterator[Answer | Failure]:
    """Classify recordings window by window, in their order and as they come.

    Parameters
    ----------
    recordings : sequence of Path or Failure
        From :func:`~palm_cache.prediction.inputs.find_recordings`; failures are passed on in their place.
    progress : callable
        Told about seconds of sound.

    Yields
    ------
    Answer or Failure
        The stretches of a recording in order of time; a failure behind those that lie before the damage.
    """
    seconds = [0.0 if isinstance(entry, Failure) else _seconds(entry) for entry in recordings]
    before, total = 0.0, sum(seconds)
    for entry, length in zip(recordings, seconds, strict=True):
        if isinstance(entry, Failure):
            yield entry
            continue
        for result in _hear(classifier, entry, sliding, batch_size):
            if isinstance(result, Answer):
                progress("listening", int(before + result.end), int(total))
            yield result
        before += length


def join(results: Iterator[Answer | Failure], name: Callable[[Answer], object]) -> Iterator[Answer | Failure]:
    """Join neighbouring stretches of one name; their probabilities are averaged over time."""
    groups = groupby(results, lambda one: (one.path, name(one)) if isinstance(one, Answer) else object())
    for _, alike in groups:  # a failure is alone in its own
        yield reduce(_joined, cast("Iterator[Answer]", alike))


def _joined(first: Answer, second: Answer) -> Answer:
    probabilities = None
    if first.probabilities is not None and second.probabilities is not None:
        share = (first.end - first.start) / (second.end - first.start)
        probabilities = share * first.probabilities + (1 - share) * second.probabilities
    return Answer(first.path, probabilities, first.start, second.end, second.remarks)


def _seconds(path: Path) -> float:
    try:
        with open_regular(path) as file:
            return duration(file)
    except AudioError:
        return 0.0  # named when its turn comes


def _hear(
    classifier: Classifier, path: Path, sliding: Sliding, batch_size: int
) -> Iterator[Answer | Failure]:
    """Classify one recording."""
    name, rate = printable(path), classifier.encoder.sample_rate
    begin, heard = 0.0, SoundFacts()
    last: _Scored | None = None
    damage: AudioError | None = None
    try:
        for scored in _scored(classifier, path, sliding, batch_size, heard):
            if last is not None:
                border = (last.stop + scored.start) / 2 / rate
                yield Answer(name, last.probabilities, begin, border)
                begin = border
            last = scored
    except AudioError as error:
        damage = error
    if last is not None:
        remarks = () if heard.silence else heard.remarks
        end = min(last.stop / rate, heard.seconds)  # resampled, a recording ends with a whole sample
        yield Answer(name, last.probabilities, begin, end, remarks)
    if damage is not None:
        until = f"; heard up to {last.stop / rate:.1f} s" if last else ""
        yield Failure(name, f"{damage}{until}")
    elif heard.silence:
        yield Failure(name, heard.silence)


def _scored(
    classifier: Classifier, path: Path, sliding: Sliding, batch_size: int, heard: SoundFacts
) -> Iterator[_Scored]:
    """Score the windows of a recording, batch by batch, up to its end or its damage."""
    batch: list[tuple[int, Tensor]] = []
    try:
        with open_regular(path) as file:
            for window in slide(
                file,
                sample_rate=classifier.encoder.sample_rate,
                samples=sliding.window,
                hop=sliding.hop,
                heard=heard,
            ):
                batch.append(window)
                if len(batch) == batch_size:
                    yield from _score(classifier, batch)
    except AudioError:
        yield from _score(classifier, batch)
        raise
    yield from _score(classifier, batch)


def _score(classifier: Classifier, batch: list[tuple[int, Tensor]]) -> Iterator[_Scored]:
    """Score windows of one length and take them out of the batch."""
    taken = batch.copy()
    batch.clear()
    loud = [waveform for _, waveform in taken if not is_silent(waveform)]
    probabilities = iter(())
    if loud:
        window = classifier.encoder.window
        logits = classifier.logits(torch.stack([cut_windows(waveform, window) for waveform in loud]))
        if not torch.isfinite(logits).all():
            raise AudioError(NOT_FINITE)
        probabilities = iter(classifier.scorer.probabilities(logits))
    for start, waveform in taken:
        told = None if is_silent(waveform) else next(probabilities)
        yield _Scored(start, start + len(waveform), told)
