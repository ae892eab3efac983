"""Commands around feature stores and their cache: store info, verify, export, gc; cache info, prune."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.completion import complete_dataset
from palm_cache.cli.options import RootOption, StoreArgument, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.terminal import Json, agreed, note, print_json, print_result, print_table, say, tell
from palm_cache.errors import StoreError, counted, did_you_mean
from palm_cache.params import Params, Recipe, Resources
from palm_cache.params.use import LoadingParams
from palm_cache.types.stretches import failure_lines

if TYPE_CHECKING:
    from palm_cache.extraction.verify import Recomputation
    from palm_cache.store.features import FeatureStore
    from palm_cache.store.prune import CachedRecipe, Waste
    from palm_cache.types import Place


FACTS = ["dataset", "source", "encoder", "fingerprint", "dim", "token_dim", "sample_rate", "seconds", "views"]
"""What ``store info`` shows of a header as it is."""


def store_info(store: StoreArgument, as_json: Json = False) -> None:
    """Show what a feature store holds and how it was made.

    Example: palm-cache store info data/features/demo/mini.zarr
    """
    from palm_cache.store.features import FeatureStore
    from palm_cache.store.places import place

    opened = FeatureStore(place(store))
    header = asdict(opened.header)
    failures = opened.failures()
    folds = [{"train": train, "test": test} for train, test in opened.fold_sizes()]
    n_clips = opened.n_clips
    document = {"store": store, **header, "clips": n_clips, "failures": failures, "folds": folds}
    recipe, made_with = header["recipe"].items(), header["made_with"].items()
    limited = f" (it {opened.header.limited})" if opened.header.limited else ""
    templates = "; ".join(map(repr, header["templates"])) or "none; the encoder reads no text"
    print_result(
        document,
        store,
        *(f"  {key.replace('_', ' ')}: {header[key]}" for key in FACTS),
        f"  clips: {n_clips}{limited}",
        f"  classes: {', '.join(header['class_names'])}",
        "  folds: " + ", ".join(f"{fold['train']} train / {fold['test']} test" for fold in folds),
        f"  templates: {templates}",
        *(f"  description of {name}: {'; '.join(texts)}" for name, texts in header["descriptions"].items()),
        "  recipe:",
        *(f"    {key.replace('_', ' ')}: {value}" for key, value in recipe),
        "  made with: " + ", ".join(f"{name} {what}" for name, what in made_with),
        f"  clips without an embedding: {len(failures)}",
        *(f"    {line}" for line in failure_lines(failures)),
        as_json=as_json,
    )


@takes(loading=LoadingParams)
def store_verify(
    loading: LoadingParams,
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
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other clips.", metavar="N")] = 0,
    as_json: Json = False,
) -> None:
    """Check every file and row of a feature store.

    That is checksums, finite values and zero vectors. The exit code is 1 if anything is wrong.

    Where the audio is here, --dataset compares the store with it. --recompute embeds some clips again;
    without --dataset or --root their audio is where it was when the store was made.

    Example: palm-cache store verify data/features/demo/mini.zarr --dataset demo --recompute 32
    """
    if root is not None and dataset is None and not recompute:
        raise typer.BadParameter("goes with --dataset or --recompute", param_hint="--root")
    from palm_cache.store.features import FeatureStore
    from palm_cache.store.places import place

    again = None
    opened = FeatureStore(place(store))
    problems = opened.problems()
    if not problems and (dataset is not None or recompute):
        more, again = _hold_against(opened, dataset, root, recompute, seed, loading)
        problems += more
    if as_json:
        document = {"store": str(store), "sound": not problems, "problems": problems}
        print_json({**document, "recomputed": again and asdict(again)})
    else:
        sound = f"OK; {counted(opened.n_clips, 'clip')}" if not problems else ""
        tell(f"{store}: {sound or counted(len(problems), 'problem')}", *(f"  {line}" for line in problems))
        if again:
            tell(
                f"  {counted(again.compared, 'clip')} embedded again: largest difference "
                f"{again.difference:.1e}, smallest cosine {again.cosine:.6f}"
            )
    if problems:
        say(opened.remedy)
        raise typer.Exit(1)


def _hold_against(
    opened: FeatureStore,
    dataset: str | None,
    root: str | None,
    count: int,
    seed: int,
    loading: LoadingParams,
) -> tuple[list[str], Recomputation | None]:
    """Compare a store with its dataset, if that was named, and with its encoder, if clips are to be."""
    from palm_cache.extraction.datasets.registry import read_dataset
    from palm_cache.extraction.embedding import Embedder
    from palm_cache.extraction.recipe import recipe_of
    from palm_cache.extraction.recorded import load_encoder_of
    from palm_cache.extraction.verify import dataset_problems, recompute
    from palm_cache.store.places import place

    where, features = place(root) if root else None, opened.path.parent.parent
    table = None if dataset is None else read_dataset(dataset, where, features=features)
    encoder = load_encoder_of(opened.header, loading) if count else None
    with progress_bar("clips") as progress:
        problems = dataset_problems(opened, table, progress) if table else []
        if encoder is None:
            return problems, None
        source = table.source if table else root or opened.header.source
        with Embedder(encoder, recipe_of(opened.header.recipe)) as embedder:
            again = recompute(opened, source, embedder, count, seed, progress)
    return [*problems, *again.problems], again


def store_export(
    store: StoreArgument,
    target: Annotated[
        str,
        typer.Argument(
            help="Where to write it; the ending says how: .zarr, .h5, .npz or .parquet. A folder or a URL.",
            metavar="TARGET",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Write a feature store in another place or format.

    It is written whole or not at all. A .zarr is the same store elsewhere, here or behind a URL. An exported
    .h5 may be STORE, to become a .zarr again.

    Example: palm-cache store export data/features/demo/mini.zarr demo.h5
    """
    from palm_cache.store.conversion import export
    from palm_cache.store.places import place

    with progress_bar("clips") as progress:
        count = export(place(store), place(target), progress)
    document = {"store": store, "target": target, "n_clips": count}
    print_result(document, f"{counted(count, 'clip')} -> {target}", as_json=as_json)


YesOption = Annotated[bool, typer.Option("--yes", help="Remove without asking.")]


@takes(where=(Params, ("features",)))
def store_gc(where: Params, yes: YesOption = False, as_json: Json = False) -> None:
    """List stores that cannot be read and leftovers; remove them if told to.

    Leftovers are of processes that were killed. Only what palm-cache wrote is ever removed, file by file. A
    store whose audio or checkpoint is not here stays, and so does one of another format.

    Example: palm-cache store gc
    """
    from palm_cache.store.prune import store_waste

    stores = _stores(where)
    _clear_out(stores, store_waste(stores), yes, as_json)


@takes(where=(Params, ("features",)), resources=(Resources, ("cache",)))
def cache_info(where: Params, resources: Resources, as_json: Json = False) -> None:
    """Show what is cached for every recipe.

    That is the number of contents, their size, and the stores made of them. A recipe is an encoder with its
    weights and options.

    Example: palm-cache cache info
    """
    from palm_cache.store.prune import known_recipes

    stores, folder = _features_and_cache(where, resources)
    recipes = known_recipes(folder, stores)
    if as_json:
        print_json({"cache": str(folder), "recipes": [asdict(recipe) for recipe in recipes]})
        return
    print_table(
        ("recipe", "encoder", "contents", "size", "stores"),
        [
            [
                recipe.name[:14],
                _describe(recipe),
                f"{recipe.contents:,}",
                megabytes(recipe.bytes),
                ", ".join(recipe.used_by),
            ]
            for recipe in recipes
        ],
    )
    tell(
        f"{counted(len(recipes), 'recipe')}, {megabytes(sum(recipe.bytes for recipe in recipes))} -> {folder}"
    )


@takes(where=(Params, ("features",)), resources=(Resources, ("cache",)))
def cache_prune(
    where: Params,
    resources: Resources,
    recent: Annotated[
        bool,
        typer.Option(
            "--recent", help="Also what was written in the last hour: no extraction may be running."
        ),
    ] = False,
    unpacked_of: Annotated[
        Path,
        typer.Option(
            help="Also what was unpacked of datasets in this folder or below that are not there any more.",
            metavar="DIR",
            show_default="this folder",
        ),
    ] = Path(),
    yes: YesOption = False,
    as_json: Json = False,
) -> None:
    """List what is cached but in no feature store; remove it if told to.

    What goes would have to be embedded again. An extraction makes its store when all is embedded. Until then,
    what one has done that was killed is listed too, with its age. What was written in the last hour is left
    out: an extraction may be at it. What killed processes left of files that they wrote is listed too.

    Clips from Parquet and tar files are unpacked into one place for all projects. They are listed where the
    dataset lay below this folder and is gone; --unpacked-of names another folder, such as a drive that you
    have given away.

    Example: palm-cache cache prune
    """
    from palm_cache.extraction.datasets.members import members_waste
    from palm_cache.store.prune import cache_waste, known_recipes

    stores, folder = _features_and_cache(where, resources)
    known = known_recipes(folder, stores)
    idle = [recipe for recipe in known if recent or not recipe.may_be_in_work]
    waste = [*cache_waste(idle, folder), *members_waste(unpacked_of)]
    if in_work := len(known) - len(idle):
        note(
            f"{counted(in_work, 'recipe')} left out, written to in the last hour: an extraction may be "
            "at it (--recent lists all)"
        )
    doubtful = [recipe for recipe in idle if recipe.unread and not recipe.is_used]
    if doubtful:
        note(
            f"{counted(len(doubtful), 'recipe')} left out: {doubtful[0].unread[0]} cannot be read and "
            "may be made of them; mend it, or remove it with: palm-cache store gc"
        )
    _clear_out(folder, waste, yes, as_json)


def _stores(where: Params) -> Place:
    """Return the folder of stores; one that is misspelt does not pass for empty."""
    from palm_cache.store.nearby import folder_given, respelt

    stores = folder_given(where.features, "features")
    if isinstance(stores, Path) and (meant := respelt(stores)):
        raise StoreError(f"{stores}: no such folder; {did_you_mean(meant)}")
    return stores


def _features_and_cache(where: Params, resources: Resources) -> tuple[Place, Place]:
    from palm_cache.store.find import cache_of

    stores = _stores(where)
    return stores, cache_of(stores, cache=resources.cache)


def _describe(cached: CachedRecipe) -> str:
    recipe = cached.recipe
    if not recipe:
        return f"{cached.kind}; its recipe.json is damaged"
    options = [str(recipe[key]) for key in ("precision", "runtime") if key in recipe]
    usual = {"views": Recipe().views, "long": Recipe().long}
    more = [f"{key} {recipe[key]}" for key in usual if recipe.get(key, usual[key]) != usual[key]]
    return ", ".join([str(recipe.get("encoder", "file hashes")), *options, *more])


def _clear_out(where: Place, waste: list[Waste], yes: bool, as_json: bool) -> None:
    """Show what is of no use, ask, and remove it."""
    from palm_cache.store.prune import remove_waste

    if waste and not as_json:
        print_table(
            ("place", "files", "size", "why"),
            [[str(item.place), f"{len(item.files):,}", megabytes(item.bytes), item.why] for item in waste],
        )
    total = megabytes(sum(item.bytes for item in waste))
    asked = f"Remove these {len(waste)} ({total})?"
    removed = waste if waste and (yes or (not as_json and agreed(asked))) else []
    for item in removed:
        remove_waste(item)
    if as_json:
        rows = [{**asdict(item), "place": str(item.place)} for item in waste]
        print_json({"waste": rows, "removed": len(removed)})
    elif removed:
        tell(f"{len(removed)} removed, {total}")
    else:
        tell("nothing removed; --yes removes it" if waste else f"{where}: nothing to remove")


def megabytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"
