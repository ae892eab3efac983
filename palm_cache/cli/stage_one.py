"""Commands around extraction: encoders, synthesise, extract, store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.datasets import complete_dataset, datasets, download
from palm_cache.cli.terminal import Json, one_line_errors, print_json, print_table, progress_bar, say
from palm_cache.errors import AbsentDatasetError
from palm_cache.params import CLIP_TOKENIZER, Params, override, read_params

if TYPE_CHECKING:
    from palm_cache.extraction.extract import Extraction
    from palm_cache.params import ExtractParams
    from palm_cache.types import ClipTable

FAILURES_LISTED = 20
"""Failed clips that ``extract`` lists; ``store info`` lists all."""


def complete_encoder(incomplete: str) -> list[tuple[str, str]]:
    """Return the encoders that begin like this, with what they are."""
    from palm_cache.extraction.encoders.registry import CARDS

    return [(card.example, card.description) for card in CARDS if card.example.startswith(incomplete)]


DatasetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        help="A known dataset (see: palm-cache datasets) or a folder with audios/, train.csv and test.csv; "
        "give it again for more.",
        metavar="NAME_OR_DIR",
        autocompletion=complete_dataset,
    ),
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="mini; clap: with a hub id or a directory behind it; pengi: with a checkpoint file.",
        metavar="SPEC",
        show_default="mini",
        autocompletion=complete_encoder,
    ),
]
EncodersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        help="As of extract; give it twice to join the features of two encoders, e.g. for muka.",
        metavar="SPEC",
        show_default="mini",
        autocompletion=complete_encoder,
    ),
]
FeaturesOption = Annotated[
    Path | None,
    typer.Option("--features", help="The folder of feature stores.", show_default=Params().features),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="CLIP's tokenizer for pengi: a hub id or a directory.",
        metavar="ID_OR_DIR",
        show_default=CLIP_TOKENIZER,
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", show_default="auto")
]
ParamsOption = Annotated[
    Path | None,
    typer.Option("--params", help="Take options from this YAML file; the command line wins.", metavar="FILE"),
]
StoreArgument = Annotated[Path, typer.Argument(help="A feature store, e.g. data/features/demo/mini.zarr.")]


def encoders(as_json: Json = False) -> None:
    """List the encoders: how to ask for them and where their weights come from."""
    from palm_cache.extraction.encoders.registry import CARDS

    if as_json:
        print_json([asdict(card) for card in CARDS])
        return
    print_table(
        ("encoder", "ask for it with", "what it is", "source"),
        [[card.name, card.spec, card.description, card.source] for card in CARDS],
    )


def synthesise(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("data/raw/demo"),
    clips_per_class: Annotated[
        int | None, typer.Option(help="Clips of each of the ten classes.", show_default="40")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, other sounds.", show_default="0")] = None,
    params: ParamsOption = None,
) -> None:
    """Make the demo dataset: synthetic city sounds in UrbanSound8K's own layout."""
    from palm_cache.extraction.datasets.demo import synthesise as make

    with one_line_errors(), progress_bar("clips") as progress:
        wanted = (read_params(params) if params else Params()).synthesise
        what = override(wanted, clips_per_class=clips_per_class, seed=seed)
        make(
            out,
            clips_per_class=what.clips_per_class,
            seed=what.seed,
            progress=lambda done, total: progress("synthesising", done, total),
        )
    typer.echo(f"{10 * what.clips_per_class} clips -> {out}")


def extract(
    dataset: DatasetsOption = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Where a dataset known by name lies.", show_default="data/raw/<Name>"),
    ] = None,
    encoder: EncoderOption = None,
    tokenizer: TokenizerOption = None,
    features: FeaturesOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The store to write.", show_default="<features>/<dataset>/<encoder>.zarr"),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(help="Crops per clip that is longer than the encoder's window.", show_default="1"),
    ] = None,
    device: DeviceOption = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.", show_default="fp32")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips per encoder call.", show_default="16")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes, each with its own loaded encoder.", show_default="1")
    ] = None,
    on_error: Annotated[
        str | None,
        typer.Option(help="A clip that cannot be read: skip (and record) or fail.", show_default="skip"),
    ] = None,
    on_stale: Annotated[
        str | None,
        typer.Option(help="A store made otherwise: refuse or rebuild.", show_default="refuse"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop where a dataset is not what its card says.")
    ] = False,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Embed every clip and class name of a dataset once, and keep the result in a feature store.

    Safe to interrupt and to run again: what is finished and unchanged is never computed twice. Of several
    datasets those that are not here are named and passed over.

    Example: palm-cache extract --dataset demo
    """
    from palm_cache.store.layout import store_path

    if dataset is None and params is None:
        raise typer.BadParameter("say which dataset (see: palm-cache datasets)", param_hint="--dataset")
    with one_line_errors("finished chunks are kept; run the same command again to go on"):
        wanted = override(
            read_params(params) if params else Params(),
            datasets=tuple(dataset) if dataset else None,
            encoder=encoder,
            features=str(features) if features else None,
        )
        how = override(
            wanted.extract,
            views=views,
            device=device,
            tokenizer=tokenizer,
            precision=choice("--precision", precision, ("fp32", "bf16")),
            batch_size=batch_size,
            jobs=jobs,
            on_error=choice("--on-error", on_error, ("skip", "fail")),
            on_stale=choice("--on-stale", on_stale, ("refuse", "rebuild")),
        )
        several = len(wanted.datasets) > 1
        if several and (root or out):
            raise typer.BadParameter("goes with one dataset", param_hint="--root" if root else "--out")
        tables, absent = _read_tables(wanted.datasets, root, strict)
        done = []
        for table in tables:
            place = out or store_path(Path(wanted.features), table.dataset, wanted.encoder)
            done.append(_extract_table(table, wanted.encoder, place, how))
            if not as_json:
                typer.echo(_summary(done[-1]))
    if as_json:
        stores = [{**asdict(one), "store": str(one.store)} for one in done]
        print_json({"stores": stores, "absent": absent} if several else stores[0])


def _read_tables(
    names: tuple[str, ...], root: Path | None, strict: bool
) -> tuple[list[ClipTable], list[str]]:
    """Read the tables of datasets; of several, also return which are not here."""
    from palm_cache.extraction.datasets.registry import read_dataset

    tables, absent = [], []
    for name in names:
        try:
            tables.append(read_dataset(name, root, strict=strict))
        except AbsentDatasetError as error:
            if len(names) == 1:
                raise
            say(f"note: passed over: {error}")
            absent.append(name)
    if not tables:
        raise AbsentDatasetError(f"none of the {len(names)} datasets is here: {', '.join(names)}")
    return tables, absent


def _extract_table(table: ClipTable, encoder: str, place: Path, how: ExtractParams) -> Extraction:
    """Extract one dataset under a progress bar and tell what was skipped."""
    for note in table.notes:
        say(f"note: {note}")

    from palm_cache.extraction.extract import extract as run

    with progress_bar("clips") as progress:
        done = run(table, encoder, place, how, progress=progress)
    for note in done.notes[len(table.notes) :]:  # those of the table were told before the work
        say(f"note: {note}")
    for name, reason in done.failures[:FAILURES_LISTED]:
        say(f"skipped {name}: {reason}")
    if len(done.failures) > FAILURES_LISTED:
        more = len(done.failures) - FAILURES_LISTED
        say(f"and {more} more; all of them: palm-cache store info {place}")
    return done


def _summary(done: Extraction) -> str:
    failed = f", {len(done.failures)} skipped" if done.failures else ""
    kept = done.n_clips - done.embedded - len(done.failures)
    return (
        f"{done.n_clips} clips -> {done.store} ({done.embedded} embedded now, {kept} already there{failed})"
    )


def store_info(store: StoreArgument, as_json: Json = False) -> None:
    """Show what a feature store holds and how it was made."""
    from palm_cache.store.features import FeatureStore

    with one_line_errors():
        opened = FeatureStore(store)
        header = asdict(opened.header)
        missing = opened.missing()
        failures = opened.failures()
        folds = [{"train": len(fold.train), "test": len(fold.test)} for fold in opened.folds()]
    if as_json:
        chunks = {"clips": opened.n_clips, "chunks": opened.n_chunks, "missing_chunks": missing}
        print_json({"store": str(store), **header, **chunks, "failures": failures, "folds": folds})
        return
    typer.echo(f"{store}")
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
        typer.echo(f"  {key.replace('_', ' ')}: {header[key]}")
    typer.echo(f"  clips: {opened.n_clips} in {opened.n_chunks} chunks, {len(missing)} chunks missing")
    typer.echo(f"  classes: {', '.join(header['class_names'])}")
    typer.echo("  folds: " + ", ".join(f"{fold['train']} train / {fold['test']} test" for fold in folds))
    typer.echo("  templates: " + "; ".join(repr(template) for template in header["templates"]))
    typer.echo("  made with: " + ", ".join(f"{name} {number}" for name, number in header["versions"].items()))
    typer.echo(f"  clips without an embedding: {len(failures)}")
    for name, reason in failures:
        typer.echo(f"    {name}: {reason}")


def store_verify(store: StoreArgument, as_json: Json = False) -> None:
    """Check every chunk of a feature store: checksums, finite values, zero vectors. Exit 1 if any fails."""
    from palm_cache.store.features import FeatureStore

    with one_line_errors():
        opened = FeatureStore(store)
        problems = opened.problems()
    if as_json:
        print_json({"store": str(store), "sound": not problems, "problems": problems})
    else:
        for problem in problems:
            typer.echo(problem)
        if not problems:
            typer.echo(f"{store}: sound; {opened.n_clips} clips in {opened.n_chunks} chunks")
    if problems:
        say("repair it with the palm-cache extract command that made it: only what is damaged is done again")
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands of stage one."""
    panel = "Stage one: audio to embeddings"
    app.command(rich_help_panel=panel)(datasets)
    app.command(rich_help_panel=panel)(download)
    app.command(rich_help_panel=panel)(encoders)
    app.command(rich_help_panel=panel)(synthesise)
    app.command(rich_help_panel=panel)(extract)
    store = typer.Typer(no_args_is_help=True, help="Look at and check feature stores.")
    store.command("info")(store_info)
    store.command("verify")(store_verify)
    app.add_typer(store, name="store", rich_help_panel=panel)


def choice(option: str, value: str | None, known: tuple[str, ...]) -> str | None:
    """Return an option's value if it is one of those known."""
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=option)
    return value
