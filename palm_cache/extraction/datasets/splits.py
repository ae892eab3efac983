"""Folds: as a table gives them, or made so that nothing that belongs together is torn apart."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.tables import Split, TableRow
from palm_cache.params import ReadingParams

WORDS = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst", "te", "eval", "evaluation", "evaluate"), "test"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "development", "devel"), "valid"),
}
"""What tables and folders call the parts of a split, lower case."""

SAMPLE_BYTES = 1 << 16
"""What files of one size are compared by first."""

KnownContents = Callable[[Sequence[str]], NDArray[np.uint8]]
"""From files of this machine to the sha256 of their contents as far as that is known without reading them,
(n, 32); zeros where it is not."""


def is_part(name: str) -> bool:
    """Tell whether a folder's name is that of a part of a split."""
    return name.lower() in WORDS or _fold_number(name) is not None


def split(
    rows: Sequence[TableRow],
    given: Split | None,
    reading: ReadingParams,
    alike: Callable[[Iterable[str]], Mapping[str, str]],
) -> tuple[Split, list[str]]:
    """Split labelled rows into folds.

    Parameters
    ----------
    rows : sequence of TableRow
        Those without a label are in no fold.
    given : list of (train rows, test rows), optional
        Where the layout itself is the split.
    alike : callable
        Which of some paths are of equal content: see :func:`twins`.

    Returns
    -------
    folds : list of (train rows, test rows)
        None where nothing is labelled.
    notes : list of str
        Where the folds come from.

    Raises
    ------
    DataError
        If the table's own split makes no sense.
    """
    labelled = [row for row in rows if row.class_name is not None]
    if not labelled:
        return [], []
    notes = []
    if unlabelled := len(rows) - len(labelled):
        of_all = f"of {counted(len(rows), 'row')}"
        told = counted(unlabelled, f"{of_all} has no label, and is", f"{of_all} have no label, and are")
        notes.append(f"{told} in no fold")
    if reading.test == "none":
        return [(list({row.stretch: row for row in labelled}.values()), [])], notes
    if given is not None:
        return given, notes
    if any(row.part for row in labelled):
        folds, labelled, said = _given(labelled)
        notes += said
        if folds:
            return folds, notes
    folds, said = _made(labelled, reading, alike)
    return folds, notes + said


def twins(files: Mapping[str, str], contents: KnownContents | None = None) -> dict[str, str]:
    """Return files of equal content: by path, one that all of one content share.

    They are read no further than they agree: by size, by a sample, by everything. Where the content of one is
    known, the others of its size are read whole, if theirs is not.

    Parameters
    ----------
    files : mapping
        Where on this machine the file of every path lies.
    contents : callable, optional
        What is known of files without reading them.
    """
    groups = _finer([list(files)], lambda path: _size(files[path]))
    asked = [path for alike in groups for path in alike]
    known: dict[str, bytes] = {}
    if contents is not None and asked:
        hashes = contents([files[path] for path in asked])
        told = zip(asked, hashes, np.asarray(hashes.any(axis=1)), strict=True)
        known = {path: sha.tobytes() for path, sha, is_known in told if is_known}
    begun = [alike for alike in groups if any(path in known for path in alike)]
    fresh = [alike for alike in groups if not any(path in known for path in alike)]
    same = _finer(begun, lambda path: known.get(path) or _sha256(files[path]))
    same += _finer(_finer(fresh, lambda path: _sample(files[path])), lambda path: _sha256(files[path]))
    return {path: min(alike) for alike in same for path in alike}


def _finer(groups: Iterable[Sequence[str]], key: Callable[[str], object]) -> list[list[str]]:
    """Part groups of paths by a key; those that are then alone are left out."""
    finer: list[list[str]] = []
    for alike in groups:
        agreed: dict[object, list[str]] = defaultdict(list)
        for path in alike:
            with suppress(OSError, ValueError):  # what cannot be read is no twin: extraction says why
                agreed[key(path)].append(path)
        finer += [some for some in agreed.values() if len(some) > 1]
    return finer


def _given(rows: Sequence[TableRow]) -> tuple[Split, list[TableRow], list[str]]:
    """Return the table's own folds, the rows in them, and what is in none.

    If the table names one part only, there are no folds: they are to be made of its rows.
    """
    notes = []
    if without := sum(not row.part for row in rows):
        of_none = counted(without, "labelled row is", "labelled rows are")
        notes.append(f"{of_none} of no part of the split, and in no fold")
    rows = [row for row in rows if row.part]
    numbers = [_fold_number(row.part) for row in rows]
    if None not in numbers:
        names = sorted({number or 0 for number in numbers})
        if len(names) < 2:
            raise DataError(f"{rows[0]}: only fold {rows[0].part}; testing on one needs others to train on")
        return [held_out(rows, numbers, name) for name in names], rows, notes
    parts: dict[str, list[TableRow]] = {"train": [], "test": [], "valid": []}
    for row in rows:
        word = WORDS.get(row.part.lower())
        if word is None:
            raise DataError(
                f"{row}: {row.part!r} is no part of a split (train, test, valid) and no number of a fold; "
                "if the column is about something else: `columns` split=,fold="
            )
        parts[word].append(row)
    train, test, valid = parts.values()
    if valid and not (train and test):
        # Whoever has only two parts calls them train and valid, or dev and test.
        train, test, valid = (train, valid, []) if train else (valid, test, [])
    if valid:
        notes.append(f"{counted(len(valid), 'row')} of the validation part are in no fold")
    return ([(train, test)] if train and test else []), train + test, notes


def _fold_number(part: str) -> int | None:
    match = re.fullmatch(r"(?:(?:cv|k)?fold|split)?[ _-]?(\d{1,9})(?:\.0)?", part.lower())
    return int(match[1]) if match else None


def held_out(
    rows: Sequence[TableRow], parts: Sequence[int | None], fold: int
) -> tuple[list[TableRow], list[TableRow]]:
    """Return the rows of all other parts, to train on, and those of one, to test on."""
    pairs = list(zip(rows, parts, strict=True))
    return [row for row, part in pairs if part != fold], [row for row, part in pairs if part == fold]


def _made(
    rows: Sequence[TableRow], reading: ReadingParams, alike: Callable[[Iterable[str]], Mapping[str, str]]
) -> tuple[Split, list[str]]:
    """Deal groups of rows into folds: those of a class, the largest first, to where the class is rarest."""
    groups = _groups(rows, alike)
    count = min(reading.folds, len(set(groups)))
    if count < 2:
        return [(list(rows), [])], [f"all rows belong together ({rows[0].path}): there is no test set"]
    members: dict[str, list[TableRow]] = defaultdict(list)
    for row, group in zip(rows, groups, strict=True):
        members[group].append(row)
    names = sorted(members)
    shuffled = [names[index] for index in np.random.RandomState(reading.seed).permutation(len(names))]
    held: list[Counter[str | None]] = [Counter() for _ in range(count)]
    dealt: dict[str, int] = {}
    for name in sorted(shuffled, key=lambda name: -len(members[name])):
        classes = Counter(row.class_name for row in members[name])
        main = max(sorted(classes, key=str), key=lambda label: classes[label])
        fold = min(range(count), key=lambda fold: (held[fold][main], held[fold].total(), fold))
        held[fold].update(classes)
        dealt[name] = fold
    parts = [dealt[group] for group in groups]
    folds = [held_out(rows, parts, fold) for fold in range(count)]
    together = "of a group" if any(row.group for row in rows) else "of one recording, folder or content"
    return folds, [
        f"no split given: {counted(count, 'fold')} made (seed {reading.seed}), rows {together} are kept "
        "in one fold"
    ]


def _groups(rows: Sequence[TableRow], alike: Callable[[Iterable[str]], Mapping[str, str]]) -> list[str]:
    """Return what every row belongs to: its group, else its folder or its recording, and its twins'."""
    if any(row.group for row in rows):
        own = [row.group or f"\0{row.path}" for row in rows]
    else:
        folders = [posixpath.dirname(row.path) or "." for row in rows]
        spread: dict[str | None, set[str]] = defaultdict(set)
        for row, folder in zip(rows, folders, strict=True):
            spread[row.class_name].add(folder)
        # Folders are sites or recordings where every class lies in several; else classes, or nothing.
        by_folder = all(len(of_class) > 1 for of_class in spread.values())
        own = folders if by_folder else [row.path for row in rows]
    same = alike(dict.fromkeys(row.path for row in rows))
    leader = {name: name for name in own}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    first: dict[str, str] = {}
    for row, name in zip(rows, own, strict=True):
        if row.path in same:
            leader[find(name)] = find(first.setdefault(same[row.path], name))
    return [find(name) for name in own]


def _size(file: str) -> int:
    status = os.stat(file)  # noqa: PTH116  # of a million files a Path each takes as long as all the rest
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        raise OSError("nothing to compare")
    return status.st_size


def _sample(file: str) -> bytes:
    with open(file, "rb") as opened:  # noqa: PTH123
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(size - SAMPLE_BYTES, 0) // 2)
        return hashlib.sha256(opened.read(SAMPLE_BYTES)).digest()


def _sha256(file: str) -> bytes:
    with open(file, "rb") as opened:  # noqa: PTH123
        return hashlib.file_digest(opened, "sha256").digest()
