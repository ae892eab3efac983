"""The command that scores heads on another dataset than theirs."""

from __future__ import annotations

from typing import Annotated

import typer

from palm_cache.cli.adaptation import print_scores, tower_loader
from palm_cache.cli.extraction import DeviceOption, SameEncoderOption, TokenizerOption
from palm_cache.cli.prediction import HeadsArgument
from palm_cache.cli.store import StoreArgument
from palm_cache.cli.terminal import Json, one_line_errors, progress_bar
from palm_cache.params import Params
from palm_cache.store.places import place


def transfer(
    heads: HeadsArgument,
    store: StoreArgument,
    same: Annotated[
        list[str] | None,
        typer.Option(
            help="Two names of one class: the heads' and the store's. Can be repeated.", metavar="NAME=NAME"
        ),
    ] = None,
    encoder: SameEncoderOption = None,
    device: DeviceOption = None,
    tokenizer: TokenizerOption = None,
    as_json: Json = False,
) -> None:
    """Score fitted heads on the test clips of another dataset, among the classes that both have.

    Both need features of the same encoder. A clip that a head learned from is not asked about. The scores are
    shown and not kept.

    Example: palm-cache transfer runs/CREMA-D/mini data/features/RAVDESS/mini.zarr --same anger=angry
    """
    from palm_cache.adaptation.transfer import transfer_heads

    names = dict(pair.partition("=")[::2] for pair in same or ())
    if not all(names.values()):
        raise typer.BadParameter("two names with = between are needed", param_hint="--same")
    with one_line_errors(), progress_bar("heads") as progress:
        scores = transfer_heads(
            heads / "heads.h5" if heads.is_dir() else heads,
            place(store),
            same=names,
            load_tower=tower_loader(Params(), device, tokenizer, [encoder] if encoder else None),
            progress=progress,
        )
    print_scores(scores, as_json)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Stage two: embeddings to scores")(transfer)
