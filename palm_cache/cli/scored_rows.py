"""What a head says of rows of feature stores: the part of ``predict`` that listens to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palm_cache.cli.checks import require_heads
from palm_cache.cli.chosen_run import about, say_which
from palm_cache.cli.loading import load
from palm_cache.cli.terminal import say, tell
from palm_cache.errors import counted
from palm_cache.params.use import LoadingParams


def show_rows(
    heads: str,
    stores: Sequence[str],
    run: str | None,
    loading: LoadingParams,
    threshold: float,
    top: int,
    csv: Path | None,
    parquet: Path | None,
    as_json: bool,
) -> str:
    """Show what a head says of every row of some stores; return what is to be said of rows left out."""
    require_heads(heads)
    load("palm_cache.prediction.rows")
    from palm_cache.cli.results import ResultFormat, result_writer
    from palm_cache.prediction.rows import score_rows, write_parquet
    from palm_cache.prediction.sources import find_heads
    from palm_cache.store.places import place

    source = find_heads(heads)
    rows = score_rows(source.file, [place(address) for address in stores], run, loading)
    head = rows.head
    say_which(source, run, head)
    shown = parquet is None or csv is not None or as_json
    if parquet is not None:
        write_parquet(rows.table(threshold), parquet)
        (say if shown else tell)(f"{counted(len(rows.paths), 'row')} -> {parquet}")
    if shown:
        top = min(top, len(head.class_names))
        shape = ResultFormat(head.class_names, top, threshold, over_time=rows.over_time)
        said = about(source, head, threshold, stores=list(stores)) if as_json else None
        with result_writer(shape, rows.paths, csv, said) as write:
            for result in rows.results():
                write(result)
    for row, reason in rows.errors.items():
        say(f"failed {rows.paths[row]}: {reason}")
    if not rows.errors:
        return ""
    of_all = f"of {counted(len(rows.paths), 'row')}"
    return f"{counted(len(rows.errors), f'{of_all} has', f'{of_all} have')} no embedding"
