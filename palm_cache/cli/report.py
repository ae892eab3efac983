"""The command that turns scores into pages."""

from __future__ import annotations

from typing import Annotated

import typer

from palm_cache.cli.adaptation import print_summary
from palm_cache.cli.checks import check_method, require_results
from palm_cache.cli.completion import complete_heads
from palm_cache.cli.loading import load
from palm_cache.cli.options import HeadsOption, OutOption
from palm_cache.cli.terminal import Json, note, tell
from palm_cache.store.layout import RUNS


def report(
    out: OutOption = RUNS,
    against: Annotated[
        str | None,
        typer.Option(
            help="The head that the others are compared with.",
            show_default="palm; zero-shot where that did not run",
            metavar="HEAD",
            autocompletion=complete_heads,
            callback=check_method,
        ),
    ] = None,
    heads: HeadsOption = None,
    as_json: Json = False,
) -> None:
    """Turn scores into a page of tables and figures.

    OUT/report/index.html is one page that needs nothing else; OUT/report/report.md is the same in Markdown.
    Where datasets are the PALM paper's, the published numbers stand beside ours.

    Example: palm-cache report --against proker
    """
    require_results(out)
    if heads is not None:
        require_results(heads, "heads")
    load("palm_cache.report.write")
    from palm_cache.report.write import write_report

    written = write_report(out, against=against, heads=heads)
    note(*written.notes)
    if as_json:
        print_summary(written.summary)
    else:
        tell(written.verdict, f"report -> {written.page}")
