"""Commands around extraction: encoders, synthesise, extract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.completion import complete_encoder
from palm_cache.cli.loading import load
from palm_cache.cli.options import DatasetsOption, ParamsOption, RootOption, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.terminal import Json, as_typed, note, print_json, print_table, say, tell
from palm_cache.errors import AbsentDatasetError, counted
from palm_cache.params import Params
from palm_cache.types.stretches import failure_lines

if TYPE_CHECKING:
    from palm_cache.extraction.extract import Extractor
    from palm_cache.types import ClipTable, Place

FAILURES_LISTED = 20
"""Lines of failed clips that ``extract`` lists; ``store info`` lists all."""

CLIPS_NAMED = 3
"""Files of a group that ``extract --dry-run`` names; with ``--json`` it names all."""


def encoders(
    name: Annotated[
        str | None,
        typer.Argument(help="One of them, for its card.", metavar="NAME", autocompletion=complete_encoder),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the encoders, or show one's card.

    Those that installed packages bring are among them.

    Example: palm-cache encoders clap
    """
    from palm_cache.extraction.encoders.registry import card_named, cards

    shown = [card_named(name)] if name else cards()
    if as_json:
        content = [asdict(card) for card in shown]
        print_json(content[0] if name else content)
    elif name:
        rows = [[key.replace("_", " "), str(value)] for key, value in asdict(shown[0]).items()]
        print_table(("", name), rows)
    else:
        print_table(
            ("encoder", "ask for it with", "what it is", "reads text", "window", "dim", "licence", "needs"),
            [
                [
                    *(card.name, card.spec, card.description, "yes" if card.reads_text else "no"),
                    *(card.window, card.dim, card.licence, card.needs or "nothing more"),
                ]
                for card in shown
            ],
        )


@takes(settings=(Params, ("synthesise",)))
def synthesise(
    settings: Params,
    out: Annotated[Path, typer.Option(help="The folder to make.", metavar="DIR")] = Path("data/raw/demo"),
    params: ParamsOption = None,
) -> None:
    """Make the demo dataset: synthetic city sounds.

    The folder has UrbanSound8K's own layout.

    Example: palm-cache synthesise
    """
    from palm_cache.extraction.datasets.demo import synthesise as make

    with progress_bar("clips") as progress:
        sounds = settings.synthesise
        new = make(
            out,
            clips_per_class=sounds.clips_per_class,
            seed=sounds.seed,
            progress=lambda done, total: progress("synthesising", done, total),
        )
    tell(f"{counted(10 * sounds.clips_per_class, 'clip')} {'->' if new else 'are already in'} {out}")


@takes(settings=(Params, ("encoder", "features", "reading", "prompts", "extract", "resources")))
def extract(
    settings: Params,
    dataset: DatasetsOption = None,
    root: RootOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="The store to write: a folder or a URL.",
            metavar="PLACE",
            show_default="<features>/<dataset>/<encoder>.zarr",
        ),
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
    """Embed every clip and class name of a dataset once.

    The result is a feature store. What is embedded goes to the cache within seconds and is never computed
    again: an interrupted command resumes, and other datasets with the same sounds take it from there.

    Clips that cannot be read are listed, recorded in the store and left out: the exit code is 0 unless none
    could be embedded. With --on-error fail the first ends the command with 1.

    Of several datasets those that are not here are skipped with a note. --runtime, --precision and --compile
    make it quicker; palm-cache bench extract says by how much.

    Example: palm-cache extract --dataset demo
    """
    if dataset is None and params is None:
        raise typer.BadParameter("say which dataset (see: palm-cache datasets)", param_hint="--dataset")
    settings = replace(settings, datasets=tuple(dataset or settings.datasets))
    several = len(settings.datasets) > 1
    of_one = {"--root": root, "--out": out, "--descriptions": settings.prompts.descriptions}
    for option, value in of_one.items():
        if several and value:
            raise typer.BadParameter("goes with one dataset", param_hint=option)
    tables, absent = _read_tables(settings, root, out, strict)
    shown = _extract_all(tables, settings, out, dry_run, as_json)
    if as_json:
        print_json({"stores": shown, "absent": absent} if several else shown[0])
    if any(map(_all_failed, shown)):
        say("error: none of the clips could be embedded; the reasons are above")
        raise typer.Exit(1)


def _read_tables(
    settings: Params, root: str | None, out: str | None, strict: bool
) -> tuple[list[ClipTable], list[str]]:
    """Read the tables of datasets; of several, also return which are not here."""
    from palm_cache.extraction.datasets.registry import read_dataset
    from palm_cache.extraction.known_files import known_contents
    from palm_cache.store.find import cache_of
    from palm_cache.store.places import place

    resources, features = settings.resources, place(settings.features)
    cache = cache_of(features, place(out) if out else None, resources.cache)
    read = partial(
        read_dataset,
        root=place(root) if root else None,
        strict=strict,
        reading=settings.reading,
        features=features,
        contents=known_contents(cache, resources.check),
    )
    names, tables = settings.datasets, []
    absent: dict[str, str] = {}
    for name in names:
        try:
            tables.append(read(name))
        except AbsentDatasetError as error:
            if len(names) == 1:
                raise
            absent[name] = error.message
    if not tables:
        none = f"none of the {counted(len(names), 'dataset')} is here: {', '.join(names)}"
        raise AbsentDatasetError(f"{none}; palm-cache datasets NAME says how to get one")
    note(*(f"skipped: {reason}" for reason in absent.values()))
    return tables, list(absent)


def _extract_all(
    tables: list[ClipTable], settings: Params, out: str | None, dry_run: bool, as_json: bool
) -> list[dict[str, object]]:
    """Extract datasets, or say what would be done, with one loaded encoder."""
    load("palm_cache.extraction.extract")
    from palm_cache.extraction.datasets.registry import identity_of
    from palm_cache.extraction.extract import Extractor
    from palm_cache.extraction.prompts import Prompts
    from palm_cache.store.find import address_of
    from palm_cache.store.places import place

    features, shown = place(settings.features), []
    prompts = Prompts.read(settings.prompts)
    with Extractor(settings.encoder, settings.extract, settings.resources, prompts) as extractor:
        for table in tables:
            where = address_of(
                table.dataset,
                identity_of(table),
                settings.encoder,
                features=features,
                out=place(out) if out else None,
                cache=settings.resources.cache,
            )
            if where.dataset != table.dataset:
                note(f"another dataset is called {table.dataset}; this one is {where.dataset}")
            note(*table.notes)
            act = _plan_table if dry_run else _extract_table
            lines, value = act(extractor, replace(table, dataset=where.dataset), where.store, where.cache)
            shown.append(value)
            if not as_json:
                tell(*lines)
    return shown


def _extract_table(
    extractor: Extractor, table: ClipTable, out: Place, cache: Place
) -> tuple[list[str], dict[str, object]]:
    """Extract one dataset, tell what was skipped, and return the result as lines and as value."""
    with progress_bar("clips") as progress:
        extraction = extractor.extract(table, out, cache, progress)
    note(*extraction.notes[len(table.notes) :])  # those of the table were told before the work
    lines = failure_lines(extraction.failures)
    for line in lines[:FAILURES_LISTED]:
        say(f"skipped {line}")
    if more := len(lines[FAILURES_LISTED:]):
        say(f"and {more} more; all of them: palm-cache store info {out}")
    failed = f", {len(extraction.failures)} skipped" if extraction.failures else ""
    kept = extraction.n_clips - extraction.embedded - len(extraction.failures)
    counts = f"{extraction.embedded} embedded now, {kept} known{failed}"
    return [f"{counted(extraction.n_clips, 'clip')} -> {extraction.store} ({counts})"], {
        **asdict(extraction),
        "store": str(extraction.store),
        "notes": as_typed(extraction.notes),
    }


def _all_failed(extracted: Mapping[str, object]) -> bool:
    failures = extracted.get("failures")
    return isinstance(failures, tuple) and len(failures) == extracted["n_clips"]


def _plan_table(
    extractor: Extractor, table: ClipTable, out: Place, cache: Place
) -> tuple[list[str], dict[str, object]]:
    """Return what an extraction of one dataset would do, as lines and as value."""
    with progress_bar("clips") as progress:
        plan = extractor.plan(table, out, cache, progress)
    note(*plan.notes)
    lines = [f"{counted(plan.n_clips, 'clip')} -> {plan.store} ({plan.to_embed} to embed, {plan.kept} known)"]
    if plan.stale:
        lines += as_typed([f"  stale: {plan.stale}; `on_stale` rebuild makes it anew"])
    if plan.other_text:
        lines.append(f"  {plan.other_text} than before: text is embedded anew")
    groups = dict(zip(as_typed(plan.groups), plan.groups.values(), strict=True))
    gone = {"in the store, no more in the dataset": plan.gone} if plan.gone else {}
    for why, names in {**groups, **gone}.items():
        files = [f"{name} ({n} rows)" if n > 1 else name for name, n in Counter(names).items()]
        more = f" and {len(files) - CLIPS_NAMED} more" if len(files) > CLIPS_NAMED else ""
        lines.append(f"  {len(names)} {why}: {', '.join(files[:CLIPS_NAMED])}{more}")
    return lines, {
        **asdict(plan),
        "store": str(plan.store),
        "groups": groups,
        "to_embed": plan.to_embed,
        "kept": plan.kept,
        "notes": as_typed(plan.notes),
    }
