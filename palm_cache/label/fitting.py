"""Fitting in the background, after every label, as often as it keeps up.

What it gives is kept together in one :class:`Fit`, which is replaced as a whole.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Self

import numpy as np
from numpy.typing import NDArray

from palm_cache.label.rounds import (
    ROUND,
    Accuracy,
    Classifier,
    Examples,
    accuracy,
    can_fit,
    held_out,
    random_sample,
)
from palm_cache.label.words import Words

MAX_POINTS = 40
"""Earlier rounds whose accuracy is shown; of more, every second, third ... is judged."""

MIN_SAMPLE = 10
"""Rows labelled at random from which on their accuracy is worth showing."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fit:
    """What the labels gave when a head was last fitted on them."""

    version: int = 0
    """Of the labels."""
    whole: bool = True
    """Whether it holds all that there is to be known of them."""
    classes: tuple[str, ...] = ()
    probabilities: NDArray[np.float32] | None = None
    """(n_rows, n_classes); ``None`` while nothing can be told apart."""
    growth: tuple[Accuracy, ...] = ()
    """On the labelled rows of earlier rounds, held out, and on all of them."""
    sample: Accuracy | None = None
    """On the rows that are a random sample of all."""
    failure: str = ""
    """Why newer labels do not count, "" if they do."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What a head is fitted on."""

    version: int
    """Counted up."""
    of_rows: Mapping[int, str]
    """The class of every labelled row, in the order in which they were labelled."""
    classes: tuple[str, ...]
    """All classes, labelled or not."""


class _Overtaken(Exception):  # noqa: N818  # no error
    """There are newer labels, or the page ends."""


class Fitter:
    """Fits in a thread of its own while it is entered, on the newest labels; those between are passed over.

    Parameters
    ----------
    embeddings : array, shape (n_rows, views, dim)
    usable : array, shape (n_rows,)
        False for rows without an embedding.
    recordings : array, shape (n_rows,)
        Equal for rows of one recording.
    words : Words
        Reads the names of classes.

    Attributes
    ----------
    fit : Fit
        The last one.
    """

    def __init__(
        self,
        embeddings: NDArray[np.float32],
        usable: NDArray[np.bool_],
        recordings: NDArray[np.int64],
        words: Words,
    ) -> None:
        self.fit = Fit()
        self._embeddings, self._usable, self._recordings = embeddings, usable, recordings
        self._words = words
        self._points: dict[bytes, Accuracy | None] = {}
        self._changed = threading.Condition()
        self._newest = Labels(0, {}, ())
        self._ended = False
        self._thread = threading.Thread(target=self._keep_fitting, name="fit", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, with the fit of a head that is under way: Python cannot end beside a thread that computes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def take(self, of_rows: Mapping[int, str], classes: tuple[str, ...]) -> None:
        """Take the labels that count from now on."""
        with self._changed:
            self._newest = Labels(self._newest.version + 1, of_rows, classes)
            self._changed.notify_all()

    @property
    def busy(self) -> bool:
        """Whether there are labels that are not fitted on yet."""
        with self._changed:
            return not self._reached()

    def wait(self, timeout: float | None = None, *, scored: bool = False) -> bool:
        """Wait until all labels have been fitted on, or at least rows are scored; tell whether it is so."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._reached(scored=scored), timeout)
            return self._reached(scored=scored)

    def _reached(self, *, scored: bool = False) -> bool:
        return self.fit.version == self._newest.version and (scored or self.fit.whole)

    def _keep_fitting(self) -> None:
        while (labels := self._next()) is not None:
            try:
                self._fit(labels)
            except _Overtaken:
                pass
            except Exception as error:  # the page must go on: the next labels are fitted on all the same
                logger.exception("the fit failed")
                reason = f"{type(error).__name__}: {error}"
                failure = f"fitting failed, so the newest labels do not count yet: {reason}"
                self._tell(replace(self.fit, version=labels.version, whole=True, failure=failure))

    def _next(self) -> Labels | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._reached())
            return None if self._ended else self._newest

    def _tell(self, fit: Fit) -> None:
        with self._changed:
            self.fit = fit
            self._changed.notify_all()

    def _go_on(self, version: int) -> None:
        """Raise where there is something better to do than to go on with the labels of a version."""
        with self._changed:
            if self._ended or self._newest.version > version:
                raise _Overtaken

    def _fit(self, labels: Labels) -> None:
        """Score all rows first, then say how good that is now, then how good it was in earlier rounds."""
        go_on = partial(self._go_on, labels.version)
        examples, rows = self._examples(labels)
        shares = Classifier(examples).probabilities(self._embeddings[:, 0]) if can_fit(examples) else None
        fit = Fit(labels.version, False, labels.classes, shares, self.fit.growth, self.fit.sample)
        self._tell(fit)
        correct = held_out(examples, go_on)
        latest = () if correct is None else (accuracy(correct, examples.groups),)
        fit = replace(fit, sample=self._sample(examples, rows, correct))
        rounds = _rounds(rows, labels)
        self._tell(replace(fit, growth=(*self._known(rounds.values()), *latest)))
        for count, labels_then in rounds.items():
            if labels_then in self._points:
                continue
            earlier = examples.part(np.arange(len(rows)) < count)
            right_then = held_out(earlier, go_on)
            self._points[labels_then] = None if right_then is None else accuracy(right_then, earlier.groups)
            self._tell(replace(fit, growth=(*self._known(rounds.values()), *latest)))
        self._tell(replace(self.fit, whole=True))

    def _known(self, rounds: Iterable[bytes]) -> list[Accuracy]:
        points = map(self._points.get, rounds)
        return [point for point in points if point is not None]

    def _examples(self, labels: Labels) -> tuple[Examples, NDArray[np.int64]]:
        """Return the labelled rows that have an embedding, and their numbers."""
        rows = np.array([row for row in labels.of_rows if self._usable[row]], np.int64)
        number = {name: place for place, name in enumerate(labels.classes)}
        classes = np.array([number[labels.of_rows[row]] for row in rows.tolist()], np.int64)
        text = self._words.classes(labels.classes)
        audio, recordings = self._embeddings[rows, 0], self._recordings[rows]
        return Examples(audio, classes, recordings, len(labels.classes), text), rows

    def _sample(
        self, examples: Examples, rows: NDArray[np.int64], correct: NDArray[np.bool_] | None
    ) -> Accuracy | None:
        is_labelled = np.zeros(len(self._usable), bool)
        is_labelled[rows] = True
        sample = random_sample(is_labelled, self._usable)
        if correct is None or len(sample) < MIN_SAMPLE:
            return None
        chosen = np.isin(rows, sample)
        return accuracy(correct[chosen], examples.groups[chosen])


def _rounds(rows: NDArray[np.int64], labels: Labels) -> dict[int, bytes]:
    """Return a hash of the labels that there were after every round, by their number."""
    step = ROUND * max(1, ceil(len(rows) / (ROUND * MAX_POINTS)))
    digest, rounds = hashlib.sha256(), {}
    for count, row in enumerate(rows[:-1].tolist(), start=1):
        digest.update(f"{row}\0{labels.of_rows[row]}\0".encode())
        if count % step == 0:
            rounds[count] = digest.digest()
    return rounds
