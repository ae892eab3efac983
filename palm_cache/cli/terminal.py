"""What all commands share: one-line errors, progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from palm_cache.errors import PalmCacheError
from palm_cache.types import Progress

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

QUIET_SECONDS = 15.0
"""Where stderr is a file or a pipe, a line at most this often."""


@contextmanager
def one_line_errors(if_interrupted: str = "nothing was written") -> Iterator[None]:
    """Turn our errors into one line and exit code 1; anything else is a defect and keeps its traceback."""
    try:
        yield
    except PalmCacheError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.secho(f"\ninterrupted: {if_interrupted}", err=True, fg="yellow")
        raise typer.Exit(130) from None


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


def say(message: str) -> None:
    """Tell the user something that is not a result."""
    typer.secho(message, err=True, fg="yellow")


@contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """Show progress with rate and remaining time on stderr.

    Parameters
    ----------
    unit : str
        What is counted, in the plural.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_progress(unit)
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
                tasks[what] = bar.add_task(what, total=total, rate="")
            speed = next(task.speed for task in bar.tasks if task.id == tasks[what])
            rate = f"{speed:.0f} {unit}/s" if speed else ""
            bar.update(tasks[what], completed=done, rate=rate)

        yield report


def _line_progress(unit: str) -> Progress:
    """Report in plain lines, not too often, for logs."""
    started: dict[str, float] = {}
    last = [time.monotonic()]

    def report(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        begin = started.setdefault(what, now)
        if now - last[0] >= QUIET_SECONDS and done:
            last[0] = now
            rate = done / max(now - begin, 1e-9)
            left = (total - done) / max(rate, 1e-9)
            typer.echo(f"{what}: {done}/{total} {unit}, {rate:.1f} {unit}/s, {left:.0f} s left", err=True)

    return report


def print_json(value: object) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that is as wide as it must be where stdout is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        # Nobody scrolls a file sideways: let no cell be folded.
        columns = zip(headings, *rows, strict=True)
        console = Console(width=4 + sum(4 + max(map(len, column)) for column in columns))
    table = Table(*headings, box=box.SIMPLE_HEAD)
    for row in rows:
        # Text, not markup: a "[" in a name is a bracket.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
