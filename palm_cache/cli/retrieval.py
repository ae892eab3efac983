"""The command that searches feature stores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palm_cache.cli.checks import check_searched_stores, not_both, replaces
from palm_cache.cli.completion import complete_store
from palm_cache.cli.loading import load
from palm_cache.cli.options import takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.results import harmless
from palm_cache.cli.terminal import Json, note, print_json, print_table, put, say, tell
from palm_cache.errors import counted
from palm_cache.params.use import LoadingParams, RowFilter, SearchParams
from palm_cache.store.atomic import replacing
from palm_cache.store.outputs import FOUND, FOUND_PAGE, heading
from palm_cache.types.stretches import stretch_text

if TYPE_CHECKING:
    from palm_cache.retrieval.find import SearchResult

StoresArgument = Annotated[
    list[str],
    typer.Argument(
        help="Feature stores of one encoder and the same options.",
        metavar="STORE...",
        autocompletion=complete_store,
        callback=check_searched_stores,
    ),
]


@takes(question=SearchParams, rows=RowFilter, loading=LoadingParams)
def search(
    question: SearchParams,
    rows: RowFilter,
    loading: LoadingParams,
    stores: StoresArgument,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            help="Write CSV to this file; - is standard output.",
            metavar="FILE",
            callback=replaces(FOUND),
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with sounds and spectrograms inside.",
            metavar="FILE",
            callback=replaces(FOUND_PAGE),
        ),
    ] = None,
    copy: Annotated[
        Path | None,
        typer.Option(help="Copy the sounds into this folder; nothing there is overwritten.", metavar="DIR"),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(
            help="The dataset's folder, if its files have moved.",
            show_default="as at extraction",
            metavar="DIR",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find rows of feature stores, by text, by example or by a head.

    One of --text, --like, --row, --head and --diverse says what to look for. Every row is looked at, so the
    answer is exact; a million rows take about a second.

    An output replaces an earlier one of its kind, and no other file.

    Examples: palm-cache search data/features/demo/mini.zarr --text "a dog barks" --html found.html

    palm-cache search data/features/demo/mini.zarr --head runs/demo/mini --class siren
    """
    not_both(csv=csv, as_json=as_json)
    load("palm_cache.retrieval.find")
    from palm_cache.retrieval.find import search as find

    result = find(stores, **asdict(question), **asdict(rows), **asdict(loading), audio=audio)
    note(*result.remarks)
    # First of all: whatever becomes of pages and copies, what was found is told.
    try:
        _show(result, csv, as_json)
    finally:  # though standard output takes nothing: files are results of their own
        _write_files(result, html, copy)


def _write_files(result: SearchResult, html: Path | None, copy: Path | None) -> None:
    if html is not None:
        from palm_cache.explore.found import write_found

        with progress_bar("rows") as progress:
            write_found(result, html, progress)
        say(f"{counted(len(result.table), 'row')} -> {html}")
    if copy is not None:
        from palm_cache.retrieval.copies import copy_found

        copies = copy_found(result, copy)
        note(*copies.notes)
        say(f"{counted(len(copies.files), 'file')} -> {copy}")


def _show(result: SearchResult, csv: Path | None, as_json: bool) -> None:
    table = result.table
    if as_json:
        files = [None if file is None else str(file) for file in result.files]
        results = [row | {"file": file} for row, file in zip(result.records(), files, strict=True)]
        print_json({"query": result.query, "measure": result.measure, "results": results})
    elif csv is not None:
        texts = {name: table[name].map(_cell) for name in ("dataset", "path", "label", "note")}
        rows = table.assign(**texts).to_csv(index=False, header=False, lineterminator="\n")
        content = heading(list(table.columns)) + rows
        if str(csv) == "-":
            put(content)
        else:
            with replacing(csv, "csv", FOUND) as temporary:
                temporary.write_text(content, encoding="utf-8")
            say(f"{counted(len(table), 'row')} -> {csv}")
    else:
        tell(result.query)
        _print_rows(result)


def _print_rows(result: SearchResult) -> None:
    rows = [_cells(row, result.measure) for row in result.records()]
    headings = list(rows[0])
    if len({row["dataset"] for row in rows}) == 1:
        headings.remove("dataset")
    if not any(row["note"] for row in rows):
        headings.remove("note")
    cells = [[row[name] for name in headings] for row in rows]
    print_table(headings, cells, keep=headings.index("path") + 1)


def _cells(row: dict[str, Any], measure: str) -> dict[str, str]:
    return {
        measure: f"{row['score']:.3f}",
        "dataset": row["dataset"],
        "row": str(row["row"]),
        "path": row["path"],
        "stretch": stretch_text(row["start"], row["end"]),
        "label": row["label"] or "",
        "note": row["note"],
    }


def _cell(value: object) -> object:
    return harmless(value) if isinstance(value, str) else value
