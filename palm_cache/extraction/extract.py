"""Stage one: embed what the cache does not know of a dataset, then write its store from the cache."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from palm_cache.errors import DataError, ParameterError, StaleStoreError, counted
from palm_cache.extraction.collapse import collapse_note
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.known_files import KnownFiles, file_cache
from palm_cache.extraction.matching import MANY_MISSING, keep_unreadable, lost_labels, note_gone
from palm_cache.extraction.plan import Plan, StoreState, make_plan
from palm_cache.extraction.prompts import Prompts
from palm_cache.extraction.reading import CuttingRule, hash_files
from palm_cache.extraction.recipe import audio_recipe, format1_print
from palm_cache.extraction.run import ROUNDS, RunningExtraction, refuse
from palm_cache.extraction.selection import first_clips, note_fewer
from palm_cache.extraction.takeover import take_over
from palm_cache.extraction.work import audio_cache
from palm_cache.params import Recipe, Resources
from palm_cache.store.atomic import named
from palm_cache.store.cache import Cache, UnknownContentError
from palm_cache.store.features import CHUNK_ROWS
from palm_cache.store.fingerprint import fingerprint, library_versions
from palm_cache.store.header import FORMAT_VERSION, LIMITS, StoredRows, StoreHeader, twins
from palm_cache.store.layout import CACHE
from palm_cache.store.places import folder
from palm_cache.store.writing import claimed_files, write_store
from palm_cache.types import ClipTable, Place, Progress, no_progress
from palm_cache.types.stretches import stretch_text

SAMPLED_ROWS, MIN_ROWS = 500, 20
"""Rows whose embeddings are compared with each other, at most; with fewer likeness is no sign."""

TEXT_FIELDS = {
    "text_recipe": "text tower or tokenizer",
    "templates": "templates",
    "descriptions": "descriptions",
    "class_names": "class names",
}
"""Of a store's header what decides its text, in words."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an extraction did."""

    store: Place
    n_clips: int
    embedded: int
    """Contents that went through the encoder."""
    failures: tuple[tuple[str, str, str], ...]
    """(path, reason, stretch) of every clip that has no embedding; the stretch is "" for a whole file."""
    notes: tuple[str, ...]


class Extractor:
    """A loaded encoder that embeds datasets, one after the other.

    Parameters
    ----------
    spec : str
        Which encoder.
    recipe : Recipe
    resources : Resources
    prompts : Prompts, optional
        What the text tower reads of every class.

    Raises
    ------
    UnknownNameError, EncoderError
        If the encoder cannot be loaded.
    ParameterError
        If prompts are given and the encoder reads none.
    """

    def __init__(
        self, spec: str, recipe: Recipe, resources: Resources, prompts: Prompts | None = None
    ) -> None:
        self.prompts = prompts or Prompts()
        self.spec, self.recipe, self.resources = spec, recipe, resources
        self.encoder: Encoder = load_encoder(spec, recipe, device=resources.devices[0])
        self._reads = self.encoder.text_tower() is not None
        if not self._reads and self.prompts != Prompts():
            raise ParameterError(f"{spec}: embeds sound only; leave out `templates` and `descriptions`")
        self.audio_recipe = audio_recipe(self.encoder, recipe)
        self._close = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    @cached_property
    def embedder(self) -> Embedder:
        """Readers and workers of this process, made when they are first needed."""
        return self._close.enter_context(Embedder(self.encoder, self.recipe, self.resources.batch_size))

    def plan(self, table: ClipTable, out: Place, cache: Place, progress: Progress = no_progress) -> Plan:
        """Find out what :meth:`extract` would do with the same arguments, and write nothing.

        Files that are not known by their state are read. Raises as :meth:`extract`, but for a stale store.
        """
        table = first_clips(table, self.resources.limit)
        self.prompts.check_classes(table.dataset, table.class_names)
        present = StoreState.at(out)
        note_gone(present.whole, table, self.resources)  # may refuse; of what is gone the plan tells itself
        survey = self._survey(table, file_cache(cache))
        unseen = table.clips.numbered(np.flatnonzero(~survey.seen).data)
        for number, read in enumerate(hash_files(unseen), start=1):
            survey.learn(read.row, read.content, None, read.error)
            progress("checking", number, len(unseen))
        audio = audio_cache(cache, self.encoder, self.recipe, retry=self.resources.retry_failed)
        if self.resources.on_error == "fail":
            refuse(table, {**survey.look_up(audio)[1], **survey.unread})
        notes = self._keep_unreadable(survey, present, audio, dict(survey.unread), table)
        stale, other_text = self._stale(present, table), self._other_text(present, table)
        return make_plan(out, table, present.store, stale, survey, audio, other_text, notes)

    def extract(
        self, table: ClipTable, out: Place, cache: Place, progress: Progress = no_progress
    ) -> Extraction:
        """Embed what is new of a dataset and keep everything in a feature store.

        Parameters
        ----------
        table : ClipTable
            The dataset.
        out : Place
            The store's folder.
        cache : Place
            The folder of what is known.
        progress : callable
            Told about every step.

        Raises
        ------
        ClusterError
            If the cluster cannot be reached or loses its workers, or one of ``resources.jobs`` dies.
        StaleStoreError
            If the store was made by another recipe, or holds labels and the dataset has none any more, and
            ``resources.on_stale`` is ``"refuse"``.
        AudioError
            If a clip cannot be read and ``resources.on_error`` is ``"fail"``.
        DataError
            If none of the files can be read, or descriptions are not of the dataset's classes.
        EncoderError
            If a prompt is longer than the text tower can read.
        OutputError
            If the store or the cache cannot be written.
        """
        n_all, table = len(table.clips), first_clips(table, self.resources.limit)
        self.prompts.check_classes(table.dataset, table.class_names)
        present = StoreState.at(named(out))
        if present.store is None:
            claimed_files(folder(out))  # before hours of work: may the store be written here?
        notes = note_gone(present.whole, table, self.resources)
        stale = self._stale(present, table)
        if stale and self.resources.on_stale == "refuse":
            raise StaleStoreError(
                f"{out} is stale: {stale}; make it anew with `on_stale` rebuild, or choose another `out`"
            )
        # Before hours of work: does the tower read all prompts?
        text = self.prompts.embed(self.encoder, table.class_names, cache)
        audio = audio_cache(cache, self.encoder, self.recipe, retry=self.resources.retry_failed)
        files = file_cache(cache)
        if present.format1 is not None and not stale:
            taken = take_over(out, table.clips, CuttingRule.of(self.encoder, self.recipe), audio)
            notes.append(f"{out} was of an earlier format; {counted(taken, 'clip')} kept their embedding")
        survey = self._survey(table, files)
        progress("checking", int(survey.seen.sum()), len(table.clips))
        run = RunningExtraction(
            table=table,
            encoder=self.encoder,
            embedder=lambda: self.embedder,
            recipe=self.recipe,
            resources=self.resources,
            fingerprint=fingerprint(self.audio_recipe),
            cache=cache,
            audio=audio,
            survey=survey,
            notes=notes,
            progress=progress,
        )
        for number in range(ROUNDS):
            try:
                errors = run.complete()
            finally:
                survey.remember()
            notes += self._keep_unreadable(survey, present, audio, errors, table)
            rows = _rows(table, survey, errors)
            try:
                header = self.header(table, rows, n_all)
                notes += self._write(out, present, stale, table, header, rows, survey, audio, text)
                break
            except UnknownContentError:  # what was damaged in the cache has been dropped: once more
                if number == ROUNDS - 1:
                    raise
                for at in range(0, len(rows.names), CHUNK_ROWS):  # so is what else is: not a round for each
                    audio.take_known(survey.keys(slice(at, at + CHUNK_ROWS)))
        audio.merge()
        files.merge()
        if len(survey.unread) > MANY_MISSING * len(table.clips):
            notes.insert(
                0, f"{len(survey.unread)} of {counted(len(table.clips), 'audio file')} could not be read"
            )
        failures = tuple(
            (table.clips.names[row], reason, stretch_text(survey.start[row], survey.end[row]))
            for row, reason in sorted(errors.items())
        )
        unremembered = [survey.unremembered] * bool(survey.unremembered)
        notes = [*table.notes, *notes, *unremembered, *run.sound_notes, *self._embedder_notes()]
        return Extraction(out, len(table.clips), run.embedded, failures, tuple(notes))

    def _keep_unreadable(
        self, survey: KnownFiles, present: StoreState, audio: Cache, errors: dict[int, str], table: ClipTable
    ) -> list[str]:
        """Keep what is known of files that cannot be read; refuse a dataset none of which can."""
        notes = [] if self.resources.prune else keep_unreadable(survey, present.whole, audio, errors)
        if len(survey.unread) < len(table.clips):
            return notes
        row, reason = next(iter(survey.unread.items()))
        raise DataError(
            f"{table.dataset}: none of its {counted(len(table.clips), 'audio file')} can be read, e.g. "
            f"{table.clips[row].file}: {reason}; is the disk there, and `root` right? Nothing was changed"
        )

    def _survey(self, table: ClipTable, files: Cache) -> KnownFiles:
        return KnownFiles.of(table.clips, files, self.resources.check == "stat")

    def _stale(self, present: StoreState, table: ClipTable) -> str:
        if present.format1 is not None:
            old = (present.format1.get("fingerprint"), present.format1.get("views"))
            same = old == (format1_print(self.encoder, self.recipe), self.recipe.views)
            return "" if same else "written by an earlier palm-cache with another encoder or other options"
        if present.store is None:
            return ""
        labels = "" if self.resources.prune else lost_labels(present.store, table)
        return "; ".join(filter(None, [present.store.header.stale(self.audio_recipe), labels]))

    def _write(
        self,
        out: Place,
        present: StoreState,
        stale: str,
        table: ClipTable,
        header: StoreHeader,
        rows: StoredRows,
        survey: KnownFiles,
        audio: Cache,
        text: NDArray[np.float32],
    ) -> list[str]:
        """Write the store, unless the one that is there is the same."""
        fewer = note_fewer(present.whole, header, table)
        why = self._why_write(present, header)
        if why is None:
            return fewer

        def embeddings(some: slice) -> NDArray[np.float32]:
            good = np.array([row for row in range(some.start, some.stop) if row not in rows.errors], np.int64)
            block = np.zeros((some.stop - some.start, *audio.shape), np.float32)
            block[good - some.start] = audio.take(survey.keys(good))
            return block

        write_store(out, header, rows, text, embeddings, before=present.whole)
        collapsed = (
            collapse_note("clips", _sample(audio, survey, rows)),
            collapse_note("class names", text[:, 0]) if self._reads and text.size else None,
        )
        other_text = self._other_text(present, table)
        why = why or (f"{other_text} than before: only text was embedded anew" if other_text else "")
        made_anew = [f"{out} was stale ({stale}) and has been made anew"] if stale else [why] if why else []
        alike = twins(survey.keys(), rows.labels, rows.folds, lambda: rows.names)
        return [*made_anew, *fewer, *alike, *(note for note in collapsed if note)]

    def _why_write(self, present: StoreState, header: StoreHeader) -> str | None:
        """Say why the store is to be written; ``None`` if the one that is there is the same."""
        store = present.whole
        if store is None:
            return f"made anew: {present.problem}" if present.problem else ""
        old = store.header
        names = ("dataset", "source", "published", "encoder", "fingerprint", "rows_sha256")
        same = (*names, *TEXT_FIELDS, *LIMITS)
        if [getattr(old, name) for name in same] != [getattr(header, name) for name in same]:
            return ""
        thorough = self.resources.check == "content" or store.folder.is_near
        problems = store.file_problems("everything") if thorough else []
        return f"made anew: {problems[0]}" if problems else None

    def _other_text(self, present: StoreState, table: ClipTable) -> str:
        """Say what of a dataset's text is other than in its store; "" if nothing is, or there is none."""
        if present.store is None:
            return ""
        old, now = present.store.header, self._of_text(table)
        return ", ".join(
            f"other {what}" for name, what in TEXT_FIELDS.items() if getattr(old, name) != now[name]
        )

    def _of_text(self, table: ClipTable) -> dict[str, Any]:
        """Return what a header says of text."""
        return {
            "text_recipe": self.encoder.text_identity,
            "templates": self.prompts.held if self._reads else (),
            "descriptions": dict(self.prompts.descriptions),
            "class_names": table.class_names,
        }

    def header(self, table: ClipTable, rows: StoredRows, n_all: int) -> StoreHeader:
        """Return the header of the store of a dataset, which has ``n_all`` clips if none is left out."""
        limit = self.resources.limit if len(table.clips) < n_all else 0
        encoder, tower = self.encoder, self.encoder.text_tower()
        return StoreHeader(
            format_version=FORMAT_VERSION,
            id="",
            dataset=table.dataset,
            source=table.source,
            published=table.published,
            encoder=encoder.spec,
            recipe=self.audio_recipe,
            fingerprint=fingerprint(self.audio_recipe),
            dim=encoder.dim,
            token_dim=tower.token_dim if tower else 0,
            sample_rate=encoder.sample_rate,
            seconds=encoder.window.stretch / encoder.sample_rate,
            views=self.recipe.views,
            **self._of_text(table),
            rows_sha256=rows.sha256(table.class_names),
            text_sha256="",
            limit=limit,
            limited_from=n_all if limit else 0,
            made_with={**library_versions(), **_machine(encoder), **encoder.made_with},
        )

    def _embedder_notes(self) -> list[str]:
        if "embedder" not in self.__dict__:
            return []
        notes, self.embedder.notes = self.embedder.notes, []
        return notes


def _rows(table: ClipTable, survey: KnownFiles, errors: dict[int, str]) -> StoredRows:
    return StoredRows(
        names=table.clips.names,
        start=survey.start,
        end=survey.end,
        labels=np.frombuffer(table.clips.labels, np.int64),
        contents=survey.contents,
        errors=errors,
        folds=table.folds,
        groups=table.groups,
    )


def _sample(audio: Cache, survey: KnownFiles, rows: StoredRows) -> NDArray[np.float32]:
    """Return the embeddings of some different contents, (n, dim); none where there are too few to tell."""
    good = np.delete(np.arange(len(rows.names)), list(rows.errors))
    spread = good[np.linspace(0, len(good) - 1, min(len(good), SAMPLED_ROWS)).astype(np.int64)]
    different = np.unique(survey.keys(spread), axis=0)
    return np.asarray(audio.take(different if len(different) >= MIN_ROWS else different[:0])[:, 0])


def _machine(encoder: Encoder) -> dict[str, str]:
    device = encoder.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "cuda": torch.version.cuda or "", "libsndfile": soundfile.__libsndfile_version__}


def extract(
    table: ClipTable,
    spec: str,
    out: Place,
    recipe: Recipe | None = None,
    resources: Resources | None = None,
    prompts: Prompts | None = None,
    *,
    cache: Place | None = None,
    progress: Progress = no_progress,
) -> Extraction:
    """Embed one dataset: see :class:`Extractor`; the cache is ``.cache`` beside the store by default."""
    with Extractor(spec, recipe or Recipe(), resources or Resources(), prompts) as extractor:
        return extractor.extract(table, out, cache or out.parent / CACHE, progress)
