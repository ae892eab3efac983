"""What commands print: results on stdout, as lines, tables or JSON; messages on stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from palm_cache.errors import naming, visible, without_credentials

if TYPE_CHECKING:
    from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

TYPED: dict[str, str] = {}
"""How the parameters of the command that runs are typed."""

FOLDED_FROM = 28
"""Width in letters from which a column of a table may be folded."""

_RESULTS: list[TextIO] = []
"""Standard output, while a command runs and only results go there."""

_BEYOND_JSON = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters that JSON lets stand."""


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let a polite end by another program, as a cluster's scheduler sends it, be what Ctrl-C is."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # no other may say what signals do
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Turn to stderr what is printed, by an encoder of somebody's for example, and is no result."""
    _RESULTS.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _RESULTS.pop()


def results() -> TextIO:
    """Return standard output, also while a command runs."""
    return _RESULTS[-1] if _RESULTS else sys.stdout


def tell(*lines: str) -> None:
    """Print lines of a result."""
    for line in lines:
        put(f"{_shown(line)}\n")


def put(text: str) -> None:
    """Print a part of a result as it is, at once; whole lines, where a progress bar is on the terminal."""
    _write(text, is_error=False)


def say(message: str, colour: str = "yellow") -> None:
    """Tell the user something that is not a result; parameters in backquotes are called as they are typed."""
    shown = styled(_shown(naming(message, TYPED)), fg=colour)
    with suppress(OSError):  # where nobody can be told, the exit code says it
        _write(f"{shown}\n", is_error=True)


def styled(text: str, **how: Any) -> str:
    """Return text in colour or bold, unless the terminal has neither or its user wants none."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else typer.style(text, **how)


def as_typed(notes: Iterable[str]) -> list[str]:
    """Return notes for a JSON document, with parameters as :func:`say` calls them."""
    return [naming(text, TYPED) for text in notes]


def note(*notes: str) -> None:
    """Tell the user what should be known beside a result."""
    for text in notes:
        say(f"note: {text}")


def _write(text: str, is_error: bool) -> None:
    stream = sys.stderr if is_error else results()
    if hasattr(sys.stderr, "rich_proxied_file") and (is_error or stream.isatty()):
        sys.stderr.write(text)  # a bar keeps below what goes through; echo goes round it
    else:
        typer.echo(text, file=stream, nl=False, err=is_error)


def _shown(text: str) -> str:
    return visible(without_credentials(text))


def print_result(document: object, *lines: str, as_json: bool) -> None:
    """Print a result: as one JSON document, or in lines."""
    if as_json:
        print_json(document)
    else:
        tell(*lines)


def agreed(question: str) -> bool:
    """Ask whether to go on; where no terminal is there to be asked, that is no: a pipe is no one's word."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return False


def print_json(value: object) -> None:
    """Print one JSON document."""
    put(f"{as_json(value, indent=2)}\n")


def as_json(value: object, indent: int | None = None) -> str:
    """Return JSON that a terminal can be shown: what controls one, or it has no letter for, is escaped."""
    is_unicode = str(results().encoding).lower().startswith("utf")
    text = without_credentials(json.dumps(value, indent=indent, ensure_ascii=not is_unicode))
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
    console = Console(file=results())
    if not console.is_terminal:
        # Nobody scrolls a file sideways: let no cell be folded.
        columns = zip(headings, *rows, strict=True)
        console = Console(file=results(), width=4 + sum(4 + max(map(len, column)) for column in columns))
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
        note(f"no room for {', '.join(headings[n_columns:])}; a wider terminal or --json shows all")


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
