"""The command that makes a page to look at a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from palm_cache.cli.extraction import choice
from palm_cache.cli.store import StoreArgument
from palm_cache.cli.terminal import Json, one_line_errors, print_json, progress_bar, say, tell
from palm_cache.explore import METHODS, Method
from palm_cache.store.layout import RUNS

PREDICTIONS = RUNS / "predictions.h5"


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs in the predictions that begin like this, all folds of one together."""
    from palm_cache.errors import StoreError
    from palm_cache.explore.verdicts import across_folds
    from palm_cache.store.scores import read_predictions

    try:
        runs = [one.run for one in read_predictions(context.params.get("predictions") or PREDICTIONS)]
    except StoreError:
        return []
    return [run for run in across_folds(runs) if run.startswith(incomplete)]


def explore(
    store: StoreArgument,
    run: Annotated[
        str | None,
        typer.Option(
            help="Show what this run said, e.g. palm-16shots-seed0 (all folds) or palm-16shots-fold1-seed0.",
            metavar="NAME",
            autocompletion=complete_run,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Where the run's predictions lie.", show_default=str(PREDICTIONS), metavar="FILE"),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="How the map is made: tsne, pca (instant) or umap (if umap-learn is installed).",
            autocompletion=lambda incomplete: [name for name in METHODS if name.startswith(incomplete)],
        ),
    ] = "tsne",
    audio: Annotated[
        Path | None,
        typer.Option(
            help="The dataset's folder, to play clips from.", show_default="beside the page", metavar="DIR"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="FILE")] = Path("explore.html"),
    as_json: Json = False,
) -> None:
    """Make a page to look at and listen to a feature store: a map of its clips, coloured by class or mistake.

    Without --run every clip is judged by its ten nearest neighbours, which finds odd and mislabelled clips.
    The page is one file, works offline and lists the most confused clips of every class.

    Example: palm-cache explore data/features/demo/mini.zarr --run palm-16shots-seed0 --audio data/raw/demo
    """
    wanted = cast("Method", choice("--method", method, METHODS))
    if predictions is None and run is not None:
        predictions = PREDICTIONS
    with one_line_errors():
        from palm_cache.explore.page import write_page
        from palm_cache.store.places import place

        with progress_bar("iterations") as progress:
            page = write_page(
                place(store),
                out,
                method=wanted,
                predictions=predictions,
                run=run,
                audio=audio,
                progress=progress,
            )
    for note in page.notes:
        say(f"note: {note}")
    if as_json:
        print_json({"page": str(page.file), "clips": page.n_clips})
    else:
        tell(f"{page.n_clips} clips -> {page.file}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Use")(explore)
