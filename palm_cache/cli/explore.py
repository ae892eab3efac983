"""The command that makes a page to look at a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palm_cache.cli.checks import check_heads_file
from palm_cache.cli.completion import PREDICTIONS, complete_predicted_run
from palm_cache.cli.loading import load
from palm_cache.cli.options import StoreArgument, choices, override, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.terminal import Json, note, print_json, tell
from palm_cache.errors import counted
from palm_cache.params.use import LoadingParams, MapMethod

COLOURS = "What clips are coloured by, if not their label or mistake"


@takes(loading=LoadingParams)
def explore(
    loading: dict[str, object],
    store: StoreArgument,
    run: Annotated[
        str | None,
        typer.Option(
            help="Show what this run says of every clip: palm, palm-16shots, palm-16shots-seed0 (all folds "
            "together) or palm-16shots-fold1-seed0.",
            metavar="NAME",
            autocompletion=complete_predicted_run,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Where the run's predictions lie.", show_default=str(PREDICTIONS), metavar="FILE"),
    ] = None,
    clusters: Annotated[
        int,
        typer.Option(
            help="Colour by clusters of embeddings, this many.",
            min=0,
            metavar="N",
            show_default="12, where nothing is labelled",
            rich_help_panel=COLOURS,
        ),
    ] = 0,
    head: Annotated[
        Path | None,
        typer.Option(
            help="Colour by the class that a head gives: a heads.h5 or its folder; --run names a run of it.",
            metavar="HEADS",
            rich_help_panel=COLOURS,
            callback=check_heads_file,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="Colour the 50 clips that are nearest to a text.", metavar="TEXT", rich_help_panel=COLOURS
        ),
    ] = None,
    method: Annotated[
        MapMethod,
        typer.Option(
            help="How the map is made; pca is instant, umap needs umap-learn.", metavar=choices(MapMethod)
        ),
    ] = "tsne",
    audio: Annotated[
        Path | None,
        typer.Option(
            help="The dataset's folder, to play clips from.", show_default="where it lay", metavar="DIR"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="FILE")] = Path("explore.html"),
    as_json: Json = False,
) -> None:
    """Make a map of a feature store, to look at and to listen to.

    Clips are coloured by class or mistake. Without --run every clip is judged by its ten nearest neighbours,
    which finds odd and mislabelled clips. A store without labels is coloured by clusters, or as you say.

    The page is one file and works offline. It lists the most confused clips of every class. It replaces an
    earlier map, and no other file.

    Example: palm-cache explore data/features/demo/mini.zarr --run palm-16shots-seed0 --audio data/raw/demo
    """
    if sum((clusters > 0, head is not None, text is not None, predictions is not None)) > 1:
        raise typer.BadParameter("give one of them", param_hint="--clusters, --head, --text, --predictions")
    if predictions is None and run is not None and head is None:
        predictions = PREDICTIONS
    load("palm_cache.explore.page")
    from palm_cache.explore.groups import Grouping
    from palm_cache.explore.page import write_page
    from palm_cache.store.nearby import heads_file
    from palm_cache.store.places import place

    by = Grouping(
        clusters,
        heads_file(head) if head is not None else None,
        run,
        text,
        override(LoadingParams(), **loading),
    )
    with progress_bar("iterations") as progress:
        page = write_page(
            place(store),
            out,
            method=method,
            predictions=predictions,
            run=run,
            by=by,
            audio=audio,
            progress=progress,
        )
    note(*page.notes)
    if as_json:
        print_json({"page": str(page.file), "clips": page.n_clips})
    else:
        tell(f"{counted(page.n_clips, 'clip')} -> {page.file}")
