"""Commands around extraction: encoders, synthesise, extract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.datasets import complete_dataset, datasets, download
from palm_cache.cli.terminal import Json, one_line_errors, print_json, print_table, progress_bar, say, tell
from palm_cache.errors import AbsentDatasetError
from palm_cache.params import CLIP_TOKENIZER, Params, override, read_params

if TYPE_CHECKING:
    from palm_cache.params import ExtractParams
    from palm_cache.types import ClipTable, Place

PANEL = "Stage one: audio to embeddings"
"""Where help lists these commands."""

FAILURES_LISTED = 20
"""Failed clips that ``extract`` lists; ``store info`` lists all."""

CLIPS_NAMED = 3
"""Clips of a group that ``extract --dry-run`` names; with ``--json`` it names all."""


def complete_encoder(incomplete: str) -> list[tuple[str, str]]:
    """Return the encoders that begin like this, with what they are."""
    from palm_cache.extraction.encoders.registry import CARDS

    return [(card.example, card.description) for card in CARDS if card.example.startswith(incomplete)]


def complete_choice(*known: str) -> Callable[[str], list[str]]:
    """Return what completes one of a few words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return complete


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
RootOption = Annotated[
    str | None,
    typer.Option(
        "--root",
        help="Where a dataset known by name lies: a folder or a URL.",
        metavar="PLACE",
        show_default="data/raw/<Name>",
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
    str | None,
    typer.Option(
        "--features",
        help="The folder of feature stores, or a URL such as s3://bucket/features.",
        metavar="PLACE",
        show_default=Params().features,
    ),
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
    tell(f"{10 * what.clips_per_class} clips -> {out}")


def extract(
    dataset: DatasetsOption = None,
    root: RootOption = None,
    encoder: EncoderOption = None,
    tokenizer: TokenizerOption = None,
    features: FeaturesOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="The store to write: a folder or a URL.",
            metavar="PLACE",
            show_default="<features>/<dataset>/<encoder>.zarr",
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(help="Crops per clip that is longer than the encoder's window.", show_default="1"),
    ] = None,
    long: Annotated[
        str | None,
        typer.Option(
            help="Clips longer than the encoder reads at once: crop their centre, or embed stretches that "
            "cover them and take the mean.",
            show_default="crop",
            autocompletion=complete_choice("crop", "mean"),
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="auto, cpu, cuda, cuda:N or mps; several GPUs with commas between: cuda:0,cuda:1.",
            show_default="auto",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, or bf16: quicker where the hardware has it, with a cosine above 0.9999 to fp32.",
            show_default="fp32",
            autocompletion=complete_choice("fp32", "bf16"),
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="What computes the audio tower: torch, or on a CPU the quicker openvino "
            "(pip install 'palm-cache[openvino]').",
            show_default="torch",
            autocompletion=complete_choice("torch", "openvino"),
        ),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Have torch compile the audio tower first: pays for a minute or two where hours follow.",
            show_default="no",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Clips per encoder call.", show_default="4 on a CPU, 16 on a GPU")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes, each with its own loaded encoder.", show_default="1")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="A Dask or Ray cluster whose workers share the work: dask://HOST:PORT or ray://HOST:PORT.",
            metavar="URL",
            show_default="this process",
        ),
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be embedded and why; write nothing.")
    ] = False,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Embed every clip and class name of a dataset once, and keep the result in a feature store.

    Safe to interrupt and to run again: what is finished and unchanged is never computed twice. Of several
    datasets those that are not here are named and passed over. Files are read ahead while the encoder is
    busy; --runtime, --precision and --compile make it quicker, and palm-cache bench extract says by how much.

    Example: palm-cache extract --dataset demo
    """
    from palm_cache.store.layout import store_path
    from palm_cache.store.places import place

    if dataset is None and params is None:
        raise typer.BadParameter("say which dataset (see: palm-cache datasets)", param_hint="--dataset")
    with one_line_errors("finished chunks are kept; run the same command again to go on"):
        wanted = override(
            read_params(params) if params else Params(),
            datasets=tuple(dataset) if dataset else None,
            encoder=encoder,
            features=features,
        )
        how = override(
            wanted.extract,
            views=views,
            long=choice("--long", long, ("crop", "mean")),
            device=device,
            tokenizer=tokenizer,
            precision=choice("--precision", precision, ("fp32", "bf16")),
            runtime=choice("--runtime", runtime, ("torch", "openvino")),
            compile=compile_,
            batch_size=batch_size,
            jobs=jobs,
            cluster=cluster,
            on_error=choice("--on-error", on_error, ("skip", "fail")),
            on_stale=choice("--on-stale", on_stale, ("refuse", "rebuild")),
        )
        several = len(wanted.datasets) > 1
        if several and (root or out):
            raise typer.BadParameter("goes with one dataset", param_hint="--root" if root else "--out")
        where = place(out or wanted.features)
        tables, absent = read_tables(wanted.datasets, root, strict)
        shown = []
        for table in tables:
            store = where if out else store_path(where, table.dataset, wanted.encoder)
            act = _plan_table if dry_run else _extract_table
            lines, value = act(table, wanted.encoder, store, how)
            shown.append(value)
            if not as_json:
                tell(*lines)
    if as_json:
        print_json({"stores": shown, "absent": absent} if several else shown[0])
    if any(_all_failed(value) for value in shown):
        say("error: none of the clips could be embedded; the reasons are above")
        raise typer.Exit(1)


def read_tables(
    names: tuple[str, ...], root: str | None, strict: bool = False
) -> tuple[list[ClipTable], list[str]]:
    """Read the tables of datasets; of several, also return which are not here."""
    from palm_cache.extraction.datasets.registry import read_dataset
    from palm_cache.store.places import place

    tables, absent = [], []
    for name in names:
        try:
            tables.append(read_dataset(name, place(root) if root else None, strict=strict))
        except AbsentDatasetError as error:
            if len(names) == 1:
                raise
            say(f"note: passed over: {error}")
            absent.append(name)
    if not tables:
        raise AbsentDatasetError(f"none of the {len(names)} datasets is here: {', '.join(names)}")
    return tables, absent


def _extract_table(
    table: ClipTable, encoder: str, out: Place, how: ExtractParams
) -> tuple[list[str], dict[str, object]]:
    """Extract one dataset, tell what was skipped, and return the result as lines and as value."""
    from palm_cache.extraction.extract import extract as run

    for note in table.notes:
        say(f"note: {note}")
    with progress_bar("clips") as progress:
        done = run(table, encoder, out, how, progress=progress)
    for note in done.notes[len(table.notes) :]:  # those of the table were told before the work
        say(f"note: {note}")
    for name, reason in done.failures[:FAILURES_LISTED]:
        say(f"skipped {name}: {reason}")
    if len(done.failures) > FAILURES_LISTED:
        more = len(done.failures) - FAILURES_LISTED
        say(f"and {more} more; all of them: palm-cache store info {out}")
    failed = f", {len(done.failures)} skipped" if done.failures else ""
    kept = done.n_clips - done.embedded - len(done.failures)
    counts = f"{done.embedded} embedded now, {kept} already there{failed}"
    return [f"{done.n_clips} clips -> {done.store} ({counts})"], {**asdict(done), "store": str(done.store)}


def _all_failed(extracted: Mapping[str, object]) -> bool:
    failures = extracted.get("failures")
    return isinstance(failures, tuple) and len(failures) == extracted["n_clips"]


def _plan_table(
    table: ClipTable, encoder: str, out: Place, how: ExtractParams
) -> tuple[list[str], dict[str, object]]:
    """Return what an extraction of one dataset would do, as lines and as value."""
    from palm_cache.extraction.extract import dry_run

    with progress_bar("clips") as progress:
        plan = dry_run(table, encoder, out, how, progress=progress)
    lines = [f"{plan.n_clips} clips -> {plan.store} ({plan.to_embed} to embed, {plan.kept} already there)"]
    if plan.stale:
        lines.append(f"  stale: {plan.stale}; only --on-stale rebuild goes on from here")
    for why, names in plan.groups.items():
        more = f" and {len(names) - CLIPS_NAMED} more" if len(names) > CLIPS_NAMED else ""
        lines.append(f"  {len(names)} {why}: {', '.join(names[:CLIPS_NAMED])}{more}")
    value = {**asdict(plan), "store": str(plan.store), "to_embed": plan.to_embed, "kept": plan.kept}
    return lines, value


def register(app: typer.Typer) -> None:
    """Add the commands of stage one."""
    for command in (datasets, download, encoders, synthesise, extract):
        app.command(rich_help_panel=PANEL)(command)


def choice(option: str, value: str | None, known: tuple[str, ...]) -> str | None:
    """Return an option's value if it is one of those known."""
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=option)
    return value
