"""Long recordings as a timeline: a window slides over them, and memory does not grow with their length.

Where windows overlap, each speaks for the stretch around its own centre: borders lie in the middle of the
overlaps, so stretches follow each other without gap or overlap from the first sample to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, groupby
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from palm_cache.errors import AudioError, EncoderError, ParameterError
from palm_cache.extraction.audio.downmix import SoundFacts, is_silent
from palm_cache.extraction.audio.waveforms import cut_windows, duration, open_regular, slide
from palm_cache.extraction.embedding import NOT_FINITE
from palm_cache.prediction.answers import Answer, Failure, printable
from palm_cache.prediction.classifier import Classifier
from palm_cache.store.run_names import run_name
from palm_cache.types import Progress, no_progress

BATCH_SIZE = 16
"""Windows that go through the encoder at once where nobody says how many."""


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
        longest = classifier.encoder.window.stretch / rate
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
    batch_size: int = 0,
    progress: Progress = no_progress,
) -> Iterator[Answer | Failure]:
    """Classify recordings window by window, in their order and as they come.

    Parameters
    ----------
    recordings : sequence of Path or Failure
        From :func:`~palm_cache.prediction.inputs.find_recordings`; failures are passed on in their place.
    batch_size : int
        Windows that go through the encoder at once; 0 is :data:`BATCH_SIZE`.
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
        for result in _hear(classifier, entry, sliding, batch_size or BATCH_SIZE):
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
        batches = _batches(path, sliding, rate, batch_size, heard)
        for scored in chain.from_iterable(_score(classifier, batch) for batch in batches):
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


def _batches(
    path: Path, sliding: Sliding, sample_rate: int, size: int, heard: SoundFacts
) -> Iterator[list[tuple[int, Tensor]]]:
    """Yield the windows of a recording, with their first sample, up to its end or its damage."""
    batch: list[tuple[int, Tensor]] = []
    try:
        with open_regular(path) as file:
            windows = slide(
                file, sample_rate=sample_rate, samples=sliding.window, hop=sliding.hop, heard=heard
            )
            for window in windows:
                batch.append(window)
                if len(batch) == size:
                    yield batch
                    batch = []
    except AudioError:
        yield batch
        raise
    yield batch


def _score(classifier: Classifier, batch: list[tuple[int, Tensor]]) -> Iterator[_Scored]:
    """Score windows of one length."""
    loud = {start: waveform for start, waveform in batch if not is_silent(waveform)}
    told: dict[int, Tensor] = {}
    if loud:
        encoder = classifier.encoder
        windows = torch.stack([cut_windows(waveform, encoder.window) for waveform in loud.values()])
        logits = classifier.scorer.logits(encoder.embed_audio(windows))
        if not torch.isfinite(logits).all():
            raise AudioError(NOT_FINITE)
        told = dict(zip(loud, classifier.scorer.probabilities(logits), strict=True))
    for start, waveform in batch:
        yield _Scored(start, start + len(waveform), told.get(start))
