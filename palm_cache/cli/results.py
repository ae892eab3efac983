"""Results of prediction as they come: a table for people, CSV or one JSON document for programs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from palm_cache.cli.terminal import as_json, put, tell
from palm_cache.errors import visible
from palm_cache.prediction.answers import NONE_OF_THESE, SILENCE, Failure, Prediction, Stretch, answer
from palm_cache.store.atomic import GrowingFile

if TYPE_CHECKING:
    from torch import Tensor

Row = Mapping[str, Any]
"""A result as JSON tells it."""


@dataclass(frozen=True, slots=True)
class Telling:
    """How results are told."""

    class_names: tuple[str, ...]
    top: int
    """Classes to name, at most all."""
    threshold: float
    """Below it an answer is none of the classes."""
    over_time: bool
    """Whether results are stretches of recordings."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of CSV; those of a table are all but the last."""
        times = ("start", "end") if self.over_time else ()
        further = (f"{what}_{rank}" for rank in range(2, self.top + 1) for what in ("label", "probability"))
        return ("path", *times, "label", "probability", *further, "error")

    def label(self, probabilities: Tensor | None) -> str:
        """Return what a result is called: a class, none of them, or silence."""
        return SILENCE if probabilities is None else self._answer(probabilities)[0] or NONE_OF_THESE

    def row(self, result: Prediction | Stretch | Failure) -> Row:
        """Return a result as JSON tells it."""
        if isinstance(result, Failure):
            return {"path": result.path, "error": result.reason}
        place: dict[str, object] = {"path": result.path}
        if isinstance(result, Stretch):
            place |= {"start": result.start, "end": result.end}
        if result.probabilities is None:
            return {**place, "label": None, "silent": True}
        label, top = self._answer(result.probabilities)
        named = [{"label": name, "probability": value} for name, value in top]
        return {**place, "label": label, "probability": top[0][1], "top": named}

    def cells(self, row: Row) -> list[object]:
        """Return a result in the columns of CSV."""
        ranked = row.get("top", ())
        # Where the likeliest class is not named, it is the first of the others.
        others = ranked[1:] if row.get("label") else ranked[:-1]
        known = dict(row)
        if "error" not in row:
            known["label"] = SILENCE if row.get("silent") else row["label"] or NONE_OF_THESE
        for rank, other in enumerate(others, start=2):
            known |= {f"{what}_{rank}": value for what, value in other.items()}
        return [known.get(column, "") for column in self.columns]

    def _answer(self, probabilities: Tensor) -> tuple[str | None, tuple[tuple[str, float], ...]]:
        told = answer(probabilities, self.class_names, top=self.top, threshold=self.threshold)
        return told.label, told.top


class Rows(Protocol):
    """Takes results one by one and shows each at once."""

    def write(self, row: Row) -> None:
        """Show one result."""
        ...


class TableRows:
    """A table on stdout whose columns are as wide as was known beforehand; failures are not in it.

    Parameters
    ----------
    telling : Telling
    paths : sequence of str
        All that will come.
    """

    def __init__(self, telling: Telling, paths: Sequence[str]) -> None:
        from rich.cells import cell_len

        self._telling = telling
        name = max(map(cell_len, (*map(visible, telling.class_names), NONE_OF_THESE)))
        widths = {"path": max(map(cell_len, paths), default=0), "start": 10, "end": 10, "probability": 6}
        self._columns = {
            column: max(widths.get(column.partition("_")[0], name), len(heading))
            for column in telling.columns[:-1]
            for heading in [column.replace("_", " ")]
        }
        self._line([column.replace("_", " ") for column in self._columns])
        self._line(["─" * width for width in self._columns.values()])

    def write(self, row: Row) -> None:
        """Print one line."""
        if "error" not in row:
            cells = self._telling.cells(row)[:-1]
            self._line([_text(column, cell) for column, cell in zip(self._columns, cells, strict=True)])

    def _line(self, texts: Sequence[str]) -> None:
        from rich.cells import set_cell_size

        cells = zip(texts, self._columns.values(), strict=True)
        tell("  ".join(set_cell_size(text, width) for text, width in cells).rstrip())


def _text(column: str, cell: object) -> str:
    if not isinstance(cell, float):
        return visible(str(cell))
    if column in ("start", "end"):
        minutes, seconds = divmod(cell, 60)
        return f"{int(minutes) // 60}:{int(minutes) % 60:02}:{seconds:04.1f}"
    return f"{100 * cell:.1f} %"


class Writable(Protocol):
    """Takes text and writes it through at once."""

    def write(self, text: str, /) -> None:
        """Write."""
        ...


class CsvRows:
    """Comma-separated values with a heading, each row written through at once.

    Text is shown, not obeyed: control characters are written out, and what a spreadsheet would take for a
    formula begins with an apostrophe.

    Parameters
    ----------
    telling : Telling
    target : Writable
    """

    def __init__(self, telling: Telling, target: Writable) -> None:
        self._telling = telling
        self._writer = csv.writer(target, lineterminator="\n")
        self._writer.writerow(telling.columns)

    def write(self, row: Row) -> None:
        """Write one row."""
        cells = self._telling.cells(row)
        self._writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in cells])


def _harmless(text: str) -> str:
    text = visible(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


class Stdout:
    """Standard output as something to write to."""

    def write(self, text: str, /) -> None:
        """Print text as it is."""
        put(text)


class JsonRows:
    """One JSON document on stdout: what was known beforehand, then a list that grows."""

    def __init__(self, about: Mapping[str, object]) -> None:
        opening = as_json(dict(about), indent=2).removesuffix("\n}")
        put(f'{opening},\n  "results": [')
        self._separator = "\n    "

    def write(self, row: Row) -> None:
        """Print one element."""
        put(self._separator + as_json(row))
        self._separator = ",\n    "

    def close(self) -> None:
        """Print the end of the document."""
        put("\n  ]\n}\n")


@contextmanager
def json_rows(about: Mapping[str, object]) -> Iterator[JsonRows]:
    """Print a document that is whole also where the work is interrupted."""
    rows = JsonRows(about)
    try:
        yield rows
    finally:
        rows.close()


@contextmanager
def csv_rows(telling: Telling, file: Path) -> Iterator[CsvRows]:
    """Write a CSV file, or to stdout where the file is ``-``.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if str(file) == "-":
        yield CsvRows(telling, Stdout())
        return
    target = GrowingFile(file)
    try:
        yield CsvRows(telling, target)
    finally:
        target.close()
