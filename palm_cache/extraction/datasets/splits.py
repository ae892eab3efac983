"""Folds: as a table gives them, or made so that nothing that belongs together is torn apart."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.rows import Numbers, Rows, Split, Words, numbered
from palm_cache.params import ReadingParams

WORDS = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst", "te", "eval", "evaluation", "evaluate"), "test"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "development", "devel"), "valid"),
}
"""What tables and folders call the parts of a split, lower case."""

DAY = re.compile(r"(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])")

SAMPLE_BYTES = 1 << 16
"""What files of one size are compared by first."""

KnownContents = Callable[[Sequence[str]], NDArray[np.uint8]]
"""From files of this machine to the sha256 of their contents as far as that is known without reading them,
(n, 32); zeros where it is not."""


def part_of(name: str) -> str:
    """Return the part of a split that a name tells: a fold, or train, test, valid, as ``test-clean`` does."""
    if _fold_number(name) is not None:
        return name
    words = {WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS}
    return words.pop() if len(words) == 1 else ""


def split(
    rows: Rows,
    given: Split | None,
    reading: ReadingParams,
    alike: Callable[[NDArray[np.bool_]], Numbers],
) -> tuple[Split, list[str]]:
    """Split labelled rows into folds.

    Parameters
    ----------
    rows : Rows
        Those without a label are in no fold.
    given : list of (train rows, test rows), optional
        Where the layout itself is the split.
    alike : callable
        Which of some paths, one or the other of (paths,), are of equal content: see :func:`twins`.

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
    labelled = np.flatnonzero(rows.class_name.are(bool))
    if not len(labelled):
        return [], []
    notes = []
    if unlabelled := len(rows) - len(labelled):
        of_all = f"of {counted(len(rows), 'row')}"
        told = counted(unlabelled, f"{of_all} has no label, and is", f"{of_all} have no label, and are")
        notes.append(f"{told} in no fold")
    if reading.test == "none":
        return [(labelled[rows.take(labelled).stretches[1]], labelled[:0])], notes
    if given is not None:
        return given, notes
    if any(rows.part.texts):
        folds, labelled, said = _given(rows, labelled)
        notes += said
        if folds:
            return folds, notes
    codes = rows.path.codes[labelled]
    same = alike(np.bincount(codes, minlength=len(rows.path.texts)) > 0)
    has_twin = np.bincount(same)[same] > 1
    folds, said = _made(rows.take(labelled), np.where(has_twin, same, -1)[codes], reading)
    return [(labelled[train], labelled[test]) for train, test in folds], notes + said


def twins(
    root: Path, paths: Sequence[str], sizes: NDArray[np.float64], contents: KnownContents | None = None
) -> Numbers:
    """Find files of equal content.

    They are read no further than they agree: by size, by a sample, by everything. Where the content of one is
    known, the others of its size are read whole, if theirs is not.

    Parameters
    ----------
    root : Path
        The folder that paths are relative to.
    paths : sequence of str
    sizes : ndarray, shape (paths,)
        Bytes; of those that are not above 0 nothing is asked.
    contents : callable, optional
        What is known of files without reading them.

    Returns
    -------
    ndarray, shape (paths,)
        The number of the first file of the same content.
    """
    _, size, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    asked = np.flatnonzero((sizes > 0) & (counts[size] > 1))
    folder, size = os.path.join(os.path.abspath(root), ""), size[asked]  # noqa: PTH100, PTH118
    # As text: a million files as Paths would take as long as all the rest.
    files = [folder + paths[number] for number in asked.tolist()]
    hashes = np.zeros((len(files), hashlib.sha256().digest_size), np.uint8)
    if contents is not None and files:
        hashes[:] = contents(files)
    known = hashes.any(axis=1)
    begun = np.isin(size, size[known])
    agreeing: dict[object, list[int]] = defaultdict(list)
    for number in np.flatnonzero(~begun).tolist():
        with suppress(OSError):  # what cannot be read is no twin: extraction says why
            agreeing[size[number], _sample(files[number])].append(number)
    unsure = [number for alike in agreeing.values() if len(alike) > 1 for number in alike]
    for number in [*np.flatnonzero(begun & ~known).tolist(), *unsure]:
        with suppress(OSError):
            hashes[number] = np.frombuffer(_sha256(files[number]), np.uint8)
    told = hashes.any(axis=1)
    numbers, first = numbered(*hashes[told].view(np.uint64).T)
    same, asked = np.arange(len(paths)), asked[told]
    same[asked] = asked[first][numbers]
    return same


def _given(rows: Rows, labelled: Numbers) -> tuple[Split, Numbers, list[str]]:
    """Return the table's own folds, the labelled rows in them, and what is in none.

    If the table names one part only, there are no folds: they are to be made of its rows.
    """
    notes = []
    has_part = rows.part.are(bool)[labelled]
    if without := int((~has_part).sum()):
        of_none = counted(without, "labelled row is", "labelled rows are")
        notes.append(f"{of_none} of no part of the split, and in no fold")
    labelled = labelled[has_part]
    parts = rows.part.take(labelled)
    numbers = [_fold_number(part) for part in parts.texts]
    if numbers and None not in numbers:
        names = sorted({number or 0 for number in numbers})
        if len(names) < 2:
            row = rows[int(labelled[0])]
            raise DataError(f"{row}: only fold {row.part}; testing on one needs others to train on")
        folds = held_out(np.array(numbers)[parts.codes], names)
        return [(labelled[train], labelled[test]) for train, test in folds], labelled, notes
    words = np.array([WORDS.get(part.lower(), "") for part in parts.texts], dtype=object)[parts.codes]
    strange = np.flatnonzero(words == "")
    if len(strange):
        row = rows[int(labelled[strange[0]])]
        raise DataError(
            f"{row}: {row.part!r} is no part of a split (train, test, valid) and no number of a fold; "
            "if the column is about something else: `columns` split=,fold="
        )
    train, test, valid = (labelled[words == word] for word in ("train", "test", "valid"))
    if len(valid) and not (len(train) and len(test)):
        # Whoever has only two parts calls them train and valid, or dev and test.
        train, test, valid = (train, valid, valid[:0]) if len(train) else (valid, test, valid[:0])
    if len(valid):
        notes.append(f"{counted(len(valid), 'row')} of the validation part are in no fold")
    folds = [(train, test)] if len(train) and len(test) else []
    return folds, np.concatenate([train, test]), notes


def _fold_number(part: str) -> int | None:
    plain = re.sub("[-_.]", "", part) if DAY.fullmatch(part) else part.lower()
    match = re.fullmatch(r"(?:(?:cv|k)?fold|split)?[ _-]?(\d{1,9})(?:\.0)?", plain)
    return int(match[1]) if match else None


def held_out(parts: NDArray[np.int64], names: Iterable[int]) -> Split:
    """Return a fold for every part: all other rows, to train on, and its own, to test on."""
    return [(np.flatnonzero(parts != name), np.flatnonzero(parts == name)) for name in names]


def _made(rows: Rows, same: Numbers, reading: ReadingParams) -> tuple[Split, list[str]]:
    """Deal groups of rows into folds: those of a class, the largest first, to where the class is rarest."""
    groups = _groups(rows, same)
    count = min(reading.folds, len(groups.texts))
    if count < 2:
        return held_out(np.zeros(len(rows), np.int64), [1]), [
            f"all rows belong together ({rows.path[0]}): there is no test set"
        ]
    n_classes = len(rows.class_name.texts)
    rank = np.argsort(np.argsort(np.array(rows.class_name.texts, dtype=object)))[rows.class_name.codes]
    # Of every group its classes, in the order of their names, and how many rows each has.
    pairs, sizes = np.unique(groups.codes * np.int64(n_classes) + rank, return_counts=True)
    begins = np.searchsorted(pairs, np.arange(len(groups.texts) + 1) * n_classes).tolist()
    classes, of_class = (pairs % n_classes).tolist(), sizes.tolist()
    names = sorted(range(len(groups.texts)), key=groups.texts.__getitem__)
    shuffled = [names[index] for index in np.random.RandomState(reading.seed).permutation(len(names))]
    n_rows = np.bincount(groups.codes).tolist()
    held = [[0] * n_classes for _ in range(count)]
    totals = [0] * count
    dealt = np.zeros(len(names), np.int64)
    for group in sorted(shuffled, key=lambda group: -n_rows[group]):
        own = range(begins[group], begins[group + 1])
        main = classes[max(own, key=of_class.__getitem__)]
        fold = min(range(count), key=lambda fold: (held[fold][main], totals[fold], fold))
        for pair in own:
            held[fold][classes[pair]] += of_class[pair]
        totals[fold] += n_rows[group]
        dealt[group] = fold
    together = "of a group" if any(rows.group.texts) else "of one recording, folder or content"
    return held_out(dealt[groups.codes], range(count)), [
        f"no split given: {counted(count, 'fold')} made (seed {reading.seed}), rows {together} are kept "
        "in one fold"
    ]


def _groups(rows: Rows, same: Numbers) -> Words:
    """Return what every row belongs to: its group, else its folder or its recording, and its twins'.

    ``same``, (rows,), is equal for rows of twins, and below 0 where a file has none.
    """
    if any(rows.group.texts):
        own = Words.of(group or f"\0{path}" for group, path in zip(rows.group, rows.path, strict=True))
    else:
        folders = rows.path.spelled([path.rpartition("/")[0] or "." for path in rows.path.texts])
        _, first = numbered(rows.class_name.codes, folders.codes)
        # Folders are sites or recordings where every class lies in several; else classes, or nothing.
        by_folder = bool((np.bincount(rows.class_name.codes[first]) > 1).all())
        own = folders if by_folder else rows.path
    twin_rows = np.flatnonzero(same >= 0)
    pairs = numbered(same[twin_rows], own.codes[twin_rows])[1]
    if not len(pairs):
        return own
    leader = list(range(len(own.texts)))

    def find(group: int) -> int:
        while leader[group] != group:
            leader[group] = leader[leader[group]]
            group = leader[group]
        return group

    joined: dict[int, int] = {}
    for row in twin_rows[pairs].tolist():
        group = int(own.codes[row])
        leader[find(group)] = find(joined.setdefault(int(same[row]), group))
    return own.spelled([own.texts[find(group)] for group in range(len(leader))])


def _sample(file: str) -> bytes:
    with open(file, "rb") as opened:  # noqa: PTH123
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(size - SAMPLE_BYTES, 0) // 2)
        return hashlib.sha256(opened.read(SAMPLE_BYTES)).digest()


def _sha256(file: str) -> bytes:
    with open(file, "rb") as opened:  # noqa: PTH123
        return hashlib.file_digest(opened, "sha256").digest()
