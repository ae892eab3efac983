"""Commands around adaptation: heads, fit, evaluate, report."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palm_cache.cli.copies import without_copies
from palm_cache.cli.extraction import (
    DatasetsOption,
    DeviceOption,
    EncoderOption,
    EncodersOption,
    FeaturesOption,
    ParamsOption,
    TokenizerOption,
    choice,
)
from palm_cache.cli.terminal import Json, one_line_errors, print_json, print_table, progress_bar, say, tell
from palm_cache.params import FitParams, Params, override, read_params
from palm_cache.store.layout import RUNS, joined_spec, slug, store_path, stores_present
from palm_cache.store.places import place, reaching
from palm_cache.types import ALL_SHOTS, spell_shots

if TYPE_CHECKING:
    import pandas as pd

    from palm_cache.adaptation.fit import LoadTower
    from palm_cache.types import Place

OutOption = Annotated[Path, typer.Option("--out", help="Where heads, scores and report lie.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help="A feature store that is not at its default place: a folder or URL.", metavar="PLACE"
    ),
]


def complete_heads(incomplete: str) -> list[str]:
    """Complete the last name of a comma-separated list of heads."""
    from palm_cache.adaptation.heads import HEADS

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in HEADS if name.startswith(last)]


def heads(
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Count the learnable parameters for this dataset's store."),
    ] = None,
    encoder: EncoderOption = None,
    features: FeaturesOption = None,
    shots: Annotated[
        int, typer.Option(min=1, help="Clips per class, for heads whose parameters are counted by them.")
    ] = 16,
    as_json: Json = False,
) -> None:
    """List the heads: what each learns, which paper it is from, how many parameters it has."""
    from palm_cache.adaptation.heads import HEADS

    rows: list[dict[str, object]] = [
        {"name": head.name, "learns": head.learns, "trained": head.trained, "source": head.source}
        for head in HEADS.values()
    ]
    if dataset is not None:
        from palm_cache.store.features import FeatureStore

        with one_line_errors():
            wanted = override(Params(), features=features)
            header = FeatureStore(_stores(wanted, [dataset], encoder)[0]).header
        for row, head in zip(rows, HEADS.values(), strict=True):
            n_classes = len(header.class_names)
            n_examples = n_classes * shots * header.views
            row["parameters"] = head.n_params(n_classes, header.dim, header.token_dim, n_examples)
    if as_json:
        print_json(rows)
        return
    keys = [key for key in ("name", "learns", "parameters", "source") if key in rows[0]]
    print_table(
        ["head", *keys[1:]],
        [[f"{row[key]:,}" if key == "parameters" else str(row[key]) for key in keys] for row in rows],
    )


def fit(
    dataset: DatasetsOption = None,
    encoder: EncodersOption = None,
    features: FeaturesOption = None,
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
        str | None,
        typer.Option(
            help="Clips per class, comma-separated; all takes every training clip.", show_default="16"
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of draw and start, comma-separated.", show_default="0,1,2")
    ] = None,
    folds: Annotated[str | None, typer.Option(help="Folds, comma-separated.", show_default="all")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Classes to learn from: all, or the first half (base-novel), to be scored on both halves.",
            show_default="all",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Prompt of zero-shot and of heads that build on it, with {c} for the class.",
            show_default="the paper's",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the shots.", show_default="50")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", show_default="0.05")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD.", show_default="0.9")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips per step.", show_default="16")] = None,
    test_views: Annotated[
        str | None,
        typer.Option(
            help="Score test clips by their first view or by the mean of all.", show_default="first"
        ),
    ] = None,
    device: DeviceOption = None,
    tokenizer: TokenizerOption = None,
    out: OutOption = RUNS,
    evaluate: Annotated[bool, typer.Option(help="Score the heads on their test clips and print it.")] = True,
    calibrate: Annotated[
        bool, typer.Option(help="Fit a temperature for the run of each head that predict takes first.")
    ] = True,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Train heads on cached embeddings: every head, fold, number of shots and seed.

    Without --dataset it takes every feature store that is present. Heads that learn words (coop, cocoop)
    load the encoder's text tower; --device and --tokenizer are for them. --epochs, --lr, --momentum and
    --batch-size are for palm, palm-prototype, malp, coop and cocoop, and all but --lr for subt. Other heads
    choose what they need to know from the shots alone, run by run; scores.csv records it.

    Example: palm-cache fit --shots 8
    """
    with one_line_errors("the heads of finished datasets are kept"):
        wanted = override(read_params(params) if params else Params(), features=features)
        how = override(
            wanted.fit,
            heads=_names(head),
            shots=_shots(shots),
            seeds=_numbers("--seeds", seeds),
            folds=_numbers("--folds", folds),
            split=choice("--split", split, ("all", "base-novel")),
            template=template,
            test_views=choice("--test-views", test_views, ("first", "mean")),
            training=override(
                wanted.fit.training, epochs=epochs, lr=lr, momentum=momentum, batch_size=batch_size
            ),
        )
        if params:
            dataset, encoder = dataset or list(wanted.datasets), encoder or [wanted.encoder]
        specs = list(dict.fromkeys(encoder)) if encoder else [None]
        stores = [[place(store)]] if store else _joined([_stores(wanted, dataset, spec) for spec in specs])
        tower = tower_loader(wanted, device, tokenizer, encoder)
        files = _fit_all(stores, out, how, tower, calibrate)
        if not evaluate:
            if as_json:
                print_json([str(file) for file in files])
            else:
                for file in files:
                    tell(f"heads -> {file}")
            return
        from palm_cache.adaptation.evaluate import evaluate_files

        with progress_bar("stores") as progress:
            done = evaluate_files(out, files, load_tower=tower, progress=progress)
    keys = zip(done.scores["dataset"], done.scores["encoder"], strict=True)
    print_scores(done.scores[[key in done.renewed for key in keys]], as_json)
    if not as_json:
        tell(f"scores -> {out / 'scores.csv'}")


def evaluate(
    out: OutOption = RUNS,
    heads: Annotated[
        Path | None, typer.Option(help="Where the heads lie, if elsewhere.", show_default="--out")
    ] = None,
    dataset: DatasetsOption = None,
    encoder: EncodersOption = None,
    store: StoreOption = None,
    device: DeviceOption = None,
    tokenizer: TokenizerOption = None,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Score fitted heads on the test clips of their folds.

    Without --dataset it takes every heads file below --heads.
    """
    from palm_cache.adaptation.evaluate import evaluate_files

    with one_line_errors("the scores of earlier evaluations are kept"):
        where, wanted = heads or out, read_params(params) if params else Params()
        features = place(wanted.features)
        # A name is no pattern: a folder may be called "birds[1]".
        names = [glob.escape(_known_name(features, name, where)) for name in dataset] if dataset else ["*"]
        spec = glob.escape(slug(joined_spec(encoder))) if encoder else "*"
        files = sorted({file for name in names for file in where.glob(f"{name}/{spec}/heads.h5")})
        tower = tower_loader(wanted, device, tokenizer, encoder)
        with progress_bar("heads files") as progress:
            done = evaluate_files(
                out,
                files,
                heads=where,
                store=place(store) if store else None,
                load_tower=tower,
                progress=progress,
            )
    print_scores(done.scores, as_json)
    if not as_json:
        tell(f"scores -> {out / 'scores.csv'}")


def prompts(
    dataset: DatasetsOption = None,
    encoder: EncoderOption = None,
    features: FeaturesOption = None,
    store: StoreOption = None,
    folds: Annotated[str | None, typer.Option(help="Folds, comma-separated.", show_default="all")] = None,
    out: OutOption = RUNS,
    params: ParamsOption = None,
    as_json: Json = False,
) -> None:
    """Score zero-shot under every prompt template, and under all of them together: OUT/prompts.csv.

    Without --dataset it takes every feature store that is present. The report shows the result.

    Example: palm-cache prompts --dataset demo
    """
    from palm_cache.adaptation.prompt_study import study_prompts

    with one_line_errors():
        wanted = override(read_params(params) if params else Params(), features=features)
        if params:
            dataset, encoder = dataset or list(wanted.datasets), encoder or wanted.encoder
        stores = [place(store)] if store else _stores(wanted, dataset, encoder)
        with progress_bar("stores") as progress:
            scored = study_prompts(stores, out, folds=_numbers("--folds", folds) or (), progress=progress)
    means = scored.groupby(["dataset", "encoder", "template"], sort=False)["accuracy"].mean().reset_index()
    if as_json:
        print_json(means.to_dict("records"))
        return
    columns = (means["dataset"], means["encoder"], means["template"], 100 * means["accuracy"])
    print_table(
        ("dataset", "encoder", "prompt", "zero-shot accuracy %"),
        [[*map(str, names), f"{accuracy:.2f}"] for *names, accuracy in zip(*columns, strict=True)],
    )
    tell(f"scores of prompts -> {out / 'prompts.csv'}")


def report(
    out: OutOption = RUNS,
    against: Annotated[
        str | None,
        typer.Option(
            help="The head that the others are compared with.",
            show_default="palm",
            metavar="HEAD",
            autocompletion=complete_heads,
        ),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(help="Where the heads lie, to look inside.", show_default="--out"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn scores into tables and figures: OUT/report/index.html, one page that needs nothing else.

    The same in Markdown is in OUT/report/report.md. Where datasets are the PALM paper's, the published
    numbers stand beside ours.

    Example: palm-cache report --against proker
    """
    from palm_cache.report.write import write_report

    with one_line_errors():
        page, summary = write_report(out, against=against, heads=heads)
    _print_summary(summary, as_json)
    if not as_json:
        tell(f"report -> {page}")


def register(app: typer.Typer) -> None:
    """Add the commands of stage two."""
    panel = "Stage two: embeddings to scores"
    for command in (heads, fit, evaluate, prompts, report):
        app.command(rich_help_panel=panel)(command)


def tower_loader(
    wanted: Params, device: str | None, tokenizer: str | None, named: list[str] | None = None
) -> LoadTower:
    """Return what loads a text tower: the one place where adaptation is handed a part of an encoder.

    Parameters
    ----------
    named : list of str, optional
        The encoders that the user gave: code of somebody's own is run for those alone.
    """
    from palm_cache.extraction.encoders.registry import load_text_tower

    chosen = device or wanted.resources.devices[0]
    return lambda header: load_text_tower(
        header,
        device=chosen,
        tokenizer=tokenizer or wanted.extract.tokenizer,
        named=header.encoder if named and header.encoder in named else None,
    )


def _fit_all(
    stores: list[list[Place]], out: Path, how: FitParams, tower: LoadTower, calibrate: bool
) -> list[Path]:
    from palm_cache.adaptation.calibration import calibrate_file, runs_to_calibrate
    from palm_cache.adaptation.fit import fit_store

    files = []
    for path, *partners in stores:
        with progress_bar("steps") as progress:
            done = fit_store(path, out, how, partners=partners, load_tower=tower, progress=progress)
        if calibrate:
            with progress_bar("runs") as progress:
                runs = runs_to_calibrate(done.heads_file)
                calibrated = calibrate_file(done.heads_file, runs, progress=progress)
            for one in calibrated:
                if one.problem:
                    say(f"note: not calibrated: {one.problem}")
        files.append(done.heads_file)
        for note in done.notes:
            say(f"note: {note}")
    return files


def _stores(wanted: Params, datasets: list[str] | None, encoder: str | None) -> list[Place]:
    """Return the stores of some datasets and an encoder, or all that are present.

    Of several datasets those without a store are named and passed over.
    """
    from palm_cache.errors import StoreError
    from palm_cache.store.features import exists

    features = place(wanted.features)
    if datasets is None:
        present = without_copies(stores_present(features, encoder))
    else:
        names = list(dict.fromkeys(_known_name(features, dataset) for dataset in datasets))
        present = [store_path(features, name, encoder or wanted.encoder) for name in names]
    if len(present) == 1:
        return present
    for path in present:
        if not exists(path):
            say(f"note: passed over: no feature store at {path}")
    present = [path for path in present if exists(path)]
    if not present:
        which = f" of encoder {encoder}" if encoder else ""
        raise StoreError(
            f"{features}: no feature store{which} here; "
            "make one with: palm-cache extract --dataset NAME_OR_DIR"
        )
    return present


def _joined(of_encoders: list[list[Place]]) -> list[list[Place]]:
    """Return the stores of every dataset that has one of each encoder, in the order of the encoders."""
    from palm_cache.errors import StoreError

    by_dataset = [{path.parent.name: path for path in stores} for stores in of_encoders]
    common = [name for name in by_dataset[0] if all(name in stores for stores in by_dataset)]
    if len(of_encoders) == 1:
        return [[path] for path in of_encoders[0]]
    if not common:
        raise StoreError("no dataset has a store of each encoder; make them with: palm-cache extract")
    return [[stores[name] for stores in by_dataset] for name in common]


def _known_name(features: Place, dataset: str, results: Place | None = None) -> str:
    """Return the name that a dataset has among stores and results; where it has some, it need not be here."""
    from palm_cache.extraction.datasets.registry import dataset_name
    from palm_cache.store.find import dataset_folder

    folder = Path(dataset)
    with reaching(features):
        places = [features] if results is None else [features, results]
        plain = folder.name == dataset and not folder.is_dir()
        if plain and any((place / dataset).is_dir() for place in places):
            return dataset
    source = str(folder.absolute()) if folder.is_dir() else ""
    return dataset_folder(features, dataset_name(dataset), source)


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


def _shots(value: str | None) -> tuple[int | Literal["all"], ...] | None:
    if value is None:
        return None
    given = [one.strip() for one in value.split(",")]
    try:
        return tuple("all" if one == "all" else int(one) for one in given)
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is not a comma-separated list of whole numbers and all", param_hint="--shots"
        ) from None


def print_scores(scores: pd.DataFrame, as_json: bool) -> None:
    """Print the means of some runs."""
    from palm_cache.report.base_novel import HEADINGS, base_novel_rows, base_to_novel
    from palm_cache.report.means import summarise
    from palm_cache.store.scores import tell_apart

    _print_summary(summarise(tell_apart(scores)[0]), as_json)
    halves = base_to_novel(scores)
    if not (as_json or halves.empty):
        print_table(HEADINGS, base_novel_rows(halves))


def _print_summary(summary: pd.DataFrame, as_json: bool) -> None:
    from palm_cache.report.means import HEADINGS, format_rows

    if as_json:
        said = summary["shots"].astype(object).where(summary["shots"] < ALL_SHOTS, spell_shots(ALL_SHOTS))
        shown = summary.assign(shots=said)
        rows = shown.astype(object).where(shown.notna(), None).to_dict("records")
        print_json(rows)
    else:
        print_table(HEADINGS, format_rows(summary))
