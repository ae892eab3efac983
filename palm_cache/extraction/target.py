"""The store that an extraction makes of a dataset, and what lies in its place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import AbsentStoreError, DamagedStoreError, OlderFormatError
from palm_cache.extraction.collapse import collapse_note
from palm_cache.extraction.known_files import KnownFiles
from palm_cache.extraction.takeover import format1_header
from palm_cache.store.cache import Cache
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import LIMITS, StoredRows, StoreHeader, twins
from palm_cache.store.writing import write_store
from palm_cache.types import Place

SAMPLED_ROWS, MIN_ROWS = 500, 20
"""Rows whose embeddings are compared with each other, at most; with fewer likeness is no sign."""

TEXT_FIELDS = {
    "text_recipe": "text tower or tokenizer",
    "templates": "templates",
    "descriptions": "descriptions",
    "class_names": "class names",
}
"""Of a store's header what decides its text, in words."""

OTHER_FIELDS = ("dataset", "source", "published", "encoder", "fingerprint", "rows_sha256", *LIMITS)
"""What else two headers have in common whose stores hold the same."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """What lies at the place where a store is wanted."""

    store: FeatureStore | None = None
    format1: Mapping[str, object] | None = None
    """Attributes of a store of format 1."""
    problem: str = ""
    """Why there is no store to go on from, though there is one."""

    @property
    def whole(self) -> FeatureStore | None:
        """The store, if there is one to go on from."""
        return None if self.problem else self.store

    @classmethod
    def at(cls, out: Place) -> StoreState:
        """Look what is there.

        Raises
        ------
        StoreError
            If it may not be read, or a newer palm-cache wrote it.
        """
        try:
            store = FeatureStore(out)
            problems = store.file_problems("nothing")
        except AbsentStoreError:
            return cls()
        except OlderFormatError:
            return cls(format1=format1_header(out))
        except DamagedStoreError as error:
            return cls(problem=str(error).removeprefix(f"{out}: ").partition(";")[0])
        return cls(store, problem=problems[0] if problems else "")


@dataclass(frozen=True, slots=True)
class Target:
    """The store that is to be made of a dataset."""

    out: Place
    present: StoreState
    """What lies in its place."""
    header: StoreHeader
    """What it is to say of itself, but for what is known when all is embedded."""
    stale: str
    """How what lies there was made by another recipe, or holds labels that would be lost; "" if neither."""

    @property
    def other_text(self) -> str:
        """Say what of the text is other than in the store that is there; "" if nothing is."""
        store = self.present.store
        if store is None:
            return ""
        return ", ".join(
            f"other {what}"
            for name, what in TEXT_FIELDS.items()
            if getattr(store.header, name) != getattr(self.header, name)
        )

    def write(
        self, rows: StoredRows, survey: KnownFiles, audio: Cache, text: NDArray[np.float32], thorough: bool
    ) -> list[str]:
        """Write the store, unless the one that is there is the same; return what the user should know.

        Parameters
        ----------
        text : array, shape (n_classes, n_templates, dim)
        thorough : bool
            Whether every byte of the store that is there is looked at, though it is far away.

        Raises
        ------
        UnknownContentError
            If the cache does not give what it should: what is damaged there has been dropped.
        OutputError
            If the store cannot be written.
        """
        fewer = self.note_fewer(len(rows.names))
        why = self._why_write(rows, thorough)
        if why is None:
            return fewer

        def embeddings(some: slice) -> NDArray[np.float32]:
            good = np.array([row for row in range(some.start, some.stop) if row not in rows.errors], np.int64)
            block = np.zeros((some.stop - some.start, *audio.shape), np.float32)
            block[good - some.start] = audio.take(survey.keys(good))
            return block

        write_store(self.out, self.header, rows, text, embeddings, before=self.present.whole)
        anew = f"{self.out} was stale ({self.stale}) and has been made anew" if self.stale else why
        if not anew and self.other_text:
            anew = f"{self.other_text} than before: text was embedded anew"
        alike = twins(survey.keys(), rows.labels, rows.folds, lambda: rows.names)
        collapsed = [collapse_note("clips", _sample(audio, survey, rows))]
        if self.header.text_recipe is not None and text.size:
            collapsed.append(collapse_note("class names", text[:, 0]))
        return [*filter(None, [anew]), *fewer, *alike, *filter(None, collapsed)]

    def note_fewer(self, n_rows: int) -> list[str]:
        """Say that the store is to hold some clips of its dataset alone, if so."""
        store, held = self.present.whole, 0
        if not self.header.limit:
            return []
        with suppress(DamagedStoreError):  # is made anew
            if store is not None and store.header.source == self.header.source:
                held = store.n_clips
        kept = f"; it held {held:,} before, of which the cache keeps what it knows" if held > n_rows else ""
        return [f"this store {self.header.limited}{kept}"]

    def _why_write(self, rows: StoredRows, thorough: bool) -> str | None:
        """Say why the store is to be written; ``None`` if the one that is there is the same."""
        store = self.present.whole
        if store is None:
            return f"made anew: {self.present.problem}" if self.present.problem else ""
        header = replace(self.header, rows_sha256=rows.sha256(self.header.class_names))
        if any(
            getattr(store.header, name) != getattr(header, name) for name in (*OTHER_FIELDS, *TEXT_FIELDS)
        ):
            return ""
        problems = store.file_problems("everything") if thorough or store.folder.is_near else []
        return f"made anew: {problems[0]}" if problems else None


def _sample(audio: Cache, survey: KnownFiles, rows: StoredRows) -> NDArray[np.float32]:
    """Return the embeddings of some different contents, (n, dim); none where there are too few to tell."""
    good = np.delete(np.arange(len(rows.names)), list(rows.errors))
    spread = good[np.linspace(0, len(good) - 1, min(len(good), SAMPLED_ROWS)).astype(np.int64)]
    different = np.unique(survey.keys(spread), axis=0)
    return np.asarray(audio.take(different if len(different) >= MIN_ROWS else different[:0])[:, 0])
