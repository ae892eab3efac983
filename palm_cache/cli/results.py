"""Results of prediction as they come: a table for people, CSV or one JSON document for programs."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest
from math import isnan
from pathlib import Path
from typing import Any

from palm_cache.cli.terminal import as_json, put, results, tell
from palm_cache.errors import visible
from palm_cache.prediction.answers import NONE_OF_THESE, SILENCE, Answer, Failure, likeliest
from palm_cache.store.atomic import GrowingFile
from palm_cache.store.outputs import PREDICTIONS, heading

LEAST_WIDTH = 16
"""Letters of a name, at least, that stay on one line of a table on a narrow terminal."""

Result = Answer | Failure

ResultRow = Mapping[str, Any]
"""A result as JSON tells it."""


@dataclass(frozen=True, slots=True)
class ResultFormat:
    """How results are shown."""

    class_names: tuple[str, ...]
    top: int
    """How many classes to name, at most all."""
    threshold: float
    """Below it an answer is none of the classes."""
    over_time: bool
    """Whether results are stretches of recordings."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of CSV."""
        times = ("start", "end") if self.over_time else ()
        further = (f"{what}_{rank}" for rank in range(2, self.top + 1) for what in ("label", "probability"))
        return ("path", *times, "label", "probability", *further, "error")

    def row(self, result: Result) -> ResultRow:
        """Return a result as JSON tells it."""
        if isinstance(result, Failure):
            return {"path": result.path, "error": result.reason}
        source: dict[str, object] = {"path": result.path}
        if self.over_time:
            end = None if isnan(result.end) else result.end  # of a row that ends with its file
            source |= {"start": result.start, "end": end}
        if result.probabilities is None:
            return {**source, "label": None, "silent": True}
        ranked = likeliest(result.probabilities, self.class_names, self.top)
        label, probability = ranked[0] if ranked[0][1] >= self.threshold else (None, None)
        top = [{"label": name, "probability": value} for name, value in ranked]
        return {**source, "label": label, "probability": probability, "top": top}

    def cells(self, row: ResultRow) -> list[object]:
        """Return a result in the columns of CSV."""
        ranked = row.get("top", ())
        # Where the likeliest class is not named, it is the first of the others.
        others = ranked[1:] if row.get("label") else ranked[:-1]
        values = {name: value for name, value in row.items() if value is not None}
        if "error" not in row:
            values["label"] = SILENCE if row.get("silent") else row["label"] or NONE_OF_THESE
        for rank, other in enumerate(others, start=2):
            values |= {f"{key}_{rank}": value for key, value in other.items()}
        return [values.get(column, "") for column in self.columns]


class TableWriter:
    """A table on stdout whose columns are as wide as was known beforehand; failures are not in it.

    Every class that is named has a line. Nothing is cut off: on a terminal that is too narrow, long names are
    folded.

    Parameters
    ----------
    result_format : ResultFormat
    paths : sequence of str
        All that will come.
    """

    def __init__(self, result_format: ResultFormat, paths: Sequence[str]) -> None:
        from rich.cells import cell_len
        from rich.console import Console

        self._format = result_format
        name = max(map(cell_len, (*map(visible, result_format.class_names), NONE_OF_THESE)))
        widths = {"path": max(map(cell_len, paths), default=0), "start": 10, "end": 10, "probability": 6}
        columns = result_format.columns
        self._widths = {
            column: max(widths.get(column, name), len(column))
            for column in columns[: columns.index("probability") + 1]
        }
        console = Console(file=results())
        self._rule = "─" if console.encoding.startswith("utf") else "-"
        room = console.width if console.is_terminal else sys.maxsize
        for column in ("path", "label"):
            too_wide = max(sum(self._widths.values()) + 2 * (len(self._widths) - 1) - room, 0)
            self._widths[column] = max(
                self._widths[column] - too_wide, min(self._widths[column], LEAST_WIDTH)
            )
        self._begun = False

    def write(self, result: Result) -> None:
        """Print the lines of one result."""
        if isinstance(result, Failure):
            return
        if not self._begun:
            self._begun = True
            self._line(list(self._widths))
            self._line([self._rule * width for width in self._widths.values()])
        texts = list(map(_text, self._format.columns, self._format.cells(self._format.row(result))[:-1]))
        first, others = texts[: len(self._widths)], texts[len(self._widths) :]
        self._line(first)
        for label, probability in zip(others[::2], others[1::2], strict=True):
            if label:
                self._line([*([""] * (len(first) - 2)), label, probability])

    def _line(self, texts: Sequence[str]) -> None:
        from rich.cells import chop_cells, set_cell_size

        widths = self._widths.values()
        folded = [chop_cells(text, width) for text, width in zip(texts, widths, strict=True)]
        for parts in zip_longest(*folded, fillvalue=""):
            cells = zip(parts, widths, strict=True)
            tell("  ".join(set_cell_size(part, width) for part, width in cells).rstrip())


def _text(column: str, cell: object) -> str:
    if column == "end" and cell == "":
        return "its end"  # as types.stretches says it; programs read no number there
    if not isinstance(cell, float):
        return visible(str(cell))
    if column in ("start", "end"):
        minutes, seconds = divmod(cell, 60)
        return f"{int(minutes) // 60}:{int(minutes) % 60:02}:{seconds:04.1f}"
    return f"{100 * cell:.1f} %"


def harmless(text: str) -> str:
    """Return text that a spreadsheet shows and does not obey."""
    text = visible(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _csv(shape: ResultFormat, put_text: Callable[[str], None]) -> Callable[[Result], None]:
    """Write a heading; return what writes a row through at once.

    Text is shown, not obeyed: control characters are written out, and what a spreadsheet would take for a
    formula begins with an apostrophe.
    """

    def write(cells: Iterable[object]) -> None:
        line = io.StringIO()
        shown = [harmless(cell) if isinstance(cell, str) else cell for cell in cells]
        csv.writer(line, lineterminator="\n").writerow(shown)
        put_text(line.getvalue())

    put_text(heading(shape.columns))
    return lambda result: write(shape.cells(shape.row(result)))


@contextmanager
def result_writer(
    shape: ResultFormat, paths: Sequence[str], csv_file: Path | None, about: Mapping[str, object] | None
) -> Iterator[Callable[[Result], None]]:
    """Return what shows results one by one, each at once: as a JSON document, as CSV or in a table.

    Each is whole where work is interrupted.

    Parameters
    ----------
    shape : ResultFormat
    paths : sequence of str
        All that will come.
    csv_file : path, optional
        ``-`` is standard output.
    about : mapping, optional
        What a JSON document says before its results; one is written if it is given.

    Raises
    ------
    OutputError
        If the file cannot be written, or another is there.
    """
    if about is not None:
        opening = as_json(dict(about), indent=2).removesuffix("\n}")
        put(f'{opening},\n  "results": [')
        separators = chain(["\n    "], repeat(",\n    "))
        try:
            yield lambda result: put(next(separators) + as_json(shape.row(result)))
        finally:
            put("\n  ]\n}\n")
    elif csv_file is None:
        yield TableWriter(shape, paths).write
    elif str(csv_file) == "-":
        yield _csv(shape, put)
    else:
        with closing(GrowingFile(csv_file, "csv", PREDICTIONS)) as target:
            yield _csv(shape, target.write)
