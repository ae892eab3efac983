"""Commands around adaptation: heads, fit, evaluate, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.stage_one import DatasetOption, EncoderOption, ParamsOption
from palm_cache.cli.terminal import Json, one_line_errors, print_json, print_table, progress_bar, say
from palm_cache.params import FitParams, Params, override, read_params
from palm_cache.store.layout import FEATURES, RUNS, slug, store_path, stores_present

if TYPE_CHECKING:
    import pandas as pd

OutOption = Annotated[Path, typer.Option("--out", help="Where heads, scores and report lie.")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="A feature store that is not at its default place.")
]


def complete_heads(incomplete: str) -> list[str]:
    """Complete the last name of a comma-separated list of heads."""
    from palm_cache.adaptation.heads import HEADS

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in HEADS if name.startswith(last)]


def heads(as_json: Json = False) -> None:
    """List the heads: what each learns and which paper it is from."""
    from palm_cache.adaptation.heads import HEADS

    rows = [
        {"name": head.name, "learns": head.learns, "trained": head.trained, "source": head.source}
        for head in HEADS.values()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("head", "learns", "source"),
        [[str(row["name"]), str(row["learns"]), str(row["source"])] for row in rows],
    )


def fit(
    dataset: DatasetOption = None,
    encoder: EncoderOption = None,
    store: StoreOption = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Heads, comma-separated (see: palm-cache heads).",
            show_default="zero-shot,palm",
            autocompletion=complete_heads,
        ),
    ] = None,
    shots: Annotated[
        str | None, typer.Option(help="Clips per class, comma-separated.", show_default="16")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of draw and start, comma-separated.", show_default="0,1,2")
    ] = None,
    folds: Annotated[str | None, typer.Option(help="Folds, comma-separated.", show_default="all")] = None,
    template: Annotated[
        str | None,
        typer.Option(help="Prompt of zero-shot, with {c} for the class.", show_default="the paper's"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the shots.", show_default="50")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", show_default="0.05")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD.", show_default="0.9")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips per step.", show_default="16")] = None,
    out: OutOption = RUNS,
    evaluate: Annotated[bool, typer.Option(help="Score the heads on their test clips and print it.")] = True,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Train heads on cached embeddings: every head, fold, number of shots and seed.

    Without --dataset it takes every feature store that is present.

    Example: palm-cache fit --shots 8
    """
    with one_line_errors("the heads of finished datasets are kept"):
        wanted = read_params(params) if params else Params()
        how = override(
            wanted.fit,
            heads=_names(head),
            shots=_numbers("--shots", shots),
            seeds=_numbers("--seeds", seeds),
            folds=_numbers("--folds", folds),
            template=template,
            training=override(
                wanted.fit.training, epochs=epochs, lr=lr, momentum=momentum, batch_size=batch_size
            ),
        )
        if params:
            wanted = override(wanted, dataset=dataset, encoder=encoder)
            dataset, encoder = wanted.dataset, wanted.encoder
        stores = [store] if store else _stores(dataset, encoder)
        files = _fit_all(stores, out, how)
        if not evaluate:
            if as_json:
                print_json([str(file) for file in files])
            else:
                for file in files:
                    typer.echo(f"heads -> {file}")
            return
        from palm_cache.adaptation.evaluate import evaluate_files

        with progress_bar("stores") as progress:
            done = evaluate_files(out, files, progress=progress)
    keys = zip(done.scores["dataset"], done.scores["encoder"], strict=True)
    _print_scores(done.scores[[key in done.renewed for key in keys]], as_json)
    if not as_json:
        typer.echo(f"scores -> {out / 'scores.csv'}")


def evaluate(
    out: OutOption = RUNS,
    dataset: DatasetOption = None,
    encoder: EncoderOption = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Score fitted heads on the test clips of their folds.

    Without --dataset it takes every heads file below --out.
    """
    from palm_cache.adaptation.evaluate import evaluate_files

    with one_line_errors("the scores of earlier evaluations are kept"):
        pattern = f"{_known_name(dataset) if dataset else '*'}/{slug(encoder) if encoder else '*'}/heads.h5"
        with progress_bar("heads files") as progress:
            done = evaluate_files(out, sorted(out.glob(pattern)), store=store, progress=progress)
    _print_scores(done.scores, as_json)
    if not as_json:
        typer.echo(f"scores -> {out / 'scores.csv'}")


def report(out: OutOption = RUNS, as_json: Json = False) -> None:
    """Turn scores into a table, figures and a page: OUT/report/report.md."""
    from palm_cache.report.write import write_report

    with one_line_errors():
        page, summary = write_report(out)
    _print_summary(summary, as_json)
    if not as_json:
        typer.echo(f"report -> {page}")


def register(app: typer.Typer) -> None:
    """Add the commands of stage two."""
    panel = "Stage two: embeddings to scores"
    for command in (heads, fit, evaluate, report):
        app.command(rich_help_panel=panel)(command)


def _fit_all(stores: list[Path], out: Path, how: FitParams) -> list[Path]:
    from palm_cache.adaptation.fit import fit_store

    files = []
    with progress_bar("runs") as progress:
        for path in stores:
            done = fit_store(path, out, how, progress=progress)
            files.append(done.heads_file)
            for note in done.notes:
                say(f"note: {note}")
    return files


def _stores(dataset: str | None, encoder: str | None) -> list[Path]:
    """Return the stores of a dataset and encoder, or all that are present."""
    from palm_cache.errors import StoreError

    if dataset is not None:
        return [store_path(_known_name(dataset), encoder or Params().encoder)]
    present = stores_present(encoder)
    if not present:
        which = f" of encoder {encoder}" if encoder else ""
        raise StoreError(
            f"{FEATURES}: no feature store{which} here; "
            "make one with: palm-cache extract --dataset NAME_OR_DIR"
        )
    return present


def _known_name(dataset: str) -> str:
    """Return the name under which a dataset is stored; one that has a store needs no folder."""
    from palm_cache.extraction.datasets.registry import dataset_name

    return dataset if (FEATURES / dataset).is_dir() else dataset_name(dataset)


def _names(value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _numbers(option: str, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(number) for number in value.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is not a comma-separated list of whole numbers", param_hint=option
        ) from None


def _print_scores(scores: pd.DataFrame, as_json: bool) -> None:
    from palm_cache.report.tables import summarise

    _print_summary(summarise(scores), as_json)


def _print_summary(summary: pd.DataFrame, as_json: bool) -> None:
    from palm_cache.report.tables import HEADINGS, format_rows

    if as_json:
        rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
        print_json(rows)
    else:
        print_table(HEADINGS, format_rows(summary))
