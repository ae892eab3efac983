"""Commands around adaptation: heads, fit, evaluate, calibrate, prompts, transfer."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import palm_cache
from palm_cache.cli.checks import not_both, require_results
from palm_cache.cli.completion import complete_dataset, complete_heads
from palm_cache.cli.loading import load
from palm_cache.cli.options import (
    DatasetsOption,
    HeadsArgument,
    HeadsOption,
    OutOption,
    ParamsOption,
    RunOption,
    StoreArgument,
    StoreOption,
    encoder_option,
    takes,
)
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.terminal import Json, note, print_json, print_table, tell
from palm_cache.params import FitParams, Params
from palm_cache.params.use import LoadingParams
from palm_cache.store.layout import RUNS
from palm_cache.types.runs import ALL_SHOTS, spell_shots

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from palm_cache.types import Place

API = "palm_cache.api.adaptation"

FIT_UNITS = {"training": "steps", "calibrating": "runs", "evaluating": "stores"}


@takes(where=(Params, ("encoder", "features")), fit=(FitParams, ("shots",)))
def heads(
    where: Params,
    fit: FitParams,
    name: Annotated[
        str | None, typer.Argument(help="One of them.", metavar="NAME", autocompletion=complete_heads)
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Count the learnable parameters for this dataset's store.",
            metavar="NAME",
            autocompletion=complete_dataset,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the heads, or one: what each learns, and from which paper.

    With --dataset also how many parameters each has.

    Example: palm-cache heads palm
    """
    from palm_cache.adaptation.heads import HEADS, find_head

    sizes = None
    if dataset is not None:
        from palm_cache.store.root import StoreRoot

        shots, *_ = fit.shots
        if isinstance(shots, str):
            raise typer.BadParameter("say how many", param_hint="--shots")
        ((store,), *_), _ = palm_cache.find_stores([dataset], [where.encoder], features=where.features)
        header = StoreRoot(store).header
        n_classes = len(header.class_names)
        sizes = n_classes, header.dim, header.token_dim, n_classes * shots * header.views
    shown = [find_head(name)] if name else list(HEADS.values())
    rows = [
        {"name": head.name, "learns": head.learns, "trained": head.trained, "source": head.source}
        | ({"parameters": head.n_params(*sizes)} if sizes else {})
        for head in shown
    ]
    if as_json:
        print_json(rows[0] if name else rows)
        return
    keys = [key for key in ("name", "learns", "parameters", "source") if key in rows[0]]
    print_table(
        ["head", *keys[1:]],
        [[f"{row[key]:,}" if key == "parameters" else str(row[key]) for key in keys] for row in rows],
    )


@takes(settings=(Params, ("features", "fit")), loading=(LoadingParams, ("device", "tokenizer")))
def fit(
    settings: Params,
    loading: LoadingParams,
    dataset: DatasetsOption = None,
    encoder: Annotated[list[str] | None, encoder_option("mini with --dataset, else all")] = None,
    store: StoreOption = None,
    out: OutOption = RUNS,
    evaluate: Annotated[bool, typer.Option(help="Score the heads on their test clips and print it.")] = True,
    calibrate: Annotated[
        bool, typer.Option(help="Fit a temperature for the run of each head that predict takes first.")
    ] = True,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Train heads on the embeddings of a feature store.

    One run for every head, fold, number of shots and seed. Without --dataset it takes every feature store
    that is present and has two classes to train on. Where it is interrupted or a run diverges, the heads that
    are fitted are kept: palm-cache evaluate scores them. The same command fits all anew.

    Heads that learn words (coop, cocoop, each also with -zebra) load the encoder's text tower; --device and
    --tokenizer are for them. --epochs, --lr, --momentum and --batch-size are for palm, palm-prototype, malp
    and heads that learn words, and all but --lr for subt. Other heads choose their settings from the shots
    alone, run by run; scores.csv records them.

    Example: palm-cache fit --shots 8
    """
    not_both(store=store, dataset=dataset)
    if params:
        dataset, encoder = dataset or list(settings.datasets), encoder or [settings.encoder]

    groups = [(store,)] if store else _find_stores(settings, dataset, encoder)
    load(API)
    fitted = []
    for stores in groups:
        with progress_bar("steps", FIT_UNITS) as progress:
            result = palm_cache.fit(
                stores,
                settings.fit,
                out=out,
                calibrate=calibrate,
                evaluate=evaluate,
                encoder=encoder[0] if encoder and len(encoder) == 1 else None,
                device=loading.device,
                tokenizer=loading.tokenizer,
                progress=progress,
            )
        note(*result.notes)
        fitted.append(result)
    if evaluate:
        import pandas as pd

        print_scores(pd.concat([result.shown for result in fitted]), as_json, out)
    elif as_json:
        print_json([str(result.heads) for result in fitted])
    if not as_json:
        tell(*(f"heads -> {result.heads}" for result in fitted))


@takes(where=(Params, ("features",)), loading=(LoadingParams, ("device", "tokenizer")))
def evaluate(
    where: Params,
    loading: LoadingParams,
    out: OutOption = RUNS,
    heads: HeadsOption = None,
    dataset: DatasetsOption = None,
    encoder: Annotated[list[str] | None, encoder_option("all")] = None,
    store: StoreOption = None,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Score fitted heads on the test clips of their folds.

    Without --dataset it takes every heads file below --heads.

    Example: palm-cache evaluate --dataset demo
    """
    require_results(heads or out, "heads" if heads else "out")
    load(API)
    with progress_bar("heads files") as progress:
        scores = palm_cache.evaluate(
            out,
            heads=heads,
            datasets=dataset,
            encoders=encoder,
            store=store,
            features=where.features,
            device=loading.device,
            tokenizer=loading.tokenizer,
            progress=progress,
        )
    from palm_cache.report.freshness import UNKNOWN, look_behind

    # Of what was scored on another store than the recorded one, that says nothing.
    behind = look_behind(scores, heads or out).values()
    note(*(one.note for one in behind if one.note and one.mark != UNKNOWN))
    print_scores(scores, as_json, out)


@takes(loading=(LoadingParams, ("encoder", "device", "tokenizer")))
def calibrate(
    loading: LoadingParams,
    heads: HeadsArgument,
    run: RunOption = None,
    all_runs: Annotated[bool, typer.Option("--all", help="Every run of the file.")] = False,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Fit the temperature that makes a run's probabilities honest.

    The run's shots are split into four parts. A head fitted like the run's on three of them scores the
    fourth, and so on. Test clips take no part. palm-cache fit does this by itself for one run of every head,
    unless the head learns words.

    Example: palm-cache calibrate runs/demo/mini/heads.h5 --run coop
    """
    not_both(all_runs=all_runs, run=run)
    load(API)
    with progress_bar("runs") as progress:
        from palm_cache.adaptation.calibration import notes_of
        from palm_cache.store.run_names import run_name

        calibrated = palm_cache.calibrate(
            heads,
            run,
            all_runs=all_runs,
            store=store,
            encoder=loading.encoder,
            device=loading.device,
            tokenizer=loading.tokenizer,
            progress=progress,
        )
    note(*notes_of(calibrated))
    calibrations = {run_name(item.run): item.calibration for item in calibrated if item.calibration}
    if as_json:
        print_json({name: asdict(calibration) for name, calibration in calibrations.items()})
        return
    print_table(
        ("run", "temperature", "held-out shots", "loss before", "loss"),
        [
            [
                name,
                f"{calibration.temperature:.3f}",
                str(calibration.n_clips),
                f"{calibration.loss_before:.3f}",
                f"{calibration.loss:.3f}",
            ]
            for name, calibration in calibrations.items()
        ],
    )


@takes(settings=(Params, ("features",)), fit=(FitParams, ("folds",)))
def prompts(
    settings: Params,
    fit: FitParams,
    dataset: DatasetsOption = None,
    encoder: Annotated[str | None, encoder_option("mini with --dataset, else all", more="")] = None,
    store: StoreOption = None,
    out: OutOption = RUNS,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Score zero-shot under every prompt template.

    Also under all of them together. Without --dataset it takes every feature store that is present. The
    result is in OUT/prompts.csv and in the report.

    Example: palm-cache prompts --dataset demo
    """
    not_both(store=store, dataset=dataset)
    if params:
        dataset, encoder = dataset or list(settings.datasets), encoder or settings.encoder

    groups = [(store,)] if store else _find_stores(settings, dataset, [encoder] if encoder else None)
    stores = [place for (place,) in groups]
    with progress_bar("stores") as progress:
        scores = palm_cache.prompts(stores, out=out, folds=fit.folds, progress=progress)
    means = scores.groupby(["dataset", "encoder", "template"], sort=False)["accuracy"].mean().reset_index()
    if as_json:
        print_json(means.to_dict("records"))
        return
    columns = (means["dataset"], means["encoder"], means["template"], 100 * means["accuracy"])
    print_table(
        ("dataset", "encoder", "prompt", "zero-shot accuracy %"),
        [[*map(str, names), f"{accuracy:.2f}"] for *names, accuracy in zip(*columns, strict=True)],
    )
    tell(f"scores of prompts -> {out / 'prompts.csv'}")


@takes(loading=(LoadingParams, ("encoder", "device", "tokenizer")))
def transfer(
    loading: LoadingParams,
    heads: HeadsArgument,
    store: StoreArgument,
    same: Annotated[
        list[str] | None,
        typer.Option(
            help="Two names of one class: the heads' and the store's. Can be repeated.", metavar="NAME=NAME"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score fitted heads on the test clips of another dataset.

    Only the classes that both have count. Both need features of the same encoder. Clips that a head learned
    from are left out. The scores are shown and not kept.

    Example: palm-cache transfer runs/CREMA-D/mini data/features/RAVDESS/mini.zarr --same anger=angry
    """
    names = dict(pair.partition("=")[::2] for pair in same or ())
    if not all(names.values()):
        raise typer.BadParameter("two names with = between are needed", param_hint="--same")
    load(API)
    with progress_bar("heads") as progress:
        scores = palm_cache.transfer(
            heads,
            store,
            same=names,
            encoder=loading.encoder,
            device=loading.device,
            tokenizer=loading.tokenizer,
            progress=progress,
        )
    print_scores(scores, as_json)


def _find_stores(
    settings: Params, datasets: list[str] | None, encoders: list[str] | None
) -> list[tuple[Place, ...]]:
    stores, notes = palm_cache.find_stores(datasets, encoders, features=settings.features)
    note(*notes)
    return stores


def print_scores(scores: pd.DataFrame, as_json: bool, out: Path | None = None) -> None:
    """Print the means of some runs, if there are any, and where they are kept.

    What was fitted on all clips has no test clips. Of runs of base classes it also says what they reach on
    either half.
    """
    from palm_cache.report import base_novel, means
    from palm_cache.store.scores import tell_apart

    told = tell_apart(scores)
    summary = means.summarise(told)
    if as_json:
        print_summary(summary)
    elif scores.empty:
        tell("no test clips: nothing is scored")
    else:
        print_table(means.HEADINGS, means.format_rows(summary), keep=means.NAMES_AND_ACCURACY)
        note(*means.on_some_folds(told), *means.below_zero_shot(told))
        halves = base_novel.base_to_novel(told)
        if not halves.empty:
            print_table(base_novel.HEADINGS, base_novel.base_novel_rows(halves))
        if out:
            tell(f"scores -> {out / 'scores.csv'}")


def print_summary(summary: pd.DataFrame) -> None:
    """Print a table of means as JSON."""
    shots = summary["shots"].astype(object).where(summary["shots"] < ALL_SHOTS, spell_shots(ALL_SHOTS))
    shown = summary.assign(shots=shots)
    print_json(shown.astype(object).where(shown.notna(), None).to_dict("records"))
