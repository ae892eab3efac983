"""Labelling one store: what is labelled, what a classifier makes of it, what comes next.

Labels are in the file before anything else is done with them. Fitting happens in a thread of its own, after
every label, as often as it keeps up; what it gives is kept together in one :class:`Fit`, which is replaced as
a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import AudioError, DataError, PalmCacheError, UnknownNameError
from palm_cache.extraction.datasets.listing import is_folder
from palm_cache.extraction.encoders.text import embed_prompts
from palm_cache.extraction.whereabouts import locate, roots_of
from palm_cache.label.labels import Labelled, Stretch, append_label, check_class_name, read_labels
from palm_cache.label.rounds import (
    ROUND,
    Accuracy,
    Classifier,
    Examples,
    Proposal,
    accuracy,
    can_fit,
    held_out,
    propose,
    random_sample,
)
from palm_cache.retrieval.ranking import nearest
from palm_cache.store.features import FeatureStore
from palm_cache.types import TEMPLATES, Place, TextTower

LoadTower = Callable[[], TextTower]
"""Loads the text tower of the encoder that made the store."""

PATIENCE = 1.0
"""Seconds for which a proposal waits for the latest label to count."""

LEAST_SAMPLE = 10
"""Rows labelled at random from which on their accuracy is worth showing."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What the labels gave when a head was last fitted on them."""

    n_labels: int = 0
    classes: tuple[str, ...] = ()
    probabilities: NDArray[np.float32] | None = None
    """(n_rows, n_classes); ``None`` while nothing can be told apart."""
    growth: tuple[Accuracy, ...] = ()
    """On the first 10, 20 ... labelled rows, held out, and on all of them."""
    sample: Accuracy | None = None
    """On the rows that are a random sample of all."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row as the page shows it."""

    row: int
    path: str
    start: float
    end: float | None
    class_name: str | None
    guesses: tuple[tuple[str, float], ...]
    """The likeliest classes with their shares."""


@dataclass(slots=True)
class _Words:
    """Prompts of class names and queries, embedded once each."""

    load: LoadTower
    off: str = ""
    """Why there is no text."""
    _tower: TextTower | None = None
    _known: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _alone: threading.Lock = field(default_factory=threading.Lock)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the mean over templates of every text's prompts, (n, dim), or ``None`` if there is no text.

        Raises
        ------
        EncoderError
            If a text is longer than the tower reads.
        """
        with self._alone:
            if not self.off and self._tower is None:
                try:
                    self._tower = self.load()
                except PalmCacheError as error:
                    self.off = str(error)
            if self._tower is None:
                return None
            for text in dict.fromkeys(texts):
                if text not in self._known:
                    prompts = [template.replace("{c}", text) for template in TEMPLATES]
                    self._known[text] = prompt_means(embed_prompts(self._tower, prompts).numpy())
            return np.stack([self._known[text] for text in texts]) if texts else None


class Session:
    """A store that is being labelled.

    Parameters
    ----------
    store : FeatureStore
    file : Path
        Where labels are kept; nobody else may write there meanwhile.
    classes : sequence of str
        Names of classes to begin with.
    audio : Place, optional
        Where the dataset's folder is, if not where it was.
    load_tower : callable
        Loads the store's text tower.

    Raises
    ------
    DataError
        If the file holds something else than labels, nothing in the store has an embedding, or there is no
        such folder.
    """

    def __init__(
        self,
        store: FeatureStore,
        file: Path,
        *,
        classes: Sequence[str] = (),
        audio: Place | None = None,
        load_tower: LoadTower,
    ) -> None:
        if audio is not None and not is_folder(audio):
            raise DataError(
                f"--audio {audio}: no such folder; give the dataset's, which paths are relative to"
            )
        features, (start, end) = store.read(), store.stretches()
        self.header, self.file, self._audio = store.header, file, audio
        self.embeddings: NDArray[np.float32] = features.audio.numpy()
        self.usable: NDArray[np.bool_] = features.usable.numpy()
        if not self.usable.any():
            raise DataError(f"{store.path}: none of its rows has an embedding; see palm-cache verify")
        names = store.clip_names()
        self.stretches: list[Stretch] = [
            (name, float(begin), None if isnan(until) else float(until))
            for name, begin, until in zip(names, start, end, strict=True)
        ]
        self._row_of = {stretch: row for row, stretch in enumerate(self.stretches)}
        self._recording = np.unique(np.array(names, dtype=object), return_inverse=True)[1]
        labels, problems = read_labels(file)
        self._labelled = Labelled(labels)
        strange = [stretch for stretch in self._labelled.classes if stretch not in self._row_of]
        if strange:
            problems.append(
                f"{len(strange):,} label(s) are of stretches that this store does not have, e.g. "
                f"{strange[0][0]}; they are kept, and not used here"
            )
        self.problems = problems
        """What is odd about the file."""
        given = [*classes, *features.class_names, *self._labelled.classes.values()]
        self.classes = list(dict.fromkeys(map(check_class_name, given)))
        """Names of classes, in the order in which they came."""
        self._words = _Words(load_tower, "" if self.header.text_recipe else "this encoder reads no text")
        self._points: dict[tuple[tuple[int, ...], tuple[str, ...]], Accuracy] = {}
        self.fit = Fit()
        self._changed = threading.Condition()
        self._version, self._scored, self._fitted, self._ended = 1, 0, 0, False
        self._thread = threading.Thread(target=self._keep_fitting, name="fit", daemon=True)

    def __enter__(self) -> Self:
        """Begin to fit in the background."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the background's work."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    # ---- labels ----

    def label(self, row: int, class_name: str | None) -> None:
        """Give a row a label, or with ``None`` take it back; on disk when this returns.

        Raises
        ------
        DataError
            If there is no such row, or the name cannot be one.
        OutputError
            If the file cannot be written; nothing has changed then.
        """
        name = None if class_name is None else check_class_name(class_name)
        with self._changed:
            self._append(self.stretches[self.check_row(row)], name)

    def undo(self) -> int | None:
        """Take the last label back, and return its row; ``None`` if there is nothing to take back."""
        with self._changed:
            last = self._labelled.undo
            if last is None:
                return None
            self._append(*last)
            return self._row_of.get(last[0], -1)

    def _append(self, stretch: Stretch, name: str | None) -> None:
        if self._labelled.classes.get(stretch) == name:
            return
        self._labelled.take(append_label(self.file, stretch, name))
        if name is not None and name not in self.classes:
            self.classes.append(name)
        self._version += 1
        self._changed.notify_all()

    def check_row(self, row: int) -> int:
        """Return the number of a row.

        Raises
        ------
        DataError
            If there is none.
        """
        if not 0 <= row < len(self.stretches):
            raise DataError(f"no row {row}: there are {len(self.stretches):,}, counted from 0")
        return row

    def sound_of(self, row: int) -> tuple[Place, float, float | None]:
        """Return the file of a row, and start and end in seconds.

        Raises
        ------
        DataError
            If there is no such row.
        AudioError
            If its file is not there any more.
        """
        name, start, end = self.stretches[self.check_row(row)]
        found = locate(self.header, [name], self._audio)
        if name not in found:
            where = self._audio or self.header.source or "the dataset's folder"
            raise AudioError(f"its sound is gone: {name} is not in {where}")
        return found[name], start, end

    @property
    def folder(self) -> Place | None:
        """The folder that paths are relative to, ``None`` if it is gone."""
        roots = [self._audio] if self._audio is not None else roots_of(self.header)
        name = self.stretches[0][0]
        return next((root for root in roots if locate(self.header, [name], root)), None)

    def labelled(self) -> dict[int, str]:
        """Return the class of every labelled row, in the order in which they were labelled."""
        with self._changed:
            classes = self._labelled.classes.items()
            return {self._row_of[key]: name for key, name in classes if key in self._row_of}

    # ---- what comes next ----

    def proposed(self, by: Proposal, *, of_class: str = "", passed_over: Sequence[int] = ()) -> list[Shown]:
        """Return the next rows to label.

        Parameters
        ----------
        of_class : str
            For rows that are likely of a class.
        passed_over : sequence of int
            Rows that are not wanted now.

        Raises
        ------
        UnknownNameError
            If there is no such class, or it came after the last fit.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._scored >= self._version, PATIENCE)
        fit, labelled = self.fit, np.array(list(self.labelled()), np.int64)
        if by == "likely" and of_class not in fit.classes:
            raise UnknownNameError.among("class", of_class, fit.classes or self.classes)
        rows = propose(
            by,
            self.embeddings,
            labelled,
            self._open_to(passed_over),
            fit.probabilities,
            of_class=fit.classes.index(of_class) if by == "likely" else 0,
        )
        return self.shown(rows.tolist())

    def like_text(self, text: str, *, passed_over: Sequence[int] = ()) -> list[Shown]:
        """Return the rows nearest to a text among those that are not labelled.

        Raises
        ------
        DataError
            If text search is off.
        EncoderError
            If the text is longer than the encoder reads.
        """
        queries = self._words.embed([text])
        if queries is None:
            raise DataError(f"text search is off: {self._words.off}")
        return self._nearest(queries[0], passed_over)

    def like_row(self, row: int, *, passed_over: Sequence[int] = ()) -> list[Shown]:
        """Return the rows nearest to a row among those that are not labelled, itself left out."""
        return self._nearest(self.embeddings[self.check_row(row), 0], (*passed_over, row))

    def _nearest(self, query: NDArray[np.float32], passed_over: Sequence[int]) -> list[Shown]:
        among = self._open_to([*passed_over, *self.labelled()])
        return self.shown(nearest(self.embeddings, query, ROUND, among=among).rows.tolist())

    def labelled_as(self, class_name: str) -> list[Shown]:
        """Return the rows of a class, the last to be labelled first."""
        rows = [row for row, name in self.labelled().items() if name == class_name]
        return self.shown(rows[::-1])

    def _open_to(self, passed_over: Sequence[int]) -> NDArray[np.bool_]:
        """Return which rows can be labelled and are wanted now, (n_rows,)."""
        open_to = self.usable.copy()
        open_to[[row for row in passed_over if 0 <= row < len(open_to)]] = False
        return open_to

    def shown(self, rows: Sequence[int]) -> list[Shown]:
        """Return rows as the page shows them."""
        fit, labelled = self.fit, self.labelled()
        found = []
        for row in rows:
            path, start, end = self.stretches[self.check_row(row)]
            guesses: tuple[tuple[str, float], ...] = ()
            if fit.probabilities is not None:
                shares = fit.probabilities[row]
                best = np.argsort(-shares, kind="stable")[:3].tolist()
                guesses = tuple((fit.classes[place], float(shares[place])) for place in best)
            found.append(Shown(row, path, start, end, labelled.get(row), guesses))
        return found

    def state(self) -> dict[str, Any]:
        """Return what the page shows beside rows, as JSON takes it."""
        labelled, fit = self.labelled(), self.fit
        counts = dict.fromkeys(self.classes, 0)
        for name in labelled.values():
            counts[name] += 1
        with self._changed:
            busy, can_undo = self._fitted < self._version, self._labelled.undo is not None
        return {
            "rows": int(self.usable.sum()),
            "labelled": len(labelled),
            "classes": [{"name": name, "count": count} for name, count in counts.items()],
            "guessed": list(fit.classes) if fit.probabilities is not None else [],
            "fitting": busy,
            "fitted_on": fit.n_labels,
            "growth": [_point(point) for point in fit.growth],
            "sample": _point(fit.sample) if fit.sample else None,
            "undo": can_undo,
            "text_off": self._words.off,
        }

    # ---- fitting ----

    def _keep_fitting(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._fitted < self._version)
                if self._ended:
                    return
                version, classes = self._version, tuple(self.classes)
            examples, rows = self._examples(self.labelled(), classes)
            before = self.fit
            shares = Classifier(examples).probabilities(self.embeddings[:, 0]) if can_fit(examples) else None
            self.fit = Fit(len(rows), classes, shares, before.growth, before.sample)
            with self._changed:
                self._scored = version
                self._changed.notify_all()
            right = held_out(examples)
            growth, sample = self._growth(examples, rows, right), self._sample(examples, rows, right)
            self.fit = Fit(len(rows), classes, shares, growth, sample)
            with self._changed:
                self._fitted = version
                self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all labels have been fitted on; tell whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: self._fitted >= self._version, timeout)

    def _examples(
        self, labelled: dict[int, str], classes: tuple[str, ...]
    ) -> tuple[Examples, NDArray[np.int64]]:
        """Return the labelled rows that have an embedding, and their numbers."""
        rows = np.array([row for row in labelled if self.usable[row]], np.int64)
        number = {name: place for place, name in enumerate(classes)}
        labels = np.array([number[labelled[row]] for row in rows.tolist()], np.int64)
        text = self._words.embed(classes)
        audio, recordings = self.embeddings[rows, 0], self._recording[rows]
        return Examples(audio, labels, recordings, len(classes), text), rows

    def _growth(
        self, examples: Examples, rows: NDArray[np.int64], right: NDArray[np.bool_] | None
    ) -> tuple[Accuracy, ...]:
        """Return the accuracy of every full round, as it was then, and now."""
        points = []
        for count in range(ROUND, len(rows), ROUND):
            key = tuple(rows[:count].tolist()), tuple(examples.labels[:count].tolist())
            if key not in self._points:
                first = examples.part(np.arange(len(rows)) < count)
                of_first = held_out(first)
                if of_first is None:
                    continue
                self._points[key] = accuracy(of_first, first.groups)
            points.append(self._points[key])
        if right is not None:
            points.append(accuracy(right, examples.groups))
        return tuple(points)

    def _sample(
        self, examples: Examples, rows: NDArray[np.int64], right: NDArray[np.bool_] | None
    ) -> Accuracy | None:
        is_labelled = np.zeros(len(self.usable), bool)
        is_labelled[rows] = True
        sample = random_sample(is_labelled, self.usable)
        if right is None or len(sample) < LEAST_SAMPLE:
            return None
        chosen = np.isin(rows, sample)
        return accuracy(right[chosen], examples.groups[chosen])


def prompt_means(text: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of prompts (..., n_templates, dim) at unit length, (..., dim)."""
    lengths = np.maximum(np.linalg.norm(text, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray((text / lengths).mean(axis=-2), np.float32)


def _point(point: Accuracy) -> dict[str, float]:
    return {"rows": point.n_rows, "mean": point.mean, "low": point.low, "high": point.high}
