"""The command line: each command parses, calls one function and prints.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 a problem that the user can
mend, 2 wrong usage, 3 some inputs of predict failed. Heavy libraries are imported inside the commands, so
that ``--help`` is instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

from palm_cache import __version__
from palm_cache.cli import (
    adaptation,
    bench,
    explore,
    extraction,
    label,
    prediction,
    report,
    retrieval,
    sharing,
    store,
)
from palm_cache.cli.terminal import Commands

app = typer.Typer(
    name="palm-cache",
    help="Few-shot adaptation of frozen audio-language models on cached embeddings.\n\n"
    "[bold]extract[/bold] runs the frozen encoders once and stores their embeddings; [bold]fit[/bold] trains "
    "PALM and its rivals on the store in seconds; [bold]report[/bold] shows who won.\n\n"
    "Start with: palm-cache synthesise, palm-cache extract --dataset demo, palm-cache fit",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    # A defect of palm-cache keeps Python's own traceback, which is what a bug report needs.
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"palm-cache {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take the options that come before a command."""


extraction.register(app)
store.register(app)
adaptation.register(app)
report.register(app)
prediction.register(app)
retrieval.register(app)
sharing.register(app)
explore.register(app)
label.register(app)
bench.register(app)
