"""The command that searches feature stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palm_cache.cli.checks import check_heads_file, check_stores
from palm_cache.cli.completion import complete_store
from palm_cache.cli.loading import load
from palm_cache.cli.options import SameEncoderOption, choices, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.results import harmless
from palm_cache.cli.terminal import Json, print_json, print_table, put, say, tell
from palm_cache.params import Doubt, LoadingParams, override

if TYPE_CHECKING:
    from palm_cache.retrieval.find import SearchResult

StoresArgument = Annotated[
    list[str],
    typer.Argument(
        help="Feature stores of one encoder and the same options.",
        metavar="STORE...",
        autocompletion=complete_store,
        callback=check_stores,
    ),
]

ASKED, KEPT, GIVEN = "What to look for: one of these", "Which rows", "Where results go"


@takes(loading=LoadingParams)
def search(
    loading: dict[str, object],
    stores: StoresArgument,
    text: Annotated[
        str | None,
        typer.Option(
            help="Rows that sound like a text: 'glass breaking'.", metavar="TEXT", rich_help_panel=ASKED
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            help="Rows that sound like a file or a stretch of it, in seconds: night.flac@12.5-15.",
            metavar="FILE",
            rich_help_panel=ASKED,
        ),
    ] = None,
    row: Annotated[
        str | None,
        typer.Option(
            help="Rows that sound like a row of the store; of several stores DATASET:NUMBER.",
            metavar="NUMBER",
            rich_help_panel=ASKED,
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(
            help="A heads.h5, or its folder: rows of a --class, or that it is --uncertain about.",
            metavar="HEADS",
            rich_help_panel=ASKED,
            callback=check_heads_file,
        ),
    ] = None,
    diverse: Annotated[
        bool,
        typer.Option(
            "--diverse", help="Rows without a label, far from all that have one.", rich_help_panel=ASKED
        ),
    ] = False,
    class_name: Annotated[
        str | None, typer.Option("--class", help="With --head: a class that it knows.", metavar="NAME")
    ] = None,
    uncertain: Annotated[
        bool, typer.Option("--uncertain", help="With --head: rows that it is most in doubt about.")
    ] = False,
    by: Annotated[
        Doubt | None,
        typer.Option(help="How doubt is measured.", metavar=choices(Doubt), show_default="margin"),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="With --head: a run of the file, by its name or the beginning of it.",
            metavar="NAME",
            show_default="as of predict",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top", help="How many rows.", metavar="N", min=1)] = 10,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Only rows of this class; give it again for more.", metavar="CLASS", rich_help_panel=KEPT
        ),
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Only rows without a label.", rich_help_panel=KEPT)
    ] = False,
    path: Annotated[
        str,
        typer.Option(
            help="Only rows whose path fits, e.g. '*/night*'.", metavar="PATTERN", rich_help_panel=KEPT
        ),
    ] = "",
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Only rows of this dataset; give it again for more.", metavar="NAME", rich_help_panel=KEPT
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            help="Write CSV to this file; - is standard output.",
            metavar="FILE",
            rich_help_panel=GIVEN,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with sounds and spectrograms inside.", metavar="FILE", rich_help_panel=GIVEN
        ),
    ] = None,
    copy: Annotated[
        Path | None,
        typer.Option(
            help="Copy the sounds into this folder; nothing there is overwritten.",
            metavar="DIR",
            rich_help_panel=GIVEN,
        ),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(
            help="The dataset's folder, if its files have moved.",
            show_default="as at extraction",
            metavar="DIR",
        ),
    ] = None,
    encoder: SameEncoderOption = None,
    as_json: Json = False,
) -> None:
    """Find rows of feature stores, by text, by example or by a head.

    Or those that are unlike all that is labelled. Every row is looked at, so the answer is exact; a million
    rows take about a second.

    Examples: palm-cache search data/features/demo/mini.zarr --text "a dog barks" --html found.html

    palm-cache search data/features/demo/mini.zarr --head runs/demo/mini --class siren
    """
    doubt: Doubt | None = (by or "margin") if uncertain else None
    if by is not None and not uncertain:
        raise typer.BadParameter("goes with --uncertain", param_hint="--by")
    asked = [text is not None, like is not None, row is not None, head is not None, diverse]
    if sum(asked) != 1:
        raise typer.BadParameter(
            "give one of --text, --like, --row, --head and --diverse", param_hint="search"
        )
    if head is None and (class_name is not None or uncertain or run is not None):
        raise typer.BadParameter("goes with --head", param_hint="--class, --uncertain, --run")
    if head is not None and (class_name is None) != uncertain:
        raise typer.BadParameter("needs --class NAME or --uncertain", param_hint="--head")
    if csv is not None and as_json:
        raise typer.BadParameter("give --csv or --json, not both", param_hint="--csv")
    load("palm_cache.retrieval.find")
    from palm_cache.retrieval.find import search as find

    loaded = override(LoadingParams(), **loading)
    result = find(
        stores,
        text=text,
        like=like,
        row=row,
        head=head,
        class_name=class_name,
        uncertain=doubt,
        diverse=diverse,
        k=k,
        labels=label or (),
        unlabelled=unlabelled,
        path=path,
        datasets=dataset or (),
        run=run,
        audio=audio,
        encoder=encoder,
        device=loaded.device,
        tokenizer=loaded.tokenizer,
        trust_remote_code=loaded.trust_remote_code,
    )
    notes = [*result.remarks]
    if html is not None:
        from palm_cache.explore.found import write_found

        with progress_bar("rows") as progress:
            write_found(result, html, progress)
    if copy is not None:
        from palm_cache.retrieval.copies import copy_found

        copies = copy_found(result, copy)
        notes += [f"{len(copies.written)} file(s) -> {copy}", *copies.notes]
    _show(result, csv, as_json)
    for note in notes:
        say(f"note: {note}")
    if html is not None:
        say(f"{len(result.table)} row(s) -> {html}")


def _show(result: SearchResult, csv: Path | None, as_json: bool) -> None:
    table = result.table
    if as_json:
        files = [None if file is None else str(file) for file in result.files]
        results = [row | {"file": file} for row, file in zip(result.records(), files, strict=True)]
        print_json({"query": result.query, "measure": result.measure, "results": results})
    elif csv is not None:
        texts = {name: table[name].map(_cell) for name in ("dataset", "path", "label", "note")}
        content = table.assign(**texts).to_csv(index=False, lineterminator="\n")
        if str(csv) == "-":
            put(content)
        else:
            from palm_cache.store.atomic import replacing

            with replacing(csv) as temporary:
                temporary.write_text(content, encoding="utf-8")
    else:
        several = table["dataset"].nunique() > 1
        noted = bool(table["note"].any())
        headings = [
            result.measure,
            *["dataset"] * several,
            "row",
            "path",
            "stretch",
            "label",
            *["note"] * noted,
        ]
        tell(result.query)
        print_table(headings, [_cells(row, several, noted) for row in result.records()])


def _cell(value: object) -> object:
    return harmless(value) if isinstance(value, str) else value


def _cells(row: dict[str, Any], several: bool, noted: bool) -> list[str]:
    start, end = row["start"], row["end"]
    stretch = f"{start:g}-{'' if end is None else f'{end:g}'} s" if start or end else ""
    return [
        f"{row['score']:.3f}",
        *[row["dataset"]] * several,
        str(row["row"]),
        row["path"],
        stretch,
        row["label"] or "",
        *[row["note"]] * noted,
    ]
