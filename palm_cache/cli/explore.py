"""The command that makes a page to look at a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palm_cache.cli.loading import load
from palm_cache.cli.options import StoreArgument, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.terminal import Json, note, print_result
from palm_cache.errors import counted
from palm_cache.params.use import LoadingParams, MapParams


@takes(by=MapParams, loading=LoadingParams)
def explore(
    by: MapParams,
    loading: LoadingParams,
    store: StoreArgument,
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
    load("palm_cache.explore.page")
    from palm_cache.explore.page import write_page
    from palm_cache.store.places import place

    with progress_bar("iterations", {"comparing": "clips"}) as progress:
        page = write_page(place(store), out, by, loading=loading, audio=audio, progress=progress)
    note(*page.notes)
    document = {"page": str(page.file), "clips": page.n_clips}
    print_result(document, f"{counted(page.n_clips, 'clip')} -> {page.file}", as_json=as_json)
