"""The file that labels are kept in: a CSV to which every label is appended, and nothing else is ever done.

=========  ==========================================================================================
path       of the recording, as the store and the dataset's folder have it
start      seconds from the beginning of the recording
end        seconds; empty: the end of the recording
classname  empty: the label was taken back
time       when the label was given, UTC
=========  ==========================================================================================

The last row of a stretch counts. ``palm-cache extract --dataset labels.csv`` reads it as any table.
"""

from __future__ import annotations

import codecs
import csv
import errno
import io
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.class_names import clean, unstorable
from palm_cache.extraction.datasets.columns import stretch
from palm_cache.extraction.datasets.texts import as_written, decode, on_disk
from palm_cache.store.atomic import write_errors

COLUMNS = ("path", "start", "end", "classname", "time")

Stretch = tuple[str, float, float | None]
"""Path, start and end in seconds; an end of ``None`` is the recording's."""


@dataclass(frozen=True, slots=True)
class Label:
    """One row of the file."""

    stretch: Stretch
    class_name: str | None
    """``None``: the label was taken back."""


class Labelled:
    """What a sequence of labels comes to.

    Attributes
    ----------
    classes : dict
        The class of every labelled stretch, in the order in which they were given.
    steps : list
        Stretch, class before and class after of every label that was not undone.
    """

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        self.classes: dict[Stretch, str] = {}
        self.steps: list[tuple[Stretch, str | None, str | None]] = []
        for label in labels:
            self.take(label)

    def take(self, label: Label) -> None:
        """Take the next label; one that puts back what the last one replaced undoes that one."""
        stretch, before = label.stretch, self.classes.get(label.stretch)
        if label.class_name == before:
            return
        if self.steps and self.steps[-1][:2] == (stretch, label.class_name):
            self.steps.pop()
        else:
            self.steps.append((stretch, before, label.class_name))
        self.classes.pop(stretch, None)
        if label.class_name is not None:
            self.classes[stretch] = label.class_name

    @property
    def undo(self) -> tuple[Stretch, str | None] | None:
        """Which stretch was labelled last and what it was before, ``None`` if there is nothing to undo."""
        return self.steps[-1][:2] if self.steps else None

    @property
    def class_names(self) -> list[str]:
        """Every class that was given and not undone, in their order; all rows may have left it."""
        return list(dict.fromkeys(name for _, _, name in self.steps if name is not None))


def check_class_name(name: str) -> str:
    """Return a class name in its plain spelling.

    Raises
    ------
    DataError
        If there is nothing of it, or it is not one line of text.
    """
    try:
        plain = clean(name)
    except UnicodeEncodeError:  # half a character, which JSON can hold
        raise DataError(f"class name {name!r} is no text") from None
    if not plain:
        raise DataError("a class needs a name")
    if fault := unstorable(plain):
        raise DataError(f"class name {plain!r} {fault}")
    return plain


def read_labels(file: Path) -> tuple[list[Label], list[str]]:
    """Read a file of labels as far as it can be read; one that is not there is empty.

    Returns
    -------
    labels : list of Label
        In the order of the file.
    problems : list of str
        A line for every row that is no label.

    Raises
    ------
    DataError
        If it cannot be read, or has other columns.
    """
    if file.exists() and not file.is_file():
        raise DataError(
            f"{file}: is no file that labels can be appended to, but a folder or a device; choose another "
            "with `labels`"
        )
    if not file.exists() or not file.stat().st_size:
        return [], []
    first, *lines = re.split(r"\r\n|\r|\n", decode(file))
    fault = "" if _is_utf8(file) else "is not UTF-8"
    if tuple(first.split(",")) != COLUMNS:
        fault = f"its first row is {first[:80]!r}, not {','.join(COLUMNS)}"
    if fault:
        raise DataError(
            f"{file}: {fault}: no file that labels can be appended to; choose another with `labels`"
        )
    labels, problems = [], []
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        try:
            labels.append(_read_label(line, f"{file.name}, row {number}"))
        except DataError as error:
            problems.append(str(error))
    return labels, problems


def stamp(file: Path) -> tuple[int, int, int] | None:
    """Return what tells the states of a file apart; ``None`` where there is no file, or an empty one."""
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if status.st_size else None


def append_label(file: Path, stretch: Stretch, class_name: str | None) -> Label:
    """Append a label and wait until it is on disk.

    Raises
    ------
    DataError
        If the path holds a line break.
    OutputError
        If it cannot be written: nothing of it is left in the file then.
    """
    path, start, end = stretch
    if "\n" in path or "\r" in path:
        raise DataError(f"{path!r} holds a line break: rename the file, then extract again")
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    times = ("" if seconds is None else repr(seconds).removesuffix(".0") for seconds in (start, end))
    fields = (as_written(path), *times, class_name or "", time)
    with write_errors(file, "labels"):
        file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        descriptor = os.open(file, flags, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            line = _line(fields) if size else _line(COLUMNS) + _line(fields)
            if size and not _ends_line(descriptor, size):
                line = b"\n" + line
            _write_whole(descriptor, line, size)
        finally:
            os.close(descriptor)
        if not size:
            _sync_folder(file.parent)
    return Label(stretch, class_name)


def _read_label(line: str, where: str) -> Label:
    try:
        records = list(csv.reader([line], strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{where}: malformed ({error}); mend it") from error
    fields = [field.strip() for field in records[0]]
    if len(fields) != len(COLUMNS):
        raise DataError(f"{where}: {counted(len(fields), 'field')} instead of {len(COLUMNS)}; mend it")
    entry = dict(zip(COLUMNS, fields, strict=True))
    if not entry["path"]:
        raise DataError(f"{where}: path is empty; mend it")
    start, end = stretch(entry, where)
    name = clean(entry["classname"])
    if fault := unstorable(name):
        raise DataError(f"{where}: class name {name!r} {fault}; mend it")
    return Label((on_disk(entry["path"]), start, end), name or None)


def _is_utf8(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(4).removeprefix(codecs.BOM_UTF8)[:1] == b"p"


def _ends_line(descriptor: int, size: int) -> bool:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) in (b"\n", b"\r")


def _line(fields: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _write_whole(descriptor: int, line: bytes, size: int) -> None:
    """Write a line and have it on disk, or leave the file at its size."""
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, "no space left on device")
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _sync_folder(folder: Path) -> None:
    """Have a new file's name on disk, where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
