"""Commands around feature stores: store info, verify, export, gc, unlock."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.datasets import complete_dataset
from palm_cache.cli.stage_one import (
    PANEL,
    DeviceOption,
    FeaturesOption,
    RootOption,
    TokenizerOption,
    read_tables,
)
from palm_cache.cli.terminal import Json, one_line_errors, print_json, print_table, progress_bar, say, tell
from palm_cache.errors import ParameterError
from palm_cache.params import ExtractParams, Params, override

if TYPE_CHECKING:
    from palm_cache.extraction.garbage import Garbage
    from palm_cache.extraction.verify import Recomputation
    from palm_cache.store.features import FeatureStore
    from palm_cache.types import ClipTable


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
        missing = opened.missing()
        failures = opened.failures()
        folds = [{"train": len(fold.train), "test": len(fold.test)} for fold in opened.folds()]
    if as_json:
        chunks = {"clips": opened.n_clips, "chunks": opened.n_chunks, "missing_chunks": missing}
        print_json({"store": str(store), **header, **chunks, "failures": failures, "folds": folds})
        return
    tell(f"{store}")
    shown = (
        "dataset",
        "encoder",
        "fingerprint",
        "dim",
        "token_dim",
        "sample_rate",
        "seconds",
        "views",
        "view_policy",
    )
    for key in shown:
        tell(f"  {key.replace('_', ' ')}: {header[key]}")
    tell(f"  clips: {opened.n_clips} in {opened.n_chunks} chunks, {len(missing)} chunks missing")
    tell(f"  classes: {', '.join(header['class_names'])}")
    tell("  folds: " + ", ".join(f"{fold['train']} train / {fold['test']} test" for fold in folds))
    tell("  templates: " + "; ".join(repr(template) for template in header["templates"]))
    tell("  made with: " + ", ".join(f"{name} {number}" for name, number in header["versions"].items()))
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
    tokenizer: TokenizerOption = None,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Check every chunk of a feature store: checksums, finite values, zero vectors. Exit 1 if any fails.

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
        if dataset is not None or recompute:
            table = read_tables((dataset or opened.header.dataset,), root)[0][0]
            if dataset is not None:
                problems += _compare(opened, table)
            if recompute:
                how = override(ExtractParams(), device=device, tokenizer=tokenizer)
                again = _recompute(opened, table, recompute, seed, how)
                problems += again.problems
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
            tell(f"{store}: sound; {opened.n_clips} clips in {opened.n_chunks} chunks")
    if problems:
        say("repair it with the palm-cache extract command that made it: only what is damaged is done again")
        raise typer.Exit(1)


def _compare(opened: FeatureStore, table: ClipTable) -> list[str]:
    from palm_cache.extraction.verify import dataset_problems

    with progress_bar("clips") as progress:
        return dataset_problems(opened, table, progress)


def _recompute(
    opened: FeatureStore, table: ClipTable, count: int, seed: int, how: ExtractParams
) -> Recomputation:
    from palm_cache.extraction.encoders.registry import load_encoder_of
    from palm_cache.extraction.verify import recompute

    encoder = load_encoder_of(opened.header, device=how.devices[0], tokenizer=how.tokenizer)
    with progress_bar("clips") as progress:
        return recompute(opened, table, encoder, count, seed, progress)


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
    from palm_cache.store.export import export
    from palm_cache.store.places import place

    with one_line_errors(), progress_bar("clips") as progress:
        count = export(place(store), place(target), progress)
    if as_json:
        print_json({"store": store, "target": target, "n_clips": count})
    else:
        tell(f"{count} clips -> {target}")


def store_gc(
    features: FeaturesOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    as_json: Json = False,
) -> None:
    """List what no dataset or encoder has a use for in a folder of feature stores, and remove it if told to.

    That is: leftovers of extractions that were killed, stores that cannot be read, and stores that no
    extraction can go on with because of their format, encoder, prompts or preprocessing. A store whose
    audio or checkpoint is not here stays.

    Example: palm-cache store gc
    """
    from palm_cache.extraction.garbage import find_garbage, remove_garbage

    with one_line_errors("what was removed is gone, the rest stays"):
        garbage, busy = find_garbage(_local_folder(features or Params().features))
        for store in busy:
            say(f"note: {store} is being written to and was not looked at")
        if garbage and not as_json:
            print_table(
                ("path", "files", "size", "why"),
                [[str(item.path), f"{item.files:,}", megabytes(item.bytes), item.why] for item in garbage],
            )
        removed = remove_garbage(garbage) if garbage and (yes or _agreed(garbage, as_json)) else []
    if as_json:
        rows = [{**asdict(item), "path": str(item.path), "store": str(item.store)} for item in garbage]
        print_json({"garbage": rows, "removed": [str(item.path) for item in removed]})
    elif removed:
        tell(f"{len(removed)} removed, {megabytes(sum(item.bytes for item in removed))}")
    else:
        tell("nothing removed; --yes removes it" if garbage else "nothing to remove")


def _local_folder(features: str) -> Path:
    from palm_cache.store.places import place

    folder = place(features)
    if not isinstance(folder, Path):
        raise ParameterError(f"{features}: gc looks through folders of this machine only")
    return folder


def store_unlock(store: StoreArgument) -> None:
    """Remove the lock of a remote store after a run on another machine was killed.

    The machine that held it takes it over by itself; on this machine's own disks the system frees a dead
    run's lock. Make sure that the run is no more: two writers could mix their results.

    Example: palm-cache store unlock s3://bucket/features/demo/mini.zarr
    """
    from palm_cache.store.locks import unlock
    from palm_cache.store.places import place

    with one_line_errors():
        holder = unlock(place(store))
    tell(f"unlocked; it was held by {holder}" if holder else "there is no lock to remove")


def _agreed(garbage: list[Garbage], as_json: bool) -> bool:
    """Ask whether to remove what was shown, if there is somebody to ask."""
    if as_json or not _somebody_is_there():
        return False
    total = megabytes(sum(item.bytes for item in garbage))
    return typer.confirm(f"Remove these {len(garbage)} ({total})?", err=True)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def megabytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def register(app: typer.Typer) -> None:
    """Add ``store`` and its commands."""
    store = typer.Typer(no_args_is_help=True, help="Look at, check, convert and clear out feature stores.")
    store.command("info")(store_info)
    store.command("verify")(store_verify)
    store.command("export")(store_export)
    store.command("gc")(store_gc)
    store.command("unlock")(store_unlock)
    app.add_typer(store, name="store", rich_help_panel=PANEL)
