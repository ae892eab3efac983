"""One extraction while it runs: what is not known is embedded, here or elsewhere, until everything is."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import AudioError, counted
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.devices import feeding_processes
from palm_cache.extraction.known_files import KnownFiles
from palm_cache.extraction.runtime import check_runtime
from palm_cache.extraction.work import ClipReport, Work, Worker
from palm_cache.extraction.workers import embed_elsewhere
from palm_cache.params import Recipe, Resources
from palm_cache.store.cache import Cache
from palm_cache.types import ClipTable, Place, Progress

ROUNDS = 3
"""Passes over clips whose embedding is not there in the end: damaged, or left over by another process."""


@dataclass(slots=True)
class RunningExtraction:
    """One extraction while it runs."""

    table: ClipTable
    encoder: Encoder
    embedder: Callable[[], Embedder]
    """Opens the readers and workers of this process."""
    recipe: Recipe
    resources: Resources
    fingerprint: str
    """Of the recipe."""
    cache: Place
    audio: Cache
    survey: KnownFiles
    notes: list[str]
    progress: Progress
    remarks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How many rows there are of which something should be known, and the first, by what."""
    _embedded: NDArray[np.bool_] = field(init=False)
    """(rows,) which went through the encoder, be it twice, and have their embedding."""

    def __post_init__(self) -> None:
        self._embedded = np.zeros(len(self.table.clips), bool)

    @property
    def embedded(self) -> int:
        """How many contents went through the encoder."""
        return int(self._embedded.sum())

    @property
    def sound_notes(self) -> list[str]:
        """What should be known of the sounds that were embedded."""
        return [
            f"{counted(count, 'clip')}: {remark}, e.g. {self.table.clips.names[first]}"
            for remark, (count, first) in self.remarks.items()
        ]

    def complete(self) -> dict[int, str]:
        """Embed what is not known; return why rows have no embedding.

        What is there in the end counts, not what a process has said: segments may be damaged, and
        another process may have been killed with what this one waited for.
        """
        for number in range(ROUNDS):
            todo, errors = self._open_rows()
            self._refuse(errors)
            if not len(todo):
                break
            if number:  # what was seen of it is not there any more
                self.audio.forget()
                self.audio.refresh()
            self._embed(todo)
            self.audio.refresh()
        else:
            todo, errors = self._open_rows()
        lost = dict.fromkeys(todo.tolist(), "its embedding could not be kept; run the same command again")
        failures = {**lost, **errors, **self.survey.unread}
        self._embedded[list(failures)] = False
        return failures

    def _open_rows(self) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Return the rows to be looked at, and the failures of those whose content is known."""
        known, errors = self.survey.look_up(self.audio)
        known[list(errors) + list(self.survey.unread)] = True
        return np.flatnonzero(~known), errors

    def _embed(self, todo: NDArray[np.int64]) -> None:
        """Embed clips, in this process or elsewhere.

        It begins somewhere among them: processes that work on the same dataset then meet late.
        """
        todo, doing = np.roll(todo, random.randrange(len(todo))), "embedding" if self.embedded else "checking"
        for number, report in enumerate(self._results(todo), start=1):
            self.survey.learn(report.row, report.content, report.state, report.error)
            if report.how == "embedded":
                self._embedded[report.row], doing = True, "embedding"
            for remark in report.remarks:
                count, first = self.remarks.get(remark, (0, report.row))
                self.remarks[remark] = count + 1, min(first, report.row)
            if report.error:
                self._refuse({report.row: report.error})
            # Of files that have not been read yet most may turn out to be known.
            self.progress(doing, number, len(todo))

    def _results(self, rows: NDArray[np.int64]) -> Iterator[ClipReport]:
        resources, todo = self.resources, self.table.clips.numbered(rows.data)
        n_devices = len(resources.devices)
        jobs = resources.jobs or n_devices * feeding_processes(self.encoder.device, len(todo) // n_devices)

        def check() -> None:
            self.notes += check_runtime(self.encoder, self.table.clips.take(rows.data), self.recipe)

        if jobs == 1 and not resources.cluster:
            yield from Work(self.embedder(), self.audio, check).embed(todo)
            return
        check()
        worker = Worker(
            cache=self.cache,
            encoder=self.encoder.spec,
            fingerprint=self.fingerprint,
            recipe=self.recipe,
            resources=resources,
            session=uuid.uuid4().hex,
            damaged=tuple(self.audio.damaged),
        )
        self.progress("checking", 0, len(todo))
        for reports, notes in embed_elsewhere(worker, todo, jobs):
            self.notes += [note for note in notes if note not in self.notes]
            yield from reports

    def _refuse(self, errors: dict[int, str]) -> None:
        if self.resources.on_error == "fail":
            refuse(self.table, errors)


def refuse(table: ClipTable, errors: Mapping[int, str]) -> None:
    """Raise ``AudioError`` for the first of some rows that have no embedding, if there are any."""
    for row, reason in errors.items():
        raise AudioError(
            f"{table.clips.names[row]}: {reason}; mend or remove the clip, or use `on_error` skip"
        )
