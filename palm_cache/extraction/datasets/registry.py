"""Which datasets are known by name, and how a name or a folder becomes a table of clips.

A word is, in this order: a known dataset, whatever lies here; a folder or file; a name that stores bear. A
folder that is called like a known dataset is given with a slash, ``./demo``.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit, urlunsplit

from palm_cache.errors import AbsentDatasetError, DataError, UnknownNameError, counted, did_you_mean
from palm_cache.extraction.datasets import own_data, palm_layout, published
from palm_cache.extraction.datasets.card import CARDS as CARDS
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.check import Check, absence, differences
from palm_cache.extraction.datasets.folder import is_file
from palm_cache.extraction.datasets.listing import folder_name, is_folder, is_junk
from palm_cache.extraction.datasets.splits import KnownContents
from palm_cache.params import ReadingParams
from palm_cache.store.find import dataset_folder, source_of_stores
from palm_cache.store.layout import FEATURES, RAW, stores_present
from palm_cache.store.nearby import respelt
from palm_cache.store.places import place, reaching
from palm_cache.types import AnyPlace, ClipTable, Place


def find_card(name: str) -> DatasetCard | None:
    """Return the card of a known dataset, by its name in any spelling or by its folder, or ``None``."""
    lowered, folder = name.lower(), os.path.abspath(name)  # noqa: PTH100
    return next(
        (
            card
            for card in CARDS
            if lowered in (card.name.lower(), *card.aliases) or folder == os.path.abspath(default_root(card))  # noqa: PTH100
        ),
        None,
    )


def require_card(name: str) -> DatasetCard:
    """Return the card of a known dataset, whatever the spelling.

    Raises
    ------
    UnknownNameError
        If there is no dataset of that name; the near matches are named.
    DataError
        If it is one of the user's own.
    """
    card = find_card(name)
    if card is None:
        _existing(name, place(FEATURES))
        raise DataError(
            f"{name}: data of your own, which has no card; what is made of it: "
            f"{shlex.join(['palm-cache', 'datasets', '--check', name])}"
        )
    return card


def namesake(name: str) -> str:
    """Say which folder here is not meant by a known dataset's name; "" where there is none."""
    card, folder = find_card(name), Path(name)
    if card is None or folder.name != name or not folder.is_dir():
        return ""
    here = os.path.join(os.curdir, name)  # noqa: PTH118  # a Path has no ./
    return f"{name} is the known dataset {card.name}; the folder of that name here is {here}"


def dataset_name(name_or_folder: str, features: AnyPlace = FEATURES) -> str:
    """Return the name under which a dataset is stored.

    Raises
    ------
    UnknownNameError
        If it is neither a known name, nor a folder, table or container, nor the name of stores.
    """
    card = find_card(name_or_folder)
    return card.name if card else _name_of(_existing(name_or_folder, place(features)))


def default_root(card: DatasetCard) -> Path:
    """Return the folder in which a known dataset is looked for."""
    return RAW / card.name


def identity_of(table: ClipTable) -> str:
    """Return what tells a dataset from others of its name: where it lies, :func:`home_of` a known one there.

    So a project that is copied, stores and all, goes on with them.
    """
    card = find_card(table.dataset)
    at_home = card is not None and table.source == str(default_root(card).absolute())
    return home_of(card) if card is not None and at_home else table.source


def home_of(card: DatasetCard) -> str:
    """Return where a known dataset lies in any project."""
    return default_root(card).as_posix()


def root_of(card: DatasetCard) -> Path:
    """Return the folder in which a known dataset lies or would: its own, or one whose audio it shares."""
    own, shared = default_root(card), RAW / (card.shares_audio_with or card.name)
    return shared if shared.is_dir() and not own.is_dir() else own


def read_dataset(
    name_or_folder: str,
    root: Place | None = None,
    *,
    strict: bool = False,
    reading: ReadingParams = ReadingParams(),  # noqa: B008  # frozen
    features: AnyPlace = FEATURES,
    contents: KnownContents | None = None,
) -> ClipTable:
    """Read a dataset's tables, folders or annotations.

    Parameters
    ----------
    name_or_folder : str
        A known name; any folder, table or container that ``own_data`` recognises, a URL is a folder too; or
        the name that the stores of such a one bear.
    root : Place, optional
        Where a known dataset lies, ``data/raw/<Name>`` by default; or what the paths of a table are relative
        to, its own folder by default.
    strict : bool
        What differs from the data card, and files that are missing, are errors instead of notes.
    reading : ReadingParams
        How it is understood, split and cut.
    features : path or URL
        The folder of stores.
    contents : callable, optional
        What is known of files without reading them, such as
        :func:`~palm_cache.extraction.known_files.known_contents` returns: it is not read to make folds.

    Raises
    ------
    UnknownNameError
        If it is neither a known name nor there.
    AbsentDatasetError
        If it is not there.
    DataError
        If its tables are malformed, none of its files is there, or, if ``strict``, it is not what it should
        be.
    PlaceError
        If it is remote and cannot be reached.
    """
    check = check_dataset(name_or_folder, root, reading=reading, features=features, contents=contents)
    table = check.table
    missing = table.missing
    files = len(set(table.clips.names)) if missing else 0
    if missing and len(missing) == files:
        with reaching(check.folder):
            raise DataError(absence(table, check.folder))
    gone = []
    if missing:
        of_all = f"of {counted(files, 'file')}"
        gone.append(
            f"{counted(len(missing), f'{of_all} is', f'{of_all} are')} missing or empty, e.g. {missing[0]}; "
            f"all of them: {shlex.join(['palm-cache', 'datasets', '--check', str(name_or_folder)])}"
        )
    problems = [*gone, *check.differences]
    if strict and problems:
        raise DataError(f"{table.dataset} in {check.folder} is not as it should be: {'; '.join(problems)}")
    return replace(table, notes=(*gone, *table.notes, *check.differences))


def check_dataset(
    name_or_folder: str,
    root: Place | None = None,
    *,
    reading: ReadingParams = ReadingParams(),  # noqa: B008  # frozen
    features: AnyPlace = FEATURES,
    contents: KnownContents | None = None,
) -> Check:
    """Compare a local copy with its data card and its tables with the files that are there.

    Parameters
    ----------
    name_or_folder, root, reading, features, contents
        See :func:`read_dataset`, as for what is raised; but what differs or is missing is no error here.
    """
    where = root or place(name_or_folder)
    try:
        with reaching(where):
            check = _read(name_or_folder, root, reading, place(features), contents)
            # It imports torch, which takes a second: what is not here is said without.
            from palm_cache.extraction.datasets.windows import cut_rows

            return replace(check, table=cut_rows(check.table, reading))
    except OSError as error:
        raise DataError(f"{error.filename or where}: cannot be read: {error.strerror or error}") from error


def _read(
    name_or_folder: str,
    root: Place | None,
    reading: ReadingParams,
    features: Place,
    contents: KnownContents | None,
) -> Check:
    card = find_card(name_or_folder)
    if card is None:
        return _read_own(name_or_folder, root, reading, features, contents)
    said = namesake(name_or_folder)
    if reading.columns or reading.group or reading.layout != "auto":
        raise DataError(
            f"{card.name} is read as published: `layout`, `columns` and `group` go with a folder"
            f"{said and f'; {said}'}"
        )
    folder = root or root_of(card)
    if not folder.is_dir():
        raise AbsentDatasetError(
            f"{card.name} is not in {folder} ({card.size}, {card.licence}; {card.source}): "
            f"{card.how_to_get}; or say where it is with `root`{said and f'; {said}'}"
        )
    table = _read_card(card, folder, reading)
    notes = (*filter(None, [said]), *table.notes)
    table = replace(table, source=source_of(folder), published=card.name, notes=notes)
    told = differences(card, table, split=reading.test == "folds")  # else the fold is of the user's making
    return Check(folder, table, told)


def _read_own(
    name: str, root: Place | None, reading: ReadingParams, features: Place, contents: KnownContents | None
) -> Check:
    where = _existing(name, features)
    alone = is_file(where)
    if root is not None and not alone:
        raise DataError(
            f"`root` goes with a dataset known by name, or with a table; {name} is a folder itself"
        )
    if isinstance(root, Path) and not root.is_dir():  # a web server may show no folders, but their files
        raise DataError(f"{root}: no such folder; `root` is what the paths of {name} are relative to")
    table = own_data.read(where, _name_of(where), source_of(where), reading, root, contents)
    notes = (*table.notes, *_known_at(where, table))
    folder = root or (where.parent if alone else where)
    # Its source is where its sound is looked for later on.
    table = replace(table, notes=notes, source=source_of(root or where))
    return Check(folder, table, ())


def _known_at(where: Place, table: ClipTable) -> Iterator[str]:
    """Say which folders, the one given or those with sounds below it, are called like a known dataset."""
    if is_file(where) or palm_layout.has_tables(where):
        return
    # As text first: there may be a million names, in a few folders.
    with_sounds = set(map(PurePosixPath, {name.rpartition("/")[0] for name in table.clips.names}))
    above = {folder for inside in with_sounds for folder in inside.parents}
    for folder in sorted({PurePosixPath()} | with_sounds | above):
        name = folder.name or folder_name(where)
        card = find_card(re.sub("-(?:master|main)$", "", name))  # as archives of a repository unpack
        if card is not None:
            words = shlex.join(["--dataset", card.name, "--root", str(where / folder)])
            yield f"a known dataset is called {card.name}: if this is it, {words} reads it as published"


def _read_card(card: DatasetCard, folder: Place, reading: ReadingParams) -> ClipTable:
    """Read a known dataset from its folder, or from the only one in it, as archives often unpack."""
    try:
        return published.read(card, folder, reading)
    except DataError as error:
        visible = [path for path in folder.iterdir() if path.name[0] != "." and not is_junk(path.name)]
        if len(visible) == 1 and visible[0].is_dir():
            with suppress(DataError):
                table = _read_card(card, visible[0], reading)
                return replace(table, notes=(f"read from {visible[0]}", *table.notes))
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        tree = "; ".join(re.split(r"\s{2,}", line)[0] for line in card.tree.splitlines())
        raise DataError(f"{error}; {folder} should hold {tree} (or the PALM authors' tables)") from error


def source_of(where: Place) -> str:
    """Return the absolute place of a dataset, without credentials."""
    if isinstance(where, Path):
        return os.path.abspath(where)  # noqa: PTH100  # links stay as they are named
    parts = urlsplit(where.as_uri())
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _name_of(where: Place) -> str:
    """Return a dataset's name: its folder's, or its table's without ending."""
    name = where.stem if is_file(where) else folder_name(where)
    if not name.strip("."):
        raise DataError(f"{where}: {name!r} is no name for a dataset; rename the file")
    return name


def _existing(name: str, features: Place) -> Place:
    """Return the folder, table or container of a name."""
    if not name:
        raise DataError("`dataset` is empty; give a name, a folder or a table; this folder is .")
    where = place(name)
    if _is_there(where):
        return where
    if name.startswith(".") or {"/", "\\"} & {*name}:
        hint = did_you_mean(respelt(where)) if isinstance(where, Path) else ""
        slashes = "paths have / here" if "\\" in name and os.sep == "/" else ""
        hint = hint or slashes or "give a dataset's name, or a folder or table of your own"
        raise DataError(f"{name}: no such folder; {hint}")
    if source := source_of_stores(features, name):
        return _of_stores(name, source, features)
    stored = {store.parent.name for store in stores_present(features)}
    if name in stored:
        raise DataError(
            f"{name}: no store in {features / name} can be read and says where its files lie; give their "
            "folder or table"
        )
    known = dict.fromkeys([*(card.name for card in CARDS), *sorted(stored)])
    raise UnknownNameError.among("dataset (and no such folder)", name, known)


def _of_stores(name: str, source: str, features: Place) -> Place:
    """Return the folder or file that stores were made of."""
    where = place(source)
    if not _is_there(where):
        raise AbsentDatasetError(f"{name}: its files have left {source}; give the folder they are in now")
    if dataset_folder(features, _name_of(where), source) != name:
        raise DataError(f"{name}: was read from a table, with `root` {source}; give table and `root` again")
    return where


def _is_there(where: Place) -> bool:
    return is_folder(where) or palm_layout.has_tables(where) or where.is_file()
