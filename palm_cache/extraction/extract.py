"""Stage one: embed what the cache does not know of a dataset, then write its store from the cache."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import soundfile
import torch

from palm_cache.errors import DataError, ParameterError, StaleStoreError, counted
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.known_files import KnownFiles, file_cache
from palm_cache.extraction.matching import MANY_MISSING, keep_unreadable, lost_labels, note_gone
from palm_cache.extraction.plan import Plan, make_plan
from palm_cache.extraction.prompts import Prompts
from palm_cache.extraction.reading import CuttingRule, hash_files
from palm_cache.extraction.recipe import audio_recipe, format1_print
from palm_cache.extraction.run import ROUNDS, RunningExtraction, refuse
from palm_cache.extraction.takeover import take_over
from palm_cache.extraction.target import StoreState, Target
from palm_cache.extraction.work import audio_cache
from palm_cache.params import Recipe, Resources
from palm_cache.store.atomic import named
from palm_cache.store.cache import Cache, UnknownContentError
from palm_cache.store.features import CHUNK_ROWS
from palm_cache.store.fingerprint import fingerprint, library_versions
from palm_cache.store.header import FORMAT_VERSION, StoredRows, StoreHeader
from palm_cache.store.layout import CACHE
from palm_cache.store.places import folder
from palm_cache.store.writing import claimed_files
from palm_cache.types import ClipTable, Place, Progress, no_progress
from palm_cache.types.stretches import stretch_text


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
        table, target, _ = self._target(table, out)  # of what is gone the plan tells itself
        survey = self._survey(table, file_cache(cache))
        unseen = table.clips.numbered(np.flatnonzero(~survey.seen).data)
        for number, read in enumerate(hash_files(unseen), start=1):
            survey.learn(read.row, read.content, None, read.error)
            progress("checking", number, len(unseen))
        audio = audio_cache(cache, self.encoder, self.recipe, retry=self.resources.retry_failed)
        if self.resources.on_error == "fail":
            refuse(table, {**survey.look_up(audio)[1], **survey.unread})
        notes = self._keep_unreadable(survey, target, audio, dict(survey.unread), table)
        return make_plan(target, table, survey, audio, notes)

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
        table, target, notes = self._target(table, out)
        if target.stale and self.resources.on_stale == "refuse":
            raise StaleStoreError(
                f"{out} is stale: {target.stale}; make it anew with `on_stale` rebuild, or choose another "
                "`out`"
            )
        # Before hours of work: does the tower read all prompts?
        text = self.prompts.embed(self.encoder, table.class_names, cache)
        audio = audio_cache(cache, self.encoder, self.recipe, retry=self.resources.retry_failed)
        files = file_cache(cache)
        if target.present.format1 is not None and not target.stale:
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
            notes += self._keep_unreadable(survey, target, audio, errors, table)
            rows = _rows(table, survey, errors)
            try:
                notes += target.write(rows, survey, audio, text, self.resources.check == "content")
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

    def _target(self, table: ClipTable, out: Place) -> tuple[ClipTable, Target, list[str]]:
        """Return the clips that are wanted, the store that is to hold them, and what is gone, in words."""
        wanted = first_clips(table, self.resources.limit)
        self.prompts.check_classes(table.dataset, table.class_names)
        present = StoreState.at(named(out))
        if present.store is None:
            claimed_files(folder(out))  # before hours of work: may the store be written here?
        gone = note_gone(present.whole, wanted, self.resources)
        header = self._header(wanted, len(table.clips))
        return wanted, Target(out, present, header, self._stale(present, wanted)), gone

    def _keep_unreadable(
        self, survey: KnownFiles, target: Target, audio: Cache, errors: dict[int, str], table: ClipTable
    ) -> list[str]:
        """Keep what is known of files that cannot be read; refuse a dataset none of which can."""
        notes = [] if self.resources.prune else keep_unreadable(survey, target.present.whole, audio, errors)
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

    def _header(self, table: ClipTable, n_all: int) -> StoreHeader:
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
            text_recipe=encoder.text_identity,
            templates=self.prompts.held if self._reads else (),
            descriptions=dict(self.prompts.descriptions),
            class_names=table.class_names,
            rows_sha256="",
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


def first_clips(table: ClipTable, limit: int) -> ClipTable:
    """Take the first clips of every class only, for training and for testing; all where ``limit`` is 0."""
    if not limit:
        return table
    test = set(table.folds[0].test.tolist()) if table.folds else set()
    seen: Counter[object] = Counter()
    rows = []
    for row, label in enumerate(table.clips.labels):
        seen[label, row in test] += 1
        if seen[label, row in test] <= limit:
            rows.append(row)
    return table.subset(rows)


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
