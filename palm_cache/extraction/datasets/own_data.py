"""Anybody's data: recognised by what lies there, and read as rows.

===========  ========================================================================================
palm         ``train.csv`` and ``test.csv``, or ``csv_files/``: see ``palm_layout``
parquet      Parquet or Arrow files with an audio column: the hub's shards, ``datasets``' saved ones
webdataset   tar files
raven        ``*.txt`` with Raven's columns, or CSVs of starts and ends, named like the recordings
audacity     ``*.txt`` of times and labels, named like the recordings
table        a CSV, TSV, Parquet or JSON lines with a column of paths, or one for each part of a split
folders      a folder per class, below train and test or not
flat         audio, unlabelled
===========  ========================================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import PurePosixPath

import numpy as np

from palm_cache.errors import DataError, counted, did_you_mean
from palm_cache.extraction.datasets import palm_layout, shards
from palm_cache.extraction.datasets.annotated import read_audacity, read_raven
from palm_cache.extraction.datasets.class_names import clean, named, unstorable
from palm_cache.extraction.datasets.clip_tables import build_table
from palm_cache.extraction.datasets.columns import PARTS, TIMES, in_words, read_annotated, understand
from palm_cache.extraction.datasets.folder import (
    FILES_TRIED,
    SHARD_ENDINGS,
    TAR_ENDINGS,
    Folder,
    parts_above,
    stripped,
)
from palm_cache.extraction.datasets.listing import ending, is_junk
from palm_cache.extraction.datasets.members import Member, members_root, unpacked
from palm_cache.extraction.datasets.rows import Content, Rows, TableRow, Words
from palm_cache.extraction.datasets.splits import WORDS, KnownContents, part_of
from palm_cache.extraction.datasets.texts import TextTable, decode, read_table
from palm_cache.params import Layout, ReadingParams
from palm_cache.store.outputs import holds_answers
from palm_cache.types import ClipTable, Place


def read(
    where: Place,
    dataset: str,
    source: str,
    reading: ReadingParams,
    audio: Place | None = None,
    contents: KnownContents | None = None,
) -> ClipTable:
    """Read a folder, or a single table or container, as a dataset.

    Parameters
    ----------
    where : Place
        The folder or file.
    dataset : str
        Its name.
    source : str
        Its absolute place, under which what is unpacked of it is kept.
    audio : Place, optional
        The folder that the paths of a single table are relative to; the table's own by default.
    contents : callable, optional
        What is known of files without reading them.

    Raises
    ------
    DataError
        If nothing is recognised, or what is there is malformed.
    """
    folder = Folder(where, source, reading.named_columns)
    layout = folder.recognise() if reading.layout == "auto" else reading.layout
    if layout == "palm":
        return palm_layout.read(folder.root, dataset, reading)
    content = READERS[layout](folder, reading)
    if not content.rows:
        raise DataError(f"{where}: read as {content.told}, there are no rows; `layout` reads it otherwise")
    if reading.columns and layout in WITHOUT_COLUMNS:
        raise DataError(
            f"{where}: read as {content.told}, it has no columns; leave `columns` out, or give the table"
        )
    if reading.group and not any(content.rows.group.texts):
        raise DataError(f"{where}: read as {content.told}, it has no column {reading.group!r} to group by")
    notes = [f"read as {content.told}", *content.notes, *folder.listing.notes]
    if reading.layout == "auto" and layout in ("folders", "flat"):
        if meant := folder.datasets_below:
            notes.insert(1, f"a table below this folder lists sounds; {meant}")
        notes += folder.passed_over()
    content = replace(content, notes=notes)
    return build_table(dataset, content.root or audio or folder.root, content, reading, contents)


def _read_folders(folder: Folder, reading: ReadingParams) -> Content:
    audio = folder.listing.audio
    short = stripped(audio)
    if not any("/" in path for path in short.values()):  # one class, and told to take it for one
        short = {path: path for path in audio}
    parted = parts_above(short.values()) if any(path.count("/") > 1 for path in short.values()) else {}
    lists = {} if parted else _lists(folder)
    listed = defaultdict[str, list[str]](list)
    for paths, part in lists.values():
        for path in paths:
            listed[path].append(part)
    rest = "train" if lists and "train" not in (part for _, part in lists.values()) else ""

    def row(number: int, path: str) -> Iterator[TableRow]:
        *folders, _ = short[path].split("/")
        # A folder beside those of the split is none of a class, which no row would train or test.
        split = [parted.get(folders.pop(0), "")] if parted and folders else listed.get(path, [rest])
        for part in split:
            yield TableRow("the folder", number, path, folders[0] if folders else None, part=part)

    rows = Rows.of(chain.from_iterable(map(row, count(1), short)))
    classes = {name: clean(name) for name in filter(None, rows.class_name.texts)}
    for name, cleaned in classes.items():
        if wrong := unstorable(cleaned):
            told = f"the folder {name!r} gives a class its name, which {wrong}; rename it"
            raise DataError(f"{folder.root}: {told}")
    if len(rows) and not classes:
        told = "no folder of a class here or below; `layout` flat reads it without labels"
        raise DataError(f"{folder.root}: {told}")
    parts = f" below {named(sorted(parted))}" if parted else ""
    parts += f", split by {named(list(lists))}" if lists else ""
    names = sorted({*classes.values()})
    told = f"{counted(len(short), 'file')}, {counted(len(names), 'class', 'classes')} ({named(names)})"
    gone = sorted(listed.keys() - short.keys())
    notes = [f"listed, but not here: {named(gone)}"] if gone else []
    if reading.layout == "auto" and not parted and (inner := _nested(short)):
        meant = did_you_mean([folder.at(one) for one in inner])
        notes.append(
            "folders below those of the classes say nothing here; if no folder is a class, `layout` flat; if "
            f"they are the classes, {meant}"
        )
    return Content(rows, f"a folder per class{parts}: {told}", notes)


def _lists(folder: Folder) -> dict[str, tuple[set[str], str]]:
    """Return texts that list sounds of a part of the split, as Speech Commands' ``testing_list.txt``.

    None where all list sounds to train on, which does not say what the others are for.
    """
    parts = {name: part_of(PurePosixPath(name).stem) for name in folder.listing.ending_with(".txt")}
    likely = [name for name, part in parts.items() if part in WORDS and name.count("/") <= 1]
    found, sounds = {}, {*folder.listing.audio} if likely else set()
    for name in likely[:FILES_TRIED]:
        where = PurePosixPath(name).parent
        paths = [str(where / line) for line in decode(folder.at(name)).splitlines() if line]
        if paths and paths[0] in sounds:
            found[name] = {*paths}, parts[name]
    return found if any(part != "train" for _, part in found.values()) else {}


def _nested(short: Mapping[str, str]) -> list[str]:
    """Return the folders of classes if each holds nothing but folders, and one of them several."""
    inner: dict[str, set[str]] = {}
    for path, name in short.items():
        folder, *rest = name.split("/")
        inner.setdefault(path.removesuffix(name) + folder, set()).add(rest[0] if len(rest) > 1 else "")
    nested = all("" not in folders for folders in inner.values())
    return list(inner) if nested and any(len(folders) > 1 for folders in inner.values()) else []


def _read_flat(folder: Folder, reading: ReadingParams) -> Content:
    audio = folder.listing.audio
    rows = (TableRow("the folder", number, path, None) for number, path in enumerate(audio, start=1))
    folders = sorted({path.rpartition("/")[0] for path in audio} - {""})
    notes = [f"no folder is taken for a class: {named(folders)}; `layout` folders does so"] if folders else []
    told = f"audio without labels: {counted(len(audio), 'file')}"
    return Content(Rows.of(rows), told, notes if reading.layout == "auto" else [])


def _read_table(folder: Folder, reading: ReadingParams) -> Content:
    candidates = [folder.where.name] if folder.alone else folder.tables
    chosen = candidates if len(candidates) == 1 else _tables_of_parts(folder)
    if not chosen:
        some = f"{len(candidates)} tables have a column of paths: {named(candidates)}"
        others = folder.near_tables
        found = some if candidates else f"no table with a column of paths{': ' * bool(others)}{named(others)}"
        meant = folder.datasets_below or "give the one that is meant, and `columns` path=NAME if need be"
        if folder.has_class_folders():
            meant += "; `layout` folders reads folders of classes"
        raise DataError(f"{folder.root}: {found}; {meant}")
    several = len(chosen) > 1
    contents = [_of_table_in(folder, name, reading, several) for name in chosen]
    if not several:
        unlabelled = not any(contents[0].rows.class_name.texts) and folder.has_class_folders()
        hint = ["no row has a label; `layout` folders takes names of folders for labels"] * unlabelled
        return replace(contents[0], notes=[*hint, *contents[0].notes])
    told = f"{len(chosen)} tables, {', '.join(chosen)}"
    content = _together(zip(contents, map(_part_of, chosen), strict=True), told)
    others = [name for name in candidates if name not in chosen]
    more = [f"not read: {named(others)}; `dataset` {folder.at(others[0])} reads it"] if others else []
    return replace(content, notes=[*content.notes, *more])


def _tables_of_parts(folder: Folder) -> list[str]:
    """Return the tables that are called by parts of one split, themselves or their folders."""
    parts = {table: part for table in folder.tables if (part := _part_of(table))}
    each_once = 1 < len(parts) == len({*parts.values()})
    at_home = all(part_of(table.rpartition("/")[0]) or "/" not in table for table in parts)
    return list(parts) if each_once and (at_home or not folder.datasets_below) else []


def _of_table_in(folder: Folder, name: str, reading: ReadingParams, several: bool) -> Content:
    """Read a table of a folder; of several, each names what lies beside it or in the folder."""
    file = folder.at(name)
    table = shards.read_plain(file) if ending(name) in SHARD_ENDINGS else read_table(file)
    content = _of_table(table, reading, "" if several else f"one table, {name}")
    inside, slash, _ = name.partition("/")
    if slash:  # paths that go up do so from where the table lies
        files = {*folder.listing.files} if several else set[str]()
        paths = content.rows.path
        slashed = (path.replace("\\", "/") if path[:3] == "..\\" else path for path in paths.texts)
        from_here = [
            f"{inside}/{path}" if path[:3] == "../" or f"{inside}/{path}" in files else path
            for path in slashed
        ]
        content = replace(content, rows=replace(content.rows, path=paths.spelled(from_here)))
    beside = not several and slash and not all(path.startswith(f"{inside}/") for path in folder.listing.audio)
    if beside and (meant := folder.datasets_below):
        return replace(content, notes=[f"sounds lie outside {inside}, too; {meant}", *content.notes])
    return content


def _of_table(table: TextTable, reading: ReadingParams, told: str) -> Content:
    """Read a table with a column of paths, whatever its columns are called."""
    columns = understand(table.header, reading.named_columns, table.name)
    if not table.header:
        raise DataError(f"{table.name}: the table is empty; its first row names the columns")
    if "path" not in columns:
        raise DataError(
            f"{table.name}: which column holds the paths? `columns` path=NAME says so; its first row, which "
            f"names them, has {named(table.header)}"
        )
    if columns.keys() >= {*PARTS}:
        columns = _with_one_part(table, columns, reading)
    rows, used = Rows.of(read_annotated(table, columns, reading.group)), {*columns.values(), reading.group}
    if columns["path"] == "IN FILE" and "FOLDER" in table.header:  # Kaleidoscope's
        folder = table.place("FOLDER")
        paths = Words.of(
            f"{row[folder]}/{name}" for (_, row), name in zip(table.records, rows.path, strict=True)
        )
        if len(paths.texts) > len(rows.path.texts):  # recorders of several sites call their files alike
            rows = replace(rows, path=paths)
            used.add("FOLDER")
    kept = rows.take(np.flatnonzero(~rows.path.are(lambda path: is_junk(path.replace("\\", "/")))))
    notes = []
    if holds_answers(table.header):
        notes.append("its labels are those that predict gave or a search found, not a person's")
    if len(kept) < len(rows):
        notes.append(
            f"{counted(len(rows) - len(kept), 'row')} of files that the file system added, skipped (._* ...)"
        )
    appended = "time" in table.header and {"path", "start", "end", "label"} <= set(columns)
    if appended:  # to such a table labels are appended: the last of a stretch counts
        numbers, first = kept.stretches
        if replaced := len(kept) - len(first):
            notes.append(f"{counted(replaced, 'row')} replaced by later ones of the same stretch")
        first[numbers] = np.arange(len(kept))
        kept = kept.take(first)
        used.add("time")
    idle = [name for name in table.header if name and name not in used]
    if idle:
        hint = "" if "label" in columns else "; if one of them holds labels: `columns` label=NAME"
        notes.append(f"columns not used: {named(idle)}{hint}")
    return Content(kept, f"{told} ({in_words(columns)})", notes)


def _with_one_part(table: TextTable, columns: Mapping[str, str], reading: ReadingParams) -> dict[str, str]:
    """Return columns of which one at most says which part of the split a row is of.

    Raises
    ------
    DataError
        If two do.
    """
    places = {field: table.place(columns[field]) for field in PARTS}
    given = [field for field in PARTS if reading.named_columns.get(field)]
    filled = given or [field for field in PARTS if any(fields[places[field]] for _, fields in table.records)]
    if len(filled) > 1 and reading.test != "none":
        raise DataError(
            f"{table.name}: columns {columns['fold']} and {columns['split']}: which of them is the split? "
            f"`columns` split= reads {columns['fold']}, fold= reads {columns['split']}"
        )
    return {field: name for field, name in columns.items() if field not in PARTS or field in filled[:1]}


def _read_shards(folder: Folder, reading: ReadingParams) -> Content:
    return _unpack(folder, folder.shards, shards.read_shard, reading)


def _read_tars(folder: Folder, reading: ReadingParams) -> Content:
    content = _unpack(folder, folder.tars, shards.read_tar, reading)
    notes = [*content.notes]
    if audio := folder.listing.audio:
        notes.append(f"not read, as it lies beside shards: {named(audio)}")
    if not any(content.rows.class_name.texts):
        notes.append("no x.cls or x.json beside x.wav inside; if folders inside are the classes, unpack them")
    return replace(content, notes=notes)


def _unpack(
    folder: Folder,
    containers: Sequence[str],
    members: Callable[[Place], Iterator[Member]],
    reading: ReadingParams,
) -> Content:
    """Read containers as one table: unpacked members and what their containers say of them."""
    if not containers:
        raise DataError(f"{folder.root}: no file here ends with {', '.join((*SHARD_ENDINGS, *TAR_ENDINGS))}")
    cache = members_root(folder.source)
    # A row is all of its own clip: times that are told with it are those of what the clip was cut from.
    asked = (given for given in reading.columns if not given.startswith("path="))
    unasked = () if {*TIMES} & reading.named_columns.keys() else (f"{field}=" for field in TIMES)
    columns = (*asked, *unasked, "path=path")
    found, fresh = list[tuple[Content, str]](), 0
    for path in containers:
        table, now = unpacked(folder.at(path), path, folder.source, members)
        fresh += now
        found.append((_of_table(table, replace(reading, columns=columns), ""), _part_of(path)))
    content = _together(found, f"{counted(len(containers), 'shard')} with audio inside")
    unpacking = f"{fresh} of {counted(len(containers), 'shard')} unpacked into {cache}"
    return replace(content, notes=[*content.notes, *[unpacking] * bool(fresh)], root=cache)


def _together(found: Iterable[tuple[Content, str]], told: str) -> Content:
    """Return tables as one; the part of a split that goes with each is that of its rows that tell none.

    Where all that tell one tell the same, it may be a class's name, such as train: then it says nothing.
    """
    contents, parts = zip(*found, strict=True)
    if len({*parts} - {""}) < 2:
        parts = ("",) * len(parts)
    rows = (
        row if row.part or not part else row._replace(part=part)
        for content, part in zip(contents, parts, strict=True)
        for row in content.rows
    )
    notes = dict.fromkeys(note for content in contents for note in content.notes)
    return Content(Rows.of(rows), f"{told}{contents[-1].told}", list(notes))


def _part_of(path: str) -> str:
    """Return the part of a split that a table is of, by its name or folder: ``train-00000-of-00004``."""
    parts = map(part_of, (PurePosixPath(path).name.partition(".")[0], PurePosixPath(path).parent.name))
    return next((part for part in parts if part in WORDS), "")


WITHOUT_COLUMNS: tuple[Layout, ...] = ("folders", "flat", "audacity")

READERS: dict[Layout, Callable[[Folder, ReadingParams], Content]] = {
    "folders": _read_folders,
    "flat": _read_flat,
    "table": _read_table,
    "audacity": read_audacity,
    "raven": read_raven,
    "parquet": _read_shards,
    "webdataset": _read_tars,
}
