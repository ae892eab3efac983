"""The command line: each command parses, calls one function and prints.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 a problem that the user can
mend, 2 wrong usage, 3 some inputs of predict failed. Wrong usage is what makes no sense whatever lies here;
what hangs on files, data, installed packages or the network can be mended: a missing extra, a URL of a kind
that nothing here reads. Heavy libraries are imported inside the commands, so that ``--help`` is instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

from palm_cache import __version__
from palm_cache.cli import (
    adaptation,
    bench,
    datasets,
    explore,
    extraction,
    label,
    prediction,
    report,
    retrieval,
    sharing,
    store,
)
from palm_cache.cli.commands import Commands, command, group

app = typer.Typer(
    name="palm-cache",
    help="""Few-shot adaptation of frozen audio-language models on cached embeddings.

    extract runs the frozen encoders once and stores their embeddings; fit trains PALM and its rivals on the
    store in seconds; report shows who won.

    Examples: palm-cache synthesise

    palm-cache extract --dataset demo

    palm-cache fit
    """,
    cls=Commands,
    no_args_is_help=True,
    # Help is ours: see cli/help.py. Loading rich for it would take as long as all else together.
    rich_markup_mode=None,
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


RESUMED = "run the same command again to resume"
STANDS = "what was printed or written stands"
FITTED = "any heads that were fitted are kept: palm-cache evaluate scores them; the same command fits all"
REMOVED = "what was removed is gone, the rest stays"

STAGE_ONE = "Stage one: audio to embeddings"
command(app, datasets.datasets, panel=STAGE_ONE)
command(app, datasets.download, panel=STAGE_ONE, if_interrupted=f"what has arrived is kept; {RESUMED}")
command(app, extraction.encoders, panel=STAGE_ONE)
command(app, extraction.synthesise, panel=STAGE_ONE)
command(app, extraction.extract, panel=STAGE_ONE, if_interrupted=f"what is embedded is kept; {RESUMED}")
stores = group(app, "store", "Show, check, convert and clear out feature stores.", STAGE_ONE)
command(stores, store.store_info, name="info")
command(stores, store.store_verify, name="verify")
command(stores, store.store_export, name="export")
command(stores, store.store_gc, name="gc", if_interrupted=REMOVED)
caches = group(app, "cache", "Look at the cache of embeddings and clear it out.", STAGE_ONE)
command(caches, store.cache_info, name="info")
command(caches, store.cache_prune, name="prune", if_interrupted=REMOVED)

STAGE_TWO = "Stage two: embeddings to scores"
command(app, adaptation.heads, panel=STAGE_TWO)
command(app, adaptation.fit, panel=STAGE_TWO, if_interrupted=FITTED)
command(app, adaptation.evaluate, panel=STAGE_TWO, if_interrupted="earlier scores are kept")
command(app, adaptation.prompts, panel=STAGE_TWO)
command(app, adaptation.transfer, panel=STAGE_TWO)
command(app, report.report, panel=STAGE_TWO)

USE = "Using heads and stores"
command(app, adaptation.calibrate, panel=USE, if_interrupted="nothing was changed")
command(app, prediction.predict, panel=USE, if_interrupted=STANDS)
command(app, sharing.export, panel=USE)
command(app, retrieval.search, panel=USE)
command(app, explore.explore, panel=USE)
command(app, label.label, panel=USE)
command(app, sharing.push, panel=USE, if_interrupted="nothing was uploaded")
command(app, sharing.pull, panel=USE)

benchmarks = group(app, "bench", "Measure how fast palm-cache is on this machine.", "Measuring")
command(benchmarks, bench.extract)
