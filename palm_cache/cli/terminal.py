"""What commands print: results on stdout, as lines, tables or JSON; messages and progress on stderr."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.errors import visible, without_credentials
from palm_cache.types import Progress

if TYPE_CHECKING:
    from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

FOLDED_FROM = 28
"""Width in letters from which a column of a table may be folded."""

QUIET_SECONDS = 15.0
"""Where stderr is a file or a pipe, a line at most this often."""

_BEYOND_JSON = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters that JSON lets stand."""


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let a polite end by another program, as a cluster's scheduler sends it, be what Ctrl-C is."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell(*lines: str) -> None:
    """Print lines of a result."""
    for line in lines:
        put(f"{_shown(line)}\n")


def put(text: str) -> None:
    """Print a part of a result as it is, at once; whole lines, where a progress bar is on the terminal."""
    if hasattr(sys.stdout, "rich_proxied_file"):  # the bar keeps below what goes through; echo goes round it
        sys.stdout.write(text)
    else:
        typer.echo(text, nl=False)


def say(message: str, colour: str = "yellow") -> None:
    """Tell the user something that is not a result."""
    with suppress(OSError):  # where nobody can be told, the exit code says it
        typer.secho(_shown(message), err=True, fg=colour)


def _shown(text: str) -> str:
    return visible(without_credentials(text))


@contextmanager
def progress_bar(unit: str, units: Mapping[str, str] | None = None) -> Iterator[Progress]:
    """Show progress with rate and remaining time on stderr.

    Parameters
    ----------
    unit : str
        What is counted, in the plural.
    units : mapping, optional
        What is counted in some parts of the work, by their names.
    """
    units = units or {}
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_progress(unit, units)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # Results go on while the bar stands: a terminal's above it, a file's or pipe's where they belong.
    with RichProgress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                # What was done before is no work of this bar: its rate is of what follows.
                tasks[what] = bar.add_task(what, total=total, completed=done, rate="")
            speed = next(task.speed for task in bar.tasks if task.id == tasks[what])
            rate = f"{speed:.0f} {units.get(what, unit)}/s" if speed else ""
            bar.update(tasks[what], completed=done, rate=rate)

        yield report


def _line_progress(unit: str, units: Mapping[str, str]) -> Progress:
    """Report in plain lines, not too often, for logs."""
    started: dict[str, tuple[float, int]] = {}
    last = [time.monotonic()]

    def report(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        begin, known = started.setdefault(what, (now, done))
        if now - last[0] >= QUIET_SECONDS and done > known:
            last[0] = now
            rate = (done - known) / max(now - begin, 1e-9)
            left = (total - done) / max(rate, 1e-9)
            count = units.get(what, unit)
            typer.echo(f"{what}: {done}/{total} {count}, {rate:.1f} {count}/s, {left:.0f} s left", err=True)

    return report


def print_json(value: object) -> None:
    """Print one JSON document."""
    typer.echo(as_json(value, indent=2))


def as_json(value: object, indent: int | None = None) -> str:
    """Return JSON that a terminal can be shown: what controls one is escaped."""
    text = without_credentials(json.dumps(value, indent=indent, ensure_ascii=False))
    return _BEYOND_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], keep: int = 1) -> None:
    """Print a table; where stdout is no terminal, as wide as it must be.

    Nothing is cut off: on a terminal that is too narrow the last columns stay out, and long text is folded.

    Parameters
    ----------
    keep : int
        So many columns stay however narrow the terminal is.
    """
    from rich.console import Console

    rows = [[_shown(cell) for cell in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        # Nobody scrolls a file sideways: let no cell be folded.
        columns = zip(headings, *rows, strict=True)
        console = Console(width=4 + sum(4 + max(map(len, column)) for column in columns))
    n_columns = len(headings)
    table = _table(headings, rows)
    anywhere = console.options.update(max_width=sys.maxsize)
    while n_columns > keep and console.measure(table, options=anywhere).minimum > console.width:
        n_columns -= 1
        table = _table(headings[:n_columns], [row[:n_columns] for row in rows])
    if console.measure(table, options=anywhere).minimum > console.width:  # names of great length
        table = _table(headings[:n_columns], [row[:n_columns] for row in rows], folded_from=8)
    console.print(table)
    if n_columns < len(headings):
        say(f"note: no room for {', '.join(headings[n_columns:])}; a wider terminal or --json shows all")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], folded_from: int = FOLDED_FROM) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading, *cells in zip(headings, *rows, strict=True):
        longest = max(map(len, (heading, *cells)))
        table.add_column(heading, overflow="fold", min_width=min(longest, folded_from))
    for row in rows:
        # Text, not markup: a "[" in a name is a bracket.
        table.add_row(*(Text(cell) for cell in row))
    return table
