"""What readers of datasets give: rows of tables, by columns; some dozen bytes each beside their paths."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count, islice
from math import isnan, nan
from operator import eq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palm_cache.types import Place, Texts
from palm_cache.types.clips import Made

Numbers = NDArray[np.int64]
"""(some,) numbers of rows."""

Codes = NDArray[np.int32]
"""Numbers of texts."""

Split = list[tuple[Numbers, Numbers]]
"""The train and test rows of every fold."""

ROWS_AT_ONCE = 1 << 7
"""Rows that are turned into columns together: few, as what is made of more leaves a processor's cache."""


class TableRow(NamedTuple):
    """One stretch of one file as a table names it."""

    table: str
    """File name of the table, for messages."""
    line: int
    """Line of the table, counted from 1, the header included."""
    path: str
    """Relative to the dataset's folder; bytes that are not UTF-8 as surrogates (PEP 383)."""
    class_name: str | None
    """``None`` is unlabelled."""
    start: float = 0.0
    """Seconds from the beginning of the file."""
    end: float | None = None
    """Seconds from the beginning of the file; ``None`` is its end."""
    part: str = ""
    """What the table says of the split: the name of a fold, or train, test ..."""
    group: str = ""
    """What no split may tear apart."""

    def __str__(self) -> str:
        return f"{self.table}, row {self.line}"


@dataclass(frozen=True, slots=True, eq=False)
class Words(Made[str]):
    """A column of texts, each of which is held once."""

    texts: Texts
    """In the order in which they first appear."""
    codes: Codes
    """(rows,) which of them every row has."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        """Take in the texts of rows."""
        column = _Column()
        column.extend(texts)
        return column.words()

    def __len__(self) -> int:
        return len(self.codes)

    def _make(self, number: int) -> str:
        return self.texts[int(self.codes[number])]

    def __iter__(self) -> Iterator[str]:
        return map(self.texts.__getitem__, self.codes.data)

    @property
    def held(self) -> Texts:
        """(rows,) the text of every row; no copy where each has one of its own."""
        return self.texts if len(self.texts) == len(self) else Texts(self)

    @property
    def first(self) -> Numbers:
        """(texts,) the first row of every text."""
        return numbered(self.codes)[1]

    def take(self, rows: Numbers) -> Words:
        """Return some rows."""
        codes, first = numbered(self.codes[rows])
        texts = (self.texts[code] for code in self.codes[rows[first]].tolist())
        return Words(Texts(texts), codes.astype(np.int32))

    def spelled(self, texts: Sequence[str]) -> Words:
        """Return the column with other texts in place of its own; those that become equal become one."""
        if texts is self.texts or all(map(eq, texts, self.texts)):
            return self
        new = Words.of(texts)
        return Words(new.texts, new.codes[self.codes])

    def are(self, is_one: Callable[[str], object]) -> NDArray[np.bool_]:
        """(rows,) whether something holds of the text; it is asked once of each."""
        return np.fromiter(map(bool, map(is_one, self.texts)), bool, len(self.texts))[self.codes]


@dataclass(frozen=True, slots=True, eq=False)
class Rows(Made[TableRow]):
    """Rows, in their order; a :class:`TableRow` is made when it is asked for."""

    table: Words
    line: NDArray[np.int32]
    path: Words
    class_name: Words
    """"" is unlabelled."""
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    """NaN is the end of the file."""
    part: Words
    group: Words

    @classmethod
    def of(cls, rows: Iterable[TableRow]) -> Rows:
        """Take in rows."""
        table, path, class_name, part, group = (_Column() for _ in range(5))
        line, start, end = array("i"), array("d"), array("d")
        rows = iter(rows)
        while some := list(islice(rows, ROWS_AT_ONCE)):
            tables, lines, paths, class_names, starts, ends, parts, groups = zip(*some, strict=True)
            table.extend(tables)
            line.extend(lines)
            path.extend(paths)
            class_name.extend(name or "" for name in class_names)
            start.extend(starts)
            end.extend(nan if until is None else until for until in ends)
            part.extend(parts)
            group.extend(groups)
        return cls(
            table.words(),
            np.frombuffer(line, np.int32),
            path.words(),
            class_name.words(),
            np.frombuffer(start),
            np.frombuffer(end),
            part.words(),
            group.words(),
        )

    def __len__(self) -> int:
        return len(self.line)

    def _make(self, number: int) -> TableRow:
        end = float(self.end[number])
        return TableRow(
            self.table[number],
            int(self.line[number]),
            self.path[number],
            self.class_name[number] or None,
            float(self.start[number]),
            None if isnan(end) else end,
            self.part[number],
            self.group[number],
        )

    def take(self, rows: Numbers) -> Rows:
        """Return some of them; mostly they are all."""
        if len(rows) == len(self) and bool((rows == np.arange(len(self))).all()):
            return self
        columns = (getattr(self, field.name) for field in fields(self))
        some: list[Any] = [c.take(rows) if isinstance(c, Words) else c[rows] for c in columns]
        return Rows(*some)

    @property
    def stretches(self) -> tuple[Numbers, Numbers]:
        """(rows,) which stretch every row means, as :func:`numbered` counts, and the first row of each."""
        return numbered(self.path.codes, self.start, np.nan_to_num(self.end, nan=-1.0))


@dataclass(frozen=True, slots=True)
class Content:
    """What was read of a dataset."""

    rows: Rows
    told: str = ""
    """How it was understood, on one line."""
    notes: Sequence[str] = ()
    folds: Split | None = None
    """Where the layout itself is the split; rows in none are left out."""
    root: Place | None = None
    """Where the files lie, if not in the dataset's own folder."""

    @classmethod
    def of_folds(
        cls, folds: Iterable[tuple[Iterable[TableRow], Iterable[TableRow]]], notes: Sequence[str] = ()
    ) -> Content:
        """Return what has train and test rows of its own for every fold."""
        rows: list[TableRow] = []
        numbers = []
        for train, test in folds:
            begin = len(rows)
            rows += train
            middle = len(rows)
            rows += test
            numbers.append((np.arange(begin, middle), np.arange(middle, len(rows))))
        return cls(Rows.of(rows), notes=notes, folds=numbers)

    def in_order(self) -> Content:
        """Return content whose rows are in the order of their numbers: where there are folds, in theirs."""
        if self.folds is None:
            return self
        listed = np.concatenate([part for fold in self.folds for part in fold])
        numbers, first = numbered(listed)
        ends = np.cumsum([len(part) for fold in self.folds for part in fold])
        parts = iter(np.split(numbers, ends[:-1]))
        return replace(self, rows=self.rows.take(listed[first]), folds=list(zip(parts, parts, strict=True)))


class _Column:
    """A column of texts that is being made."""

    def __init__(self) -> None:
        self.numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self.codes = array("i")

    def extend(self, texts: Iterable[str]) -> None:
        self.codes.extend(map(self.numbers.__getitem__, texts))

    def words(self) -> Words:
        return Words(Texts(self.numbers), np.frombuffer(self.codes, np.int32))


def numbered(*keys: Numbers | Codes | NDArray[np.float64]) -> tuple[Numbers, Numbers]:
    """Number rows by what they hold, as it first appears.

    ``np.unique`` of several columns compares bytes, which is slow, and pandas takes long to import.

    Parameters
    ----------
    keys : ndarray, shape (rows,)
        Rows are equal where all of these are.

    Returns
    -------
    numbers : ndarray, shape (rows,)
        From 0.
    first : ndarray, shape (numbers,)
        The first row of each.
    """
    order = np.lexsort(keys)
    new = np.zeros(len(order), bool)
    new[:1] = True
    for key in keys:
        sorted_key = key[order]
        new[1:] |= sorted_key[1:] != sorted_key[:-1]
    if new.all():
        return np.arange(len(order)), np.arange(len(order))
    first = order[new]  # the sort is stable
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.argsort(np.argsort(first))[np.cumsum(new) - 1]
    return numbers, np.sort(first)
