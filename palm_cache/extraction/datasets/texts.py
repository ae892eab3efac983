"""Tables of text as people's tools write them: any encoding, any delimiter, nothing malformed.

A table that is malformed but can be read is an error: what would be lost or merged is named by its row.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes

from palm_cache.errors import DataError, UnknownNameError, counted, did_you_mean
from palm_cache.store.atomic import parse_json
from palm_cache.store.nearby import respelt
from palm_cache.types import Place

Records: TypeAlias = Iterator[tuple[int, tuple[str, ...]]]
"""Lines and fields of rows."""

DELIMITERS = ",;\t|"

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""By what a file begins with; that of UTF-32 begins with that of UTF-16."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text."""

    name: str
    """File name, for messages."""
    header: tuple[str, ...]
    """Names of the columns."""
    records: Iterable[tuple[int, tuple[str, ...]]]
    """Per row its line, counted from 1 with the header, and a field per column, without the spaces around it;
    bytes that are not in the file's encoding as surrogates (PEP 383)."""

    def place(self, column: str) -> int:
        """Return the number of a column.

        Raises
        ------
        UnknownNameError
            If there is none of this name.
        DataError
            If there are two.
        """
        if column not in self.header:
            raise UnknownNameError.among(f"column in {self.name}:", column, filter(None, self.header))
        if self.header.count(column) > 1:
            raise DataError(f"{self.name}: two columns are called {column!r}; rename one of them")
        return self.header.index(column)

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield the line and the fields of some columns of every row."""
        places = [self.place(name) for name in columns]
        for line, fields in self.records:
            yield line, tuple(fields[place] for place in places)


def read_table(file: Place) -> TextTable:
    """Read a CSV or TSV whose first row names the columns, or lines that are JSON objects each.

    UTF-8, UTF-16 and UTF-32, with or without a mark; comma, semicolon, tab or bar; rows without content are
    passed over.

    Raises
    ------
    DataError
        If it cannot be read; going through its records, where a quote is not closed or a row has other fields
        than the header.
    """
    whole = decode(file)
    if whole.lstrip().startswith("{"):
        lines = _JsonLines.of(file.name, whole)
        return TextTable(file.name, lines.header, lines)
    text, delimiter, skipped = _delimiter(whole)
    records = _Records(file.name, text, delimiter, skipped)
    spaces = rf'(?<=") +(?=[{delimiter}\r\n]|$)'
    if re.search(spaces, text) and not records.sound:
        # Spaces between a closing quote and the delimiter are harmless, but no strict CSV.
        records = replace(records, text=re.sub(spaces, "", text))
    if delimiter == "\t" and '"' in text and not records.sound:  # a character, as in Common Voice
        plain = replace(records, quoting=csv.QUOTE_NONE)
        records = plain if plain.sound else records
    return TextTable(file.name, records.header, records)


@dataclass(frozen=True, slots=True)
class _Records:
    """What lies below a header, parsed whenever it is gone through: a million rows would take 0.3 GB."""

    name: str
    text: str
    delimiter: str
    skipped: int
    """Lines before the header."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL

    @property
    def sound(self) -> bool:
        """Whether all of it can be gone through."""
        try:
            deque(self, maxlen=0)
        except DataError:
            return False
        return True

    @property
    def header(self) -> tuple[str, ...]:
        _, header = next(self._parsed(), (1, ()))
        while header and not header[-1]:
            header = header[:-1]
        return header

    def __iter__(self) -> Records:
        header = self.header
        for line, fields in islice(self._parsed(), 1, None):
            content = "".join(fields)
            if len(fields) != len(header) or "\n" in content or "\r" in content:
                _check_record(f"{self.name}, row {line + self.skipped}", fields, header, self.delimiter)
            yield line + self.skipped, fields[: len(header)]

    def _parsed(self) -> Records:
        try:
            yield from _parse(self.text, self.delimiter, self.quoting)
        except csv.Error as error:
            line, reason = error.args
            raise DataError(
                f"{self.name}, row {line + self.skipped}: malformed from here on ({reason}); close the "
                "quote, or write a quote inside a quoted field twice"
            ) from error


@dataclass(frozen=True, slots=True)
class _JsonLines:
    """An object per line, as NeMo's manifests and the hub's ``metadata.jsonl`` have it."""

    name: str
    text: str
    header: tuple[str, ...]

    @classmethod
    def of(cls, name: str, text: str) -> _JsonLines:
        """Look through all of it for the names of its columns."""
        keys = dict.fromkeys(key for _, told in cls(name, text, ())._parsed() for key in told)
        return cls(name, text, tuple(keys))

    def __iter__(self) -> Records:
        for line, told in self._parsed():
            try:
                yield line, tuple(_field(told.get(key)) for key in self.header)
            except ValueError as error:
                raise self._wrong(line) from error

    def _parsed(self) -> Iterator[tuple[int, dict[str, object]]]:
        for line, match in enumerate(re.finditer(r"[^\n]*\n|[^\n]+", self.text), start=1):
            if match[0].strip():
                try:
                    yield line, {_field(key): value for key, value in {**parse_json(match[0])}.items()}
                except (ValueError, TypeError) as error:
                    raise self._wrong(line) from error

    def _wrong(self, line: int) -> DataError:
        return DataError(f"{self.name}, row {line}: no JSON object; every line is to be one")


def _field(value: object) -> str:
    """Return a value of JSON as a table has it; of several, such as labels, a list."""
    if isinstance(value, list):
        return ",".join(map(_field, value))
    text = "" if value is None else str(value).strip()
    text.encode(errors="surrogateescape")  # half a letter is an error
    return text


def check_regular(file: Place) -> None:
    """Make sure that what is about to be opened is no pipe, device or folder, which could wait for ever.

    Raises
    ------
    DataError
        If it is.
    """
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise DataError(f"{file}: not a regular file; name another, or put one there")


def read_header(file: Place) -> tuple[str, ...]:
    """Return the names of a table's columns, however the rest of it is."""
    whole = decode(file)
    if whole.lstrip().startswith("{"):
        with suppress(ValueError):
            return tuple(parse_json(_first_line(whole)))
        return ()
    text, delimiter, _ = _delimiter(whole)
    with suppress(csv.Error):  # a line of more than any name
        return tuple(name.strip() for name in next(csv.reader([_first_line(text)], delimiter=delimiter), ()))
    return ()


def first_line(file: Place) -> str:
    """Return the first line of a file that is not empty."""
    return _first_line(decode(file))


def _delimiter(text: str) -> tuple[str, str, int]:
    """Return a table's text, its delimiter, and how many lines before the header said which."""
    told = re.match(r"sep=(.)\r?\n", text)  # Excel's own
    if told:
        return text[told.end() :], told[1], 1
    return text, max(DELIMITERS, key=_first_line(text).count), 0


def _first_line(text: str) -> str:
    return re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]


def decode(file: Place) -> str:
    """Return a file's text; bytes that are not in its encoding become surrogates (PEP 383).

    Raises
    ------
    DataError
        If it cannot be read.
    """
    check_regular(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        meant = did_you_mean(respelt(file)) if isinstance(file, Path) else ""
        told = "; ".join(filter(None, (error.strerror or str(error), meant)))
        raise DataError(f"{file}: cannot read the table: {told}") from error
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), None)
    if encoding is None:
        # Text in UTF-16 without a mark: every other byte of what is ASCII is NUL.
        start = content[:200]
        halves = {"utf-16-be": start[0::2], "utf-16-le": start[1::2]}
        encoding = next((name for name, half in halves.items() if half.count(0) * 2 > len(half)), "utf-8")
    try:
        return content.decode(
            encoding, errors="surrogateescape" if encoding.startswith("utf-8") else "strict"
        )
    except UnicodeDecodeError as error:
        reason = f"{file}: looks like {encoding.upper()}, but is not: {error.reason}; save the table as UTF-8"
        raise DataError(reason) from error


def legible(text: str) -> str:
    """Return text with bytes that are not UTF-8 as Windows-1252, which Excel writes; other text as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        content = text.encode(errors="surrogateescape")
        try:
            return content.decode("cp1252")
        except UnicodeDecodeError:
            return content.decode("latin-1")
    return text


def is_legible(text: str) -> bool:
    """Tell whether all bytes of a text were UTF-8."""
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def on_disk(text: str) -> str:
    """Return a path's spelling on disk, whatever bytes it is made of, as text that can be stored."""
    return text if is_legible(text) else quote_from_bytes(os.fsencode(text), safe="/ ")


def as_written(name: str) -> str:
    """Return what :func:`on_disk` spelled as tables have it: bytes that are not UTF-8 as surrogates."""
    content = unquote_to_bytes(name)
    try:
        content.decode()
    except UnicodeDecodeError:
        return os.fsdecode(content)
    return name


def _parse(text: str, delimiter: str, quoting: Literal[0, 3]) -> Records:
    # As StringIO gives them, which takes four bytes a character.
    lines = (match[0] for match in re.finditer(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+", text))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=True)
    line = 1
    try:
        for record in reader:
            fields = tuple(map(str.strip, record))
            if any(fields):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(line, error) from error


def _check_record(where: str, fields: tuple[str, ...], header: tuple[str, ...], delimiter: str) -> None:
    if len(fields) < len(header) or any(fields[len(header) :]):
        hint = f"; put a name with {delimiter!r} in it in quotes" if len(fields) > len(header) else ""
        raise DataError(f"{where}: {counted(len(fields), 'field')}, but the header has {len(header)}{hint}")
    for field in fields:
        if any(part.count(delimiter) + 1 >= len(header) > 1 for part in field.splitlines()[1:]):
            raise DataError(f"{where}: a quoted field goes over other rows; close its quote")
