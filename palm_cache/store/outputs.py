"""What commands write, and how an earlier output is told from what must not be lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BEGINNING_BYTES = 1 << 16
"""Of a file that is there, so much is looked at, and of a line in it."""

_PREDICTIONS = rb"path(,start,end)?,label,probability(,label_\d+,probability_\d+)*,error"
"""The columns of a table of predictions."""

_FOUND = rb"score,dataset,row,path,start,end,label,note"
"""Those of a table of a search."""


def holds_answers(columns: Sequence[str]) -> bool:
    """Tell whether a table of these columns is one of predictions or of a search."""
    return re.fullmatch(_PREDICTIONS + b"|" + _FOUND, ",".join(columns).encode(errors="replace")) is not None


def heading(columns: Sequence[str]) -> str:
    """Return the first line of a table, by which it is known.

    Its last name is in quotes, which programs leave out that save a table: one that somebody has corrected is
    no longer ours.
    """
    *others, last = columns
    return ",".join([*others, f'"{last}"\n'])


@dataclass(frozen=True, slots=True)
class OutputKind:
    """A kind of file."""

    noun: str
    is_one: Callable[[Path], bool]
    """Tell whether a file is one that palm-cache wrote; may raise ``OSError``."""


def _begins(pattern: bytes) -> Callable[[Path], bool]:
    expected = re.compile(pattern, re.DOTALL)

    def is_one(file: Path) -> bool:
        with file.open("rb") as content:
            return expected.match(content.read(BEGINNING_BYTES)) is not None

    return is_one


def _is_table(columns: bytes) -> Callable[[Path], bool]:
    return _begins(re.sub(rb"(\w+)$", rb'"\1"\n', columns))


def _has_lines(pattern: bytes) -> Callable[[Path], bool]:
    expected = re.compile(pattern)

    def is_one(file: Path) -> bool:
        with file.open("rb") as content:
            return all(map(expected.fullmatch, iter(lambda: content.readline(BEGINNING_BYTES), b"")))

    return is_one


def _is_parquet_of_predictions(file: Path) -> bool:
    from pyarrow import parquet

    try:
        columns = ",".join(parquet.read_schema(file).names).encode()
    except ValueError:  # ArrowInvalid: no Parquet
        return False
    return re.fullmatch(_PREDICTIONS, columns) is not None


def _page(noun: str, command: str) -> OutputKind:
    marker = re.escape(f'<meta name="generator" content="palm-cache {command}">'.encode())
    return OutputKind(noun, _begins(rb"<!doctype html>.{0,99}" + marker))


PREDICTIONS = OutputKind("table of predictions", _is_table(_PREDICTIONS))
PARQUET = OutputKind("table of predictions in Parquet", _is_parquet_of_predictions)
FOUND = OutputKind("table of a search", _is_table(_FOUND))
MAP_PAGE, FOUND_PAGE = _page("map", "explore"), _page("page of a search", "search")
REPORT_PAGE = _page("page of a report", "report")
REPORT_MARK = "<!-- palm-cache report -->"
REPORT_TEXT = OutputKind("report", _begins(rb"# [^\n]*\n\n" + re.escape(REPORT_MARK.encode())))
FIGURE = OutputKind("figure", _begins(rb"<\?xml .*<dc:title>palm-cache</dc:title>"))
_NAME = rb'"(?:[^"\\]|\\.)*": '
METRICS = OutputKind(
    "file of metrics", _begins(rb"\{(?:\}|\s*" + rb"\{\s*".join([_NAME] * 3) + rb'\{\s*"accuracy": )')
)
# Audacity reads nothing behind a third tab and writes none: a track that it has saved is a user's.
LABEL_TRACK = OutputKind("label track", _has_lines(rb"\d+\.\d{6}\t\d+\.\d{6}\t[^\t\n]+\t\n"))
SHARED_HEAD = OutputKind("exported head", _begins(rb'.{8}\{"__metadata__":\{"card":"'))
GRAPH = OutputKind("exported graph", _begins(rb".{2}\x12\x0apalm-cache"))
CARD = OutputKind("card of a head", _begins(rb'\{\s*"format": "\w+",\s*"format_version": \d+,\s*"head": '))
