"""A dataset's folder: what every file in it is by its first line, and how all of them are laid out."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from math import inf
from pathlib import Path, PurePosixPath
from typing import cast

from palm_cache.errors import DataError, PalmCacheError, did_you_mean
from palm_cache.extraction.audio.streamed_headers import CONVERT
from palm_cache.extraction.datasets import palm_layout, shards
from palm_cache.extraction.datasets.class_names import named
from palm_cache.extraction.datasets.columns import understand
from palm_cache.extraction.datasets.listing import (
    Listing,
    below,
    by_name,
    ending,
    folded,
    is_folder,
    list_files,
)
from palm_cache.extraction.datasets.splits import DAY, WORDS, part_of
from palm_cache.extraction.datasets.texts import first_line, read_header
from palm_cache.params import Layout
from palm_cache.store.outputs import LABEL_TRACK, holds_answers
from palm_cache.types import Place
from palm_cache.types.audio_names import OTHER_ENDINGS, READABLE_ENDINGS

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
SHARD_ENDINGS = (".parquet", ".arrow")
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")

UNREAD: Mapping[tuple[str, ...], str] = {
    (".tar", ".tgz", ".gz"): "unpack what holds sounds or labels, or `layout` webdataset",
    (".zip", ".7z", ".rar"): "unpack what holds sounds or labels",
    (".xlsx", ".xls", ".ods", ".json", ".scp"): "save what holds labels as CSV or JSON lines (.jsonl)",
    (".textgrid", ".eaf", ".aup3", ".rttm"): "export what holds labels as a table, or for Audacity",
}
"""Endings of what may hold sounds or labels and is not read beside sounds, with what to do about it."""

RAVEN_COLUMN = "Begin Time (s)"
SELECTIONS_TAIL = (
    r"(?:\.Table\.\d+)?(?P<birdnet>\.BirdNET)?(?:\.results(?:\.r|\.kaleidoscope)?)?(?:\.selections?)?(?:\.table)?"
    r"\.(?:txt|csv|tsv)$"
)
"""What tools put behind a recording's name."""

FILES_TRIED = 20
"""Files that are no annotations, after which no more are opened to recognise some."""


def is_file(where: Place) -> bool:
    """Tell whether a dataset is a single table or container, not a folder."""
    return not is_folder(where) and not palm_layout.has_tables(where) and where.is_file()


class Folder:
    """What lies in a folder, or in the only file that is given of one; each is opened once to recognise it.

    Parameters
    ----------
    where : Place
        The folder or file.
    source : str
        Its absolute place, under which what is unpacked of it is kept.
    given : mapping
        Columns that the user has named, by field.
    """

    def __init__(self, where: Place, source: str, given: Mapping[str, str]) -> None:
        self.where, self.source, self.given = where, source, given
        self.alone = is_file(where)
        self.root = where.parent if self.alone else where
        # Not functools.cache of methods: such a circle, with a million paths in it, would outlive it.
        self._headers: dict[str, tuple[str, ...]] = {}
        self._kinds: dict[str, str] = {}

    @cached_property
    def listing(self) -> Listing:
        """All files; the only one that is given."""
        return Listing((self.where.name,), 0) if self.alone else list_files(self.root)

    def at(self, path: str) -> Place:
        """Return the place of a file."""
        return below(self.root, path)

    def header(self, path: str) -> tuple[str, ...]:
        """Return the names of a table's columns."""
        if path not in self._headers:
            read = shards.header if ending(path) in SHARD_ENDINGS else read_header
            self._headers[path] = read(self.at(path))
        return self._headers[path]

    def kind(self, path: str) -> str:
        """Return what annotations a text file holds: ``raven``, ``audacity``, or none, "".

        ``answers`` is a label track that ``predict`` wrote and nobody has exported since: no head learns from
        answers unasked.
        """
        if path not in self._kinds:
            self._kinds[path] = self._recognised(path)
        return self._kinds[path]

    def _recognised(self, path: str) -> str:
        first = first_line(self.at(path))
        if RAVEN_COLUMN in first.split("\t"):
            return "raven"
        if not re.match(r"\d+[.,]?\d*\t\d+[.,]?\d*(\t|$)", first):
            return ""
        is_own = LABEL_TRACK.is_one(cast("Path", self.at(path)))  # a remote one is opened alike
        return "answers" if is_own else "audacity"

    def kinds(self, others: float = inf) -> dict[str, list[str]]:
        """Return the text files by what they hold.

        After so many that hold no annotations no more are opened. Those of ``predict`` do not count: of as
        many as there are recordings, the last alone may have been corrected.
        """
        found = defaultdict[str, list[str]](list)
        for path in self.listing.ending_with(".txt"):
            found[self.kind(path)].append(path)
            if len(found[""]) >= others:
                break
        return found

    @property
    def near_tables(self) -> list[str]:
        """The files here, or one folder below, that may be tables by their endings."""
        return [path for path in self.listing.ending_with(*TABLE_ENDINGS) if path.count("/") <= 1]

    @cached_property
    def tables(self) -> list[str]:
        """Of the near ones, those that have a column of paths, and labels of a person.

        Where a tool wrote one for all recordings and one for each, the former.
        """
        listing = [path for path in self.near_tables if self._has_paths(path)]
        each = self.selections(listing)
        return [path for path in listing if path not in each] or listing

    def _has_paths(self, path: str) -> bool:
        header = self.header(path)
        is_named = self.given.get("path") in header or "path" in understand(header, {}, path)
        return is_named and not holds_answers(header)

    def selections(self, paths: Iterable[str]) -> dict[str, bool]:
        """Return which tables are of starts and ends and called like recordings, and whether with labels.

        One that names its recordings itself can be read alone; of BirdNET's, each names its own.
        """
        named_like = dict[str, tuple[str, bool]]()
        for path in paths:
            name = PurePosixPath(path).name
            tail = re.search(SELECTIONS_TAIL, name, re.IGNORECASE)
            columns = dict[str, str]()
            with suppress(PalmCacheError):  # what cannot be read, or has no column of a given name, is none
                columns = understand(self.header(path), self.given, path) if tail else {}
            timed = "start" in columns and not {"end", "duration"}.isdisjoint(columns)
            if tail and timed and (tail["birdnet"] or "path" not in columns):
                named_like[path] = folded(name[: tail.start()]), "label" in columns
        recordings = by_name(self.listing.audio) if named_like else {}  # of a million it takes seconds
        return {path: labelled for path, (name, labelled) in named_like.items() if name in recordings}

    @property
    def text_tables(self) -> list[str]:
        """The files that are tables in text by their endings."""
        return self.listing.ending_with(".csv", ".tsv")

    @property
    def shards(self) -> list[str]:
        """The Parquet and Arrow files; not what ``datasets`` caches beside them."""
        files = self.listing.ending_with(*SHARD_ENDINGS)
        return [path for path in files if not PurePosixPath(path).name.startswith("cache-")]

    @property
    def tars(self) -> list[str]:
        """The tar files."""
        return [path for path in self.listing.files if path.lower().endswith(TAR_ENDINGS)]

    def recognise(self) -> Layout:
        """Return how a folder is laid out, by what lies in it.

        Raises
        ------
        DataError
            If nothing is recognised.
        """
        if not self.alone and palm_layout.has_tables(self.root):
            return "palm"
        audio = self.listing.audio
        if len(self.tars) > len(audio):
            return "webdataset"
        if any(shards.has_audio(self.at(path)) for path in self.shards[:1]):
            return "parquet"
        kinds = self.kinds(FILES_TRIED)
        if "raven" in kinds:
            return "raven"
        if audio and "audacity" in kinds:
            return "audacity"
        each = self.selections(dict.fromkeys((*self.tables, *self.text_tables[:FILES_TRIED])))
        if (
            each
            and not set(self.tables).difference(each)
            and (any(each.values()) or not self.has_class_folders())
        ):
            return "raven"
        # The latter alone: Excel's "Unicode text", and NeMo's JSON lines.
        if self.tables or (self.alone and ending(self.where.name) in (*TABLE_ENDINGS, ".txt", ".json")):
            return "table"
        if not audio:
            kinds_of_files = [kind or "without ending" for kind in self.listing.endings]
            there = f"what lies here is {named(kinds_of_files)}" if kinds_of_files else "nothing lies here"
            there += f"; {CONVERT}" if set(OTHER_ENDINGS).intersection(kinds_of_files) else ""
            there += "".join(f"; {remedy}" for _, remedy in self._unread())
            raise DataError(
                f"{self.where}: no audio (looked for {', '.join(READABLE_ENDINGS)}), no table with a column "
                f"of paths, no Parquet or tar shards; {there}"
            )
        return "folders" if self.has_class_folders() else "flat"

    def has_class_folders(self) -> bool:
        """Tell whether folders may be classes: not days and hours of recorders, nor train and test.

        Folders in days are classes where all sounds of days lie in such.
        """
        short = stripped(self.listing.audio).values()
        parts = parts_above(short)
        folders = [folders for *folders, _ in (path.split("/") for path in short) if folders]
        days = [below for first, *below in folders if DAY.fullmatch(first)]
        in_days = bool(days) and all(below and not below[0].isdigit() for below in days)

        def may_be(first: str, *below: str) -> bool:
            return not DAY.fullmatch(first) and (
                bool(below) or first not in parts or first.lower() not in WORDS
            )

        return in_days or any(may_be(*some) for some in folders)

    @cached_property
    def datasets_below(self) -> str:
        """The question whether datasets below are meant: the lowest folders with a table and sound.

        Of folders of a split's parts it is the one that holds them.
        """
        audio = self.listing.audio
        tables = (*self.tables, *self.deep_tables)
        around = ([str(folder) for folder in PurePosixPath(table).parents][:-1] for table in tables)
        holding = dict.fromkeys(
            next((folder for folder in folders if any(path.startswith(f"{folder}/") for path in audio)), "")
            for folders in around
        )
        meant = [folder for folder in holding if folder]
        around_all = posixpath.commonpath(meant) if len(meant) > 1 else ""
        if around_all and all(part_of(posixpath.basename(folder)) for folder in meant):
            meant = [around_all]
        return did_you_mean([self.at(folder) for folder in meant])

    @cached_property
    def deep_tables(self) -> list[str]:
        """The tables of those further down; what cannot be read is none."""
        found, deep = [], [path for path in self.listing.ending_with(*TABLE_ENDINGS) if path.count("/") > 1]
        for path in deep[:FILES_TRIED]:
            with suppress(DataError):
                found += [path] if self._has_paths(path) else []
        return found

    def passed_over(self) -> list[str]:
        """Say which tables and tracks beside the sounds were not read."""
        notes = predicted(self.kinds(FILES_TRIED)["answers"])
        tables = self.near_tables
        if answers := [path for path in tables if holds_answers(self.header(path))]:
            alone = self.at(answers[0])
            notes.append(
                f"not read, as predict or search wrote it: {named(answers)}; `dataset` {alone} reads it"
            )
        if others := [path for path in tables if path not in answers]:
            columns = "no column in its first row is known to hold paths; `columns` path=NAME says which does"
            notes.append(f"not read: {named(others)}; {columns}")
        if self.deep_tables and not self.datasets_below:
            deep, (first, *_) = named(self.deep_tables), self.deep_tables
            remedy = f"`dataset` {self.at(first)} with `root` {self.root} reads it"
            notes.append(f"not read, though sounds are listed: {deep}; {remedy}")
        return [*notes, *(f"not read: {named(paths)}; {remedy}" for paths, remedy in self._unread())]

    def _unread(self) -> Iterator[tuple[list[str], str]]:
        """Yield the near files that may hold sounds or labels and are not read, and what to do about them."""
        for endings, remedy in UNREAD.items():
            if paths := [path for path in self.listing.ending_with(*endings) if path.count("/") <= 1]:
                yield paths, remedy


def predicted(tracks: Sequence[str]) -> list[str]:
    """Say which label tracks are not read as ``predict`` wrote them."""
    told = f"not read, as predict wrote it: {named(tracks)}; exported from Audacity it is yours"
    return [told] if tracks else []


def stripped(paths: Sequence[str]) -> dict[str, str]:
    """Return paths without the folders that all of them share, by the whole ones."""
    shared = posixpath.commonpath({path.rpartition("/")[0] for path in paths}) if paths else ""
    return {path: path[len(shared) + bool(shared) :] for path in paths}


def parts_above(paths: Iterable[str]) -> dict[str, str]:
    """Return what the first folders of paths say of the split: all a fold, or train, test, valid.

    Nothing where all that do say the same, among other words as in ``steam-train``, or where some do not and
    others are not called train and test.
    """
    tops = {path.split("/")[0] for path in paths if "/" in path}
    parts = {top: part for top in tops if (part := part_of(top))}
    words = {top: part for top, part in parts.items() if part in WORDS}
    parts = words or parts
    sure = len(parts) == len(tops) or {"train", "test"} <= {*map(str.lower, parts)}
    plain = {*map(str.lower, parts)} <= WORDS.keys()
    return parts if sure and (plain or len({*parts.values()}) > 1) else {}
