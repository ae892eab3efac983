"""Labelling one store: what is labelled, and what the page shows of it.

Labels are in the file before anything else is done with them. The file is the truth: where somebody else has
changed it, it is read again before the next label.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from shlex import quote
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import AudioError, DataError, UnknownNameError, counted
from palm_cache.extraction.datasets.class_names import suspicious
from palm_cache.extraction.whereabouts import first_below, locate, roots_of
from palm_cache.label.fitting import Fitter
from palm_cache.label.labels import (
    Labelled,
    Stretch,
    append_label,
    check_class_name,
    read_labels,
    stamp,
)
from palm_cache.label.rounds import ROUND, Proposal, propose
from palm_cache.label.words import LoadTower, Words
from palm_cache.retrieval.ranking import nearest
from palm_cache.retrieval.sounds import sounds_folder
from palm_cache.store.features import FeatureStore
from palm_cache.types import AnyPlace, Place

PATIENCE, FIRST_PATIENCE = 1.0, 15.0
"""Seconds for which a proposal waits for the latest label to count, and for the first fit after the start."""

BY_SOUND_ALONE = ("diverse", "random")
"""Proposals that need no head."""

FOLDER_PROBES = 50
"""Rows whose files are looked for to find the dataset's folder: some may be gone."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row as the page shows it."""

    row: int
    path: str
    start: float
    end: float | None
    class_name: str | None
    guesses: tuple[str, ...]
    """The likeliest classes; how sure the head is of them is not known: it is not calibrated."""


class Session:
    """A store that is being labelled.

    Parameters
    ----------
    store : FeatureStore
    file : Path
        Where labels are kept.
    classes : sequence of str
        Names of classes to begin with; where none is given, those of the store.
    audio : path, optional
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
        audio: AnyPlace | None = None,
        load_tower: LoadTower,
    ) -> None:
        features, (start, end) = store.read(), store.stretches()
        self.header, self.file, self._audio = store.header, file, sounds_folder(audio)
        self.embeddings: NDArray[np.float32] = features.audio.numpy()
        self.usable: NDArray[np.bool_] = features.usable.numpy()
        if not self.usable.any():
            raise DataError(
                f"{store.path}: none of its rows has an embedding; see why with: palm-cache store info "
                f"{quote(str(store.path))}"
            )
        names = store.clip_names()
        self.stretches: list[Stretch] = [
            (name, float(begin), None if isnan(until) else float(until))
            for name, begin, until in zip(names, start, end, strict=True)
        ]
        self._row_of = {stretch: row for row, stretch in enumerate(self.stretches)}
        self._offered = tuple(dict.fromkeys(map(check_class_name, classes or features.class_names)))
        """Names of classes that are there before anything is labelled."""
        recordings = np.unique(np.array(names, dtype=object), return_inverse=True)[1]
        self._words = Words(self.header, load_tower)
        self.fitter = Fitter(self.embeddings, self.usable, recordings, self._words)
        self._lock = threading.RLock()
        self._read()

    def __enter__(self) -> Self:
        """Begin to fit in the background."""
        self.fitter.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the background's work."""
        self.fitter.__exit__(*exception)

    # ---- labels ----

    def _read(self) -> None:
        """Read the file, and have what it says fitted on."""
        before = stamp(self.file)
        labels, problems = read_labels(self.file)
        self._stamp, self._labelled = before, Labelled(labels)
        strange = [stretch for stretch in self._labelled.classes if stretch not in self._row_of]
        if strange:
            problems.append(
                f"{counted(len(strange), 'label is', 'labels are')} of stretches that this store does "
                f"not have, e.g. {strange[0][0]}; they are kept, and not used here"
            )
        self._problems = problems
        self._fit_again()

    def _follow(self) -> None:
        """Read the file again if it was changed by somebody else."""
        current = stamp(self.file)
        if current == self._stamp:
            return
        if current is None:
            raise DataError(
                f"{self.file}: is gone or empty now, with all labels; put it back, or end this page "
                "and begin again"
            )
        self._read()

    def _fit_again(self) -> None:
        self.fitter.take(self.labelled(), tuple(self.classes))

    @property
    def classes(self) -> list[str]:
        """Names of classes, in the order in which they came."""
        return list(dict.fromkeys([*self._offered, *self._labelled.class_names]))

    @property
    def problems(self) -> list[str]:
        """What is odd about the file, and about names of classes."""
        with self._lock:
            counts = Counter(self.labelled().values())
            return [*self._problems, *suspicious({name: counts[name] for name in self.classes})]

    def label(self, row: int, class_name: str | None) -> None:
        """Give a row a label, or with ``None`` take it back; on disk when this returns.

        Raises
        ------
        DataError
            If there is no such row, the name cannot be one, or the file is gone or something else now.
        OutputError
            If the file cannot be written; nothing has changed then.
        """
        name = None if class_name is None else check_class_name(class_name)
        with self._lock:
            self._follow()
            self._append(self.stretches[self.check_row(row)], name)

    def undo(self, steps: int) -> int | None:
        """Take the last label back, and return its row; ``None`` if there is none, or not here.

        Parameters
        ----------
        steps : int
            How many labels could be undone when whoever asks was last told.

        Raises
        ------
        DataError
            As :meth:`label`, and where somebody else has labelled since: it would be theirs.
        OutputError
            As :meth:`label`.
        """
        with self._lock:
            self._follow()
            if steps != len(self._labelled.steps):
                raise DataError(
                    "somebody else has labelled meanwhile, as is shown now; Undo takes back the last of all"
                )
            last = self._labelled.undo
            if last is None:
                return None
            self._append(*last)
            return self._row_of.get(last[0])

    def _append(self, stretch: Stretch, name: str | None) -> None:
        if self._labelled.classes.get(stretch) == name:
            return
        label = append_label(self.file, stretch, name)
        self._stamp = stamp(self.file)
        self._labelled.take(label)
        self._fit_again()

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
        files = locate(self.header, [name], self._audio)
        if name not in files:
            where = self._audio or self.header.source or "the dataset's folder"
            raise AudioError(f"its sound is gone: {name} is not in {where}")
        return files[name], start, end

    @property
    def folder(self) -> Place | None:
        """The folder that paths are relative to, ``None`` if it is gone."""
        roots = [self._audio] if self._audio is not None else roots_of(self.header)
        names = list(dict.fromkeys(name for name, _, _ in self.stretches))[:FOLDER_PROBES]
        return first_below(self.header, names, roots)[0]

    def labelled(self) -> dict[int, str]:
        """Return the class of every labelled row, in the order in which they were labelled."""
        with self._lock:
            classes = self._labelled.classes.items()
            return {self._row_of[stretch]: name for stretch, name in classes if stretch in self._row_of}

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
        if by not in BY_SOUND_ALONE:
            self.fitter.wait(PATIENCE if self.fitter.fit.classes else FIRST_PATIENCE, scored=True)
        fit, labelled = self.fitter.fit, np.array(list(self.labelled()), np.int64)
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
        return self._nearest(self._words.query(text), passed_over)

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
        fit, labelled = self.fitter.fit, self.labelled()
        entries = []
        for row in rows:
            path, start, end = self.stretches[self.check_row(row)]
            guesses: tuple[str, ...] = ()
            if fit.probabilities is not None:
                best = np.argsort(-fit.probabilities[row], kind="stable")[:3]
                guesses = tuple(fit.classes[place] for place in best.tolist())
            entries.append(Shown(row, path, start, end, labelled.get(row), guesses))
        return entries

    def state(self) -> dict[str, Any]:
        """Return what the page shows beside rows, as JSON takes it.

        Raises
        ------
        DataError
            If the file is gone or something else now.
        """
        with self._lock:
            self._follow()
            labelled, classes, problems = self.labelled(), self.classes, self.problems
            steps = len(self._labelled.steps)
        counts, fit = Counter(labelled.values()), self.fitter.fit
        return {
            "labelled": len(labelled),
            "classes": [{"name": name, "count": counts[name]} for name in classes],
            "guessed": list(fit.classes) if fit.probabilities is not None else [],
            "fitting": self.fitter.busy,
            "growth": list(map(asdict, fit.growth)),
            "sample": asdict(fit.sample) if fit.sample else None,
            "undo": steps,
            "text_off": self._words.off,
            "trouble": fit.failure or self._words.unread,
            "problems": problems,
        }
