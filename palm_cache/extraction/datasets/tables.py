"""Which tables lie in a folder: those that list its sounds, those of datasets below it, what is not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import PurePosixPath

from palm_cache.errors import DataError, did_you_mean
from palm_cache.extraction.datasets import annotated, shards
from palm_cache.extraction.datasets.class_names import named
from palm_cache.extraction.datasets.columns import understand
from palm_cache.extraction.datasets.listing import Listing, below, ending
from palm_cache.extraction.datasets.texts import read_header
from palm_cache.store.outputs import holds_answers
from palm_cache.types import Place

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".arrow")
SHARD_ENDINGS = (".parquet", ".arrow")
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")

UNREAD: Mapping[tuple[str, ...], str] = {
    (".tar", ".tgz", ".gz"): "unpack what holds sounds or labels, or `layout` webdataset",
    (".zip", ".7z", ".rar"): "unpack what holds sounds or labels",
    (".xlsx", ".xls", ".ods", ".json", ".jsonl"): "save what holds labels as CSV",
}
"""Endings of what may hold sounds or labels and is not read beside sounds, with what to do about it."""


def datasets_below(root: Place, listing: Listing, columns: Mapping[str, str]) -> str:
    """Return the question whether datasets below are meant: the lowest folders with a table and sound."""
    audio = listing.audio
    tables = chain(with_paths(root, listing, columns), _deep_tables(root, listing, columns))
    around = ([str(folder) for folder in PurePosixPath(table).parents][:-1] for table in tables)
    holding = (
        next((folder for folder in folders if any(path.startswith(f"{folder}/") for path in audio)), "")
        for folders in around
    )
    return did_you_mean([below(root, folder) for folder in dict.fromkeys(holding) if folder])


def with_paths(root: Place, listing: Listing, columns: Mapping[str, str]) -> list[str]:
    """Return the tables in a folder or one below it that have a column of paths, and labels of a person."""
    return [path for path in near_tables(listing) if _has_paths(_columns(root, path), columns, path)]


def near_tables(listing: Listing) -> list[str]:
    """Return the files of a folder, or one below it, that may be tables by their endings."""
    return [path for path in listing.ending_with(*TABLE_ENDINGS) if path.count("/") <= 1]


def _deep_tables(root: Place, listing: Listing, columns: Mapping[str, str]) -> Iterator[str]:
    """Yield the tables of those further down; what cannot be read is none."""
    deep = [path for path in listing.ending_with(*TABLE_ENDINGS) if path.count("/") > 1]
    for path in deep[: annotated.FILES_TRIED]:
        with suppress(DataError):
            if _has_paths(_columns(root, path), columns, path):
                yield path


def _columns(root: Place, path: str) -> tuple[str, ...]:
    file = below(root, path)
    return shards.header(file) if ending(path) in SHARD_ENDINGS else read_header(file)


def _has_paths(header: Sequence[str], columns: Mapping[str, str], path: str) -> bool:
    named = columns.get("path") in header or "path" in understand(header, {}, path)
    return named and not holds_answers(header)


def passed_over(root: Place, listing: Listing) -> list[str]:
    """Say which tables and tracks beside the sounds were not read."""
    tracks = annotated.tracks(root, annotated.texts(listing), annotated.FILES_TRIED)
    notes = annotated.predicted(tracks)
    tables = {path: _columns(root, path) for path in near_tables(listing)}
    if answers := [path for path, header in tables.items() if holds_answers(header)]:
        alone = below(root, answers[0])
        notes.append(f"not read, as predict or search wrote it: {named(answers)}; `dataset` {alone} reads it")
    if others := [path for path in tables if path not in answers]:
        columns = "no column in its first row is known to hold paths; `columns` path=NAME says which does"
        notes.append(f"not read: {named(others)}; {columns}")
    return [*notes, *(f"not read: {named(paths)}; {remedy}" for paths, remedy in unread(listing))]


def unread(listing: Listing) -> Iterator[tuple[list[str], str]]:
    """Yield the near files that may hold sounds or labels and are not read, with what to do about them."""
    for endings, remedy in UNREAD.items():
        if paths := [path for path in listing.ending_with(*endings) if path.count("/") <= 1]:
            yield paths, remedy
