"""What all commands share: one-line errors, progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from palm_cache.errors import PalmCacheError, visible, without_credentials
from palm_cache.types import Progress

if TYPE_CHECKING:
    from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

FOLDED_FROM = 28
"""Width in letters from which a column of a table may be folded."""

QUIET_SECONDS = 15.0
"""Where stderr is a file or a pipe, a line at most this often."""


_SURROUNDINGS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT),
)
"""Errors of a file that say something of the machine and its owner, never of us."""


_BEYOND_JSON = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters that JSON lets stand."""


class Commands(TyperGroup):
    """All commands, and what ends any of them with one line.

    A defect keeps its traceback; what the machine refuses, and an output that takes nothing more, are none.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command."""
        try:
            if sys.stdout is None:
                raise PalmCacheError("standard output is closed; send it somewhere, if only to /dev/null")
            return super().main(*args, **kwargs)
        except PalmCacheError as error:
            _fail(str(error))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if isinstance(error.filename, str | bytes) and error.errno in _SURROUNDINGS:
                _fail(f"{os.fsdecode(error.filename)}: {reason}; change that, or choose another place")
            if not _stdout_fails():
                raise
            _fail(f"standard output: cannot write: {reason}; send it elsewhere")


class Command(TyperCommand):
    """A command that says what was meant by a word too many."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse; a word that belongs to no option is often the value of one."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            if "unexpected extra argument" in error.message and (meant := self._meant(words)):
                error.message += f"; did you mean {meant}?"
            error.message = visible(error.message)
            raise

    def _meant(self, words: Sequence[str]) -> str:
        """Return the option that a word too many belongs to, with its value."""
        options = {name: option for option in self.params for name in option.opts}
        previous = ""
        for number, word in enumerate(words):
            option = options.get(previous)
            is_value = option is not None and not getattr(option, "is_flag", False)
            if is_value and not word.startswith("-"):
                extra = [word]
                for further in words[number + 1 :]:
                    if further.startswith("-"):
                        break
                    extra.append(further)
                if len(extra) > 1:
                    return f"{previous} {','.join(extra)}"
            elif not word.startswith("-") and "--dataset" in options and "--dataset" not in words:
                return f"--dataset {word}"
            previous = word
        return ""


UsageError: Any = typer.BadParameter.__base__


def command(app: typer.Typer, function: Callable[..., None], panel: str | None = None) -> None:
    """Add a command to an app, in a panel of its help."""
    app.command(cls=Command, rich_help_panel=panel)(function)


def _stdout_fails() -> bool:
    """Tell whether standard output takes nothing; if so, have nobody try again."""
    try:
        print(flush=True)  # noqa: T201
    except OSError:
        # What is still in its buffer would fail once more when Python ends.
        with suppress(io.UnsupportedOperation), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return True
    return False


def _fail(message: str) -> None:
    _tell_stderr(f"error: {message}", "red")
    sys.exit(1)


@contextmanager
def one_line_errors(if_interrupted: str = "nothing was written") -> Iterator[None]:
    """Turn our errors into one line and exit code 1; anything else is a defect and keeps its traceback."""
    try:
        yield
    except PalmCacheError as error:
        _tell_stderr(f"error: {error}", "red")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(err=True)
        _tell_stderr(f"interrupted: {if_interrupted}", "yellow")
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


def say(message: str) -> None:
    """Tell the user something that is not a result."""
    _tell_stderr(message, "yellow")


def _tell_stderr(message: str, colour: str) -> None:
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
