"""Commands around feature stores and their cache: store info, verify, export, gc; cache info, prune."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.datasets import complete_dataset
from palm_cache.cli.extraction import (
    PANEL,
    DeviceOption,
    FeaturesOption,
    RootOption,
    SameEncoderOption,
    TokenizerOption,
    read_tables,
)
from palm_cache.cli.terminal import Json, one_line_errors, print_json, print_table, progress_bar, say, tell
from palm_cache.params import Params, Recipe, Resources, override

if TYPE_CHECKING:
    from palm_cache.extraction.verify import Recomputation
    from palm_cache.store.features import FeatureStore
    from palm_cache.store.prune import Known, Waste
    from palm_cache.types import ClipTable, Place


def complete_store(incomplete: str) -> list[str]:
    """Return the stores at their default places that begin like this."""
    from palm_cache.store.layout import stores_present

    present = map(str, stores_present(Path(Params().features)))
    return [store for store in present if store.startswith(incomplete)]


StoreArgument = Annotated[
    str,
    typer.Argument(
        help="A feature store, e.g. data/features/demo/mini.zarr or s3://bucket/features/demo/mini.zarr.",
        metavar="STORE",
        autocompletion=complete_store,
    ),
]


def store_info(store: StoreArgument, as_json: Json = False) -> None:
    """Show what a feature store holds and how it was made."""
    from palm_cache.store.features import FeatureStore
    from palm_cache.store.places import place

    with one_line_errors():
        opened = FeatureStore(place(store))
        header = asdict(opened.header)
        failures = opened.failures()
        folds = [{"train": len(fold.train), "test": len(fold.test)} for fold in opened.folds()]
        n_clips = opened.n_clips
    if as_json:
        print_json({"store": str(store), **header, "clips": n_clips, "failures": failures, "folds": folds})
        return
    tell(f"{store}")
    shown = (
        "dataset",
        "source",
        "encoder",
        "fingerprint",
        "dim",
        "token_dim",
        "sample_rate",
        "seconds",
        "views",
    )
    for key in shown:
        tell(f"  {key.replace('_', ' ')}: {header[key]}")
    tell(f"  clips: {n_clips}")
    tell(f"  classes: {', '.join(header['class_names'])}")
    tell("  folds: " + ", ".join(f"{fold['train']} train / {fold['test']} test" for fold in folds))
    tell("  templates: " + "; ".join(repr(template) for template in header["templates"]))
    tell("  recipe:")
    for key, value in header["recipe"].items():
        tell(f"    {key.replace('_', ' ')}: {value}")
    tell("  made with: " + ", ".join(f"{name} {what}" for name, what in header["made_with"].items()))
    tell(f"  clips without an embedding: {len(failures)}")
    for name, reason in failures:
        tell(f"    {name}: {reason}")


def store_verify(
    store: StoreArgument,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Compare with this dataset too: clips added, removed, of another class or content.",
            metavar="NAME_OR_DIR",
            autocompletion=complete_dataset,
        ),
    ] = None,
    root: RootOption = None,
    recompute: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Embed N clips drawn at random again with the store's encoder and compare.",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other clips to embed again.")] = 0,
    encoder: SameEncoderOption = None,
    tokenizer: TokenizerOption = None,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Check every file and row of a feature store: checksums, finite values, zero vectors.

    Exit 1 if anything is wrong.

    Where the audio is, the store can also be held against it (--dataset) and against its encoder
    (--recompute; without --dataset the audio is that of the dataset whose name the store bears).

    Example: palm-cache store verify data/features/demo/mini.zarr --dataset demo --recompute 32
    """
    from palm_cache.store.features import FeatureStore
    from palm_cache.store.places import place

    again = None
    with one_line_errors():
        opened = FeatureStore(place(store))
        problems = opened.problems()
        if not problems and (dataset is not None or recompute):
            table = read_tables((dataset or opened.header.dataset,), root)[0][0]
            compare = dataset is not None
            more, again = _hold_against(opened, table, compare, recompute, seed, encoder, device, tokenizer)
            problems += more
    if as_json:
        document = {"store": str(store), "sound": not problems, "problems": problems}
        print_json({**document, "recomputed": again and asdict(again)})
    else:
        for problem in problems:
            tell(problem)
        if again:
            tell(
                f"{again.compared} clips embedded again: largest difference {again.difference:.1e}, "
                f"smallest cosine {again.cosine:.6f}"
            )
        if not problems:
            tell(f"{store}: OK; {opened.n_clips} clips")
    if problems:
        say("make it anew with the palm-cache extract command that made it; embeddings come from the cache")
        raise typer.Exit(1)


def _hold_against(
    opened: FeatureStore,
    table: ClipTable,
    compare: bool,
    count: int,
    seed: int,
    named: str | None,
    device: str | None,
    tokenizer: str | None,
) -> tuple[list[str], Recomputation | None]:
    """Hold a store against its dataset and its encoder."""
    from palm_cache.extraction.embedding import Road
    from palm_cache.extraction.encoders.registry import load_encoder_of, recipe_of
    from palm_cache.extraction.verify import dataset_problems, recompute

    how, recipe = override(Resources(), device=device), override(Recipe(), tokenizer=tokenizer)
    encoder = load_encoder_of(opened.header, device=how.devices[0], tokenizer=recipe.tokenizer, named=named)
    problems: list[str] = []
    with Road(encoder, recipe_of(opened.header.recipe)) as road, progress_bar("clips") as progress:
        if compare:
            problems += dataset_problems(opened, table, road, progress)
        again = recompute(opened, table, road, count, seed, progress) if count else None
    return [*problems, *(again.problems if again else ())], again


def store_export(
    store: Annotated[
        str,
        typer.Argument(
            help="A feature store, or the .h5 of one.", metavar="STORE", autocompletion=complete_store
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            help="Where to write it; the ending says how: .zarr, .h5, .npz or .parquet. A folder or a URL.",
            metavar="TARGET",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Write a finished feature store in another place or format, whole or not at all.

    A .zarr is the same store elsewhere, here or behind a URL. An exported .h5 becomes a .zarr again.

    Example: palm-cache store export data/features/demo/mini.zarr demo.h5
    """
    from palm_cache.store.conversion import export
    from palm_cache.store.places import place

    with one_line_errors(), progress_bar("clips") as progress:
        count = export(place(store), place(target), progress)
    if as_json:
        print_json({"store": store, "target": target, "n_clips": count})
    else:
        tell(f"{count} clips -> {target}")


YesOption = Annotated[bool, typer.Option("--yes", help="Remove without asking.")]
CacheOption = Annotated[
    str | None,
    typer.Option(
        "--cache", help="The cache: a folder or a URL.", metavar="PLACE", show_default="<features>/.cache"
    ),
]


def store_gc(features: FeaturesOption = None, yes: YesOption = False, as_json: Json = False) -> None:
    """List feature stores that cannot be read and what killed processes left, and remove it if told to.

    Only what palm-cache wrote is ever removed, file by file. A store whose audio or checkpoint is not here
    stays, and so does one of another format.

    Example: palm-cache store gc
    """
    from palm_cache.store.places import place
    from palm_cache.store.prune import store_waste

    with one_line_errors("what was removed is gone, the rest stays"):
        _clear_out(store_waste(place(features or Params().features)), yes, as_json)


def cache_info(features: FeaturesOption = None, cache: CacheOption = None, as_json: Json = False) -> None:
    """Show what the cache knows: contents by recipe, their size, and the stores made of them.

    Example: palm-cache cache info
    """
    from palm_cache.store.prune import known_recipes

    with one_line_errors():
        stores, where = _features_and_cache(features, cache)
        known = known_recipes(where, stores)
    if as_json:
        print_json({"cache": str(where), "recipes": [asdict(one) for one in known]})
        return
    print_table(
        ("recipe", "encoder", "contents", "size", "stores"),
        [
            [one.name[:14], _words(one), f"{one.contents:,}", megabytes(one.bytes), ", ".join(one.used_by)]
            for one in known
        ],
    )
    tell(f"{len(known)} recipes, {megabytes(sum(one.bytes for one in known))} -> {where}")


def cache_prune(
    features: FeaturesOption = None, cache: CacheOption = None, yes: YesOption = False, as_json: Json = False
) -> None:
    """List what no store in the folder of stores is made of, and remove it from the cache if told to.

    A recipe is an encoder with its weights and options. What goes would have to be embedded again.

    Example: palm-cache cache prune
    """
    from palm_cache.store.prune import cache_waste, known_recipes

    with one_line_errors("what was removed is gone, the rest stays"):
        stores, where = _features_and_cache(features, cache)
        _clear_out(cache_waste(known_recipes(where, stores), where), yes, as_json)


def _features_and_cache(features: str | None, cache: str | None) -> tuple[Place, Place]:
    from palm_cache.store.layout import CACHE
    from palm_cache.store.places import place

    stores = place(features or Params().features)
    return stores, place(cache) if cache else stores / CACHE


def _words(known: Known) -> str:
    recipe = known.recipe
    options = [str(recipe[key]) for key in ("precision", "runtime") if key in recipe]
    usual = {"views": 1, "long": "crop"}
    more = [f"{key} {recipe[key]}" for key in usual if recipe.get(key, usual[key]) != usual[key]]
    return ", ".join([str(recipe.get("encoder", "file hashes")), *options, *more])


def _clear_out(waste: list[Waste], yes: bool, as_json: bool) -> None:
    """Show what is of no use, ask, and remove it."""
    from palm_cache.store.prune import remove_waste

    if waste and not as_json:
        print_table(
            ("place", "files", "size", "why"),
            [[str(item.place), f"{len(item.files):,}", megabytes(item.bytes), item.why] for item in waste],
        )
    removed = waste if waste and (yes or _agreed(waste, as_json)) else []
    for item in removed:
        remove_waste(item)
    if as_json:
        rows = [{**asdict(item), "place": str(item.place)} for item in waste]
        print_json({"waste": rows, "removed": len(removed)})
    elif removed:
        tell(f"{len(removed)} removed, {megabytes(sum(item.bytes for item in removed))}")
    else:
        tell("nothing removed; --yes removes it" if waste else "nothing to remove")


def _agreed(waste: list[Waste], as_json: bool) -> bool:
    """Ask whether to remove what was shown, if there is somebody to ask."""
    if as_json or not _somebody_is_there():
        return False
    total = megabytes(sum(item.bytes for item in waste))
    return typer.confirm(f"Remove these {len(waste)} ({total})?", err=True)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def megabytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def register(app: typer.Typer) -> None:
    """Add ``store`` and ``cache`` with their commands."""
    store = typer.Typer(no_args_is_help=True, help="Look at, check, convert and clear out feature stores.")
    store.command("info")(store_info)
    store.command("verify")(store_verify)
    store.command("export")(store_export)
    store.command("gc")(store_gc)
    app.add_typer(store, name="store", rich_help_panel=PANEL)
    cache = typer.Typer(no_args_is_help=True, help="Look at and clear out what is known of every content.")
    cache.command("info")(cache_info)
    cache.command("prune")(cache_prune)
    app.add_typer(cache, name="cache", rich_help_panel=PANEL)
