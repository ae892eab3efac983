"""Commands that use fitted heads: predict, export."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.checks import check_stores, require_heads
from palm_cache.cli.completion import complete_store
from palm_cache.cli.loading import load
from palm_cache.cli.options import RunOption, SameEncoderOption, SourceArgument, choices, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.results import ResultFormat, ResultWriter, TableWriter, csv_writer, json_writer
from palm_cache.cli.terminal import Json, print_json, say, tell
from palm_cache.errors import ParameterError
from palm_cache.params import ExportFormat, LoadingParams, PredictParams, override
from palm_cache.prediction.answers import Failure, Prediction, Stretch, label_of, printable
from palm_cache.store.atomic import keep_inputs
from palm_cache.types import spell_shots

if TYPE_CHECKING:
    from palm_cache.prediction.classifier import Classifier
    from palm_cache.prediction.sources import HeadSource
    from palm_cache.types import Calibration, FittedHead, Run

SOME_FAILED = 3
"""Exit code of ``predict`` where some inputs got no answer."""

UNHEARD_SECONDS = 0.1
"""What the crop may leave out of a file before the user is told."""


@takes(params=PredictParams, loading=LoadingParams)
def predict(
    params: dict[str, object],
    loading: dict[str, object],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="A heads.h5, an exported head.safetensors, the folder that it lies in, or hf://USER/NAME "
            "(none with --classes), then what to listen to: files; folders, searched for audio; patterns in "
            "quotes; - for paths on standard input, one a line or NUL-ended.",
            metavar="HEADS AUDIO...",
        ),
    ],
    run: RunOption = None,
    store: Annotated[
        list[str] | None,
        typer.Option(
            "--store",
            help="Instead of listening: every row of this feature store, by its embeddings, in milliseconds. "
            "Give it again for more stores, or for each encoder of a head on joined ones.",
            metavar="PLACE",
            autocompletion=complete_store,
            callback=check_stores,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="Tell these classes apart by their names alone, without fitted heads: zero-shot, with the "
            "encoder of --encoder or mini.",
            metavar="NAME,...",
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(help="How many classes to show, likeliest first.", metavar="N", min=1)
    ] = 1,
    merge: Annotated[bool, typer.Option(help="Join neighbouring windows of one label.")] = True,
    audacity: Annotated[
        Path | None,
        typer.Option(
            help="Write labels for Audacity: a file; for several recordings a folder.", metavar="PATH"
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Write CSV to this file; - is standard output.", metavar="FILE"),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(help="With --store: write a Parquet file, which needs pyarrow.", metavar="FILE"),
    ] = None,
    encoder: SameEncoderOption = None,
    as_json: Json = False,
) -> None:
    """Say what is heard in audio files.

    A fitted head says it, or the names in --classes. There is one answer per file; of a file longer than the
    encoder reads at once only the centre is heard. With --timeline every second is heard: start, end and
    label of each stretch.

    Files that cannot be read, and silence, are reported. The rest goes on, and the exit code is 3.

    Examples: palm-cache predict runs/demo/mini/heads.h5 recordings/ --top 3 --threshold 0.5

    palm-cache predict runs/demo/mini/heads.h5 night.flac --timeline --hop 1 --audacity night.txt

    palm-cache predict --classes "dog bark,siren" recordings/

    palm-cache predict runs/demo/mini --store data/features/demo/mini.zarr --csv answers.csv
    """
    sliding = {"--window": params["window"], "--hop": params["hop"], "--audacity": audacity}
    _check_options(params["timeline"] is True, sliding, csv, as_json)
    if store:
        if len(inputs) != 1 or classes is not None or params["timeline"] is True:
            message = "goes with a heads file alone: no audio, no --classes, no --timeline"
            raise typer.BadParameter(message, param_hint="--store")
        loaded = override(LoadingParams(), **loading)
        _predict_rows(inputs[0], store, run, encoder, loaded, _settings(params), top, csv, parquet, as_json)
        return
    if parquet is not None:
        raise typer.BadParameter("goes with --store", param_hint="--parquet")
    given, audio = _heads_and_audio(inputs, classes, run)
    with ExitStack() as stack:
        settings = _settings(params)
        if given is not None:
            require_heads(given)
        load("palm_cache.prediction.table")
        from palm_cache.prediction.inputs import find_recordings
        from palm_cache.prediction.sources import find_heads
        from palm_cache.prediction.table import classify

        heads = None if given is None else find_heads(given)
        classifier = _load(heads, run, classes, encoder, override(LoadingParams(), **loading))
        entries = find_recordings(audio, _read_stdin)
        recordings = [entry for entry in entries if isinstance(entry, Path)]
        protected = [*recordings, *([heads.file] if heads else [])]
        for option, output in (("--csv", csv), ("--audacity", audacity)):
            keep_inputs([output] if output else [], protected, option)
        top = min(top, len(classifier.class_names))
        shape = ResultFormat(classifier.class_names, top, settings.threshold, over_time=settings.timeline)
        progress = stack.enter_context(progress_bar("seconds" if settings.timeline else "files"))
        results = classify(classifier, entries, settings, merge=merge, progress=progress)
        if audacity:
            results = _with_labels(results, shape, audacity, recordings)
        about = _about(heads, classifier, shape) if as_json else None
        n_failed = _show(results, shape, _rows(stack, shape, entries, csv, about), classifier)
    if n_failed:
        say(f"{n_failed} of {len(entries)} input(s) failed")
        raise typer.Exit(SOME_FAILED)


def export(
    heads: SourceArgument,
    to: Annotated[ExportFormat, typer.Option("--to", help="The format.", metavar=choices(ExportFormat))],
    run: RunOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write.", metavar="FILE", show_default="named after the run, beside HEADS"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a fitted head for other programs.

    safetensors: class embeddings, scale and temperature (other heads: their state). onnx: a graph from
    embeddings to logits and probabilities, compared with the head before it is kept. A card in JSON beside it
    names classes, encoder, fingerprint, window, scores and licences.

    Example: palm-cache export runs/demo/mini/heads.h5 --to onnx --out demo.onnx
    """
    from palm_cache.prediction.export import export_head

    written = export_head(heads, to, run, out)
    if as_json:
        print_json({"file": str(written.file), "card_file": str(written.card_file), "card": written.card})
        return
    tell(f"{written.card['run']} -> {written.file}, {written.card_file}")


def _heads_and_audio(
    inputs: Sequence[str], classes: str | None, run: str | None
) -> tuple[str | None, Sequence[str]]:
    """Part what was given into the heads, which --classes needs none of, and what to listen to."""
    if classes is not None:
        if run is not None:
            raise typer.BadParameter("give --run or --classes, not both", param_hint="--run")
        return None, inputs
    if len(inputs) < 2:
        raise typer.BadParameter(
            'give a heads file and what to listen to (or --classes "NAME,NAME" instead of the heads)',
            param_hint="HEADS AUDIO...",
        )
    return inputs[0], inputs[1:]


def _settings(params: Mapping[str, object]) -> PredictParams:
    try:
        return override(PredictParams(), **params)
    except ParameterError as error:
        raise typer.BadParameter(str(error)) from None


def _check_options(timeline: bool, sliding: Mapping[str, object], csv: Path | None, as_json: bool) -> None:
    for option, value in sliding.items():
        if value is not None and not timeline:
            raise typer.BadParameter("goes with --timeline", param_hint=option)
    audacity = sliding["--audacity"]
    if csv is not None and isinstance(audacity, Path) and csv.resolve() == audacity.resolve():
        raise typer.BadParameter("give --csv another file than --audacity", param_hint="--csv")
    if csv is not None and as_json:
        raise typer.BadParameter("give --csv or --json, not both", param_hint="--csv")


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read()


def _load(
    heads: HeadSource | None,
    run: str | None,
    classes: str | None,
    encoder: str | None,
    loading: LoadingParams,
) -> Classifier:
    """Load head and encoder, and say which run it is and what its probabilities are worth."""
    from palm_cache.prediction.table import load_classifier

    classifier = load_classifier(
        heads,
        run,
        classes=None if classes is None else classes.split(","),
        encoder=encoder,
        device=loading.device,
        tokenizer=loading.tokenizer,
        trust_remote_code=loading.trust_remote_code,
    )
    if heads is None:
        say(f"note: zero-shot with {classifier.encoder.spec}; probabilities are not calibrated")
    else:
        _say_which(heads, run, classifier.head)
    return classifier


def _say_which(heads: HeadSource, run: str | None, head: FittedHead) -> None:
    """Say which run it is and what its probabilities are worth."""
    from palm_cache.store.heads import run_name
    from palm_cache.store.shared import runs_in

    name, calibration = run_name(head.run), head.calibration
    if calibration:
        worth = f"probabilities calibrated on {calibration.n_clips} held-out shots"
    elif head.run.shots and heads.many:
        worth = f"probabilities are not calibrated: palm-cache calibrate {heads.name} --run {name}"
    elif head.run.shots:
        worth = "probabilities are not calibrated"
    else:
        worth = "probabilities are not calibrated: it learned from no shots that could be held out"
    runs = runs_in(heads.file) if run is None else ()
    reason = f", {_why_default(calibration, runs)}" if len(runs) > 1 else ""
    say(f"note: {name}{reason}; {worth}")


def _predict_rows(
    heads: str,
    stores: Sequence[str],
    run: str | None,
    encoder: str | None,
    loading: LoadingParams,
    settings: PredictParams,
    top: int,
    csv: Path | None,
    parquet: Path | None,
    as_json: bool,
) -> None:
    """Show what a head says about every row of some stores."""
    with ExitStack() as stack:
        require_heads(heads)
        load("palm_cache.prediction.rows")
        from palm_cache.prediction.rows import score_rows, write_parquet
        from palm_cache.prediction.sources import find_heads
        from palm_cache.retrieval.queries import Loading
        from palm_cache.store.heads import run_name
        from palm_cache.store.places import place

        source = find_heads(heads)
        for option, output in (("--csv", csv), ("--parquet", parquet)):
            keep_inputs([output] if output else [], [source.file], option)
        rows = score_rows(
            source.file,
            [place(address) for address in stores],
            run,
            Loading(encoder, loading.device, loading.tokenizer, loading.trust_remote_code),
        )
        head = rows.head
        _say_which(source, run, head)
        if parquet is not None:
            write_parquet(rows.table(settings.threshold), parquet)
            tell(f"{len(rows.paths):,} rows -> {parquet}")
        if parquet is None or csv is not None or as_json:
            shape = ResultFormat(
                head.class_names,
                min(top, len(head.class_names)),
                settings.threshold,
                over_time=rows.over_time,
            )
            about = {
                "heads": source.name,
                "run": run_name(head.run),
                "stores": list(stores),
                "classes": list(head.class_names),
                "calibration": asdict(head.calibration) if head.calibration else None,
                "threshold": settings.threshold,
            }
            writer = _rows(stack, shape, [Path(path) for path in rows.paths], csv, about if as_json else None)
            for result in rows.results():
                writer.write(shape.row(result))
    for row, reason in rows.errors.items():
        say(f"failed {rows.paths[row]}: {reason}")
    if rows.errors:
        say(f"{len(rows.errors)} of {len(rows.paths)} row(s) have no embedding")
        raise typer.Exit(SOME_FAILED)


def _why_default(calibration: Calibration | None, runs: Sequence[Run]) -> str:
    """Say why a run is taken where nobody named one: wherever one is calibrated, that decides."""
    others = f"of {len(runs)} runs ({_kinds(runs)}; choose with --run)"
    if calibration is None:
        return f"one {others}"
    return f"the best on held-out shots (loss {calibration.loss:.3f}) {others}"


def _about(heads: HeadSource | None, classifier: Classifier, shape: ResultFormat) -> dict[str, object]:
    """Return what a JSON document says before its results."""
    from palm_cache.store.heads import run_name

    head = classifier.head
    return {
        "heads": heads.name if heads else None,
        "run": run_name(head.run) if heads else head.run.head,
        "encoder": classifier.head.run.encoder if heads else classifier.encoder.spec,
        "classes": list(head.class_names),
        "calibration": asdict(head.calibration) if head.calibration else None,
        "threshold": shape.threshold,
    }


def _rows(
    stack: ExitStack,
    shape: ResultFormat,
    entries: Sequence[Path | Failure],
    csv: Path | None,
    about: Mapping[str, object] | None,
) -> ResultWriter:
    """Return where results go; the stack brings it to its end."""
    if about is not None:
        return stack.enter_context(json_writer(about))
    if csv is not None:
        return stack.enter_context(csv_writer(shape, csv))
    return TableWriter(shape, [printable(entry) for entry in entries if isinstance(entry, Path)])


def _with_labels(
    results: Iterator[Prediction | Stretch | Failure],
    shape: ResultFormat,
    target: Path,
    recordings: Sequence[Path],
) -> Iterator[Prediction | Stretch | Failure]:
    """Write label tracks while results pass."""
    from palm_cache.prediction.label_tracks import LabelTracks

    with LabelTracks(target, recordings) as tracks:
        for result in results:
            if isinstance(result, Stretch):
                label = label_of(result.probabilities, shape.class_names, shape.threshold)
                named = label if label in shape.class_names else None
                tracks.write(result.path, result.start, result.end, named)
            yield result


def _show(
    results: Iterator[Prediction | Stretch | Failure],
    shape: ResultFormat,
    rows: ResultWriter,
    classifier: Classifier,
) -> int:
    """Show results as they come; return how many inputs failed."""
    failed = cropped = 0
    remarks: dict[str, list[str]] = {}
    for result in results:
        rows.write(shape.row(result))
        if isinstance(result, Failure):
            failed += 1
            say(f"failed {result.path}: {result.reason}")
            continue
        for remark in result.remarks:
            remarks.setdefault(remark, []).append(result.path)
        if isinstance(result, Prediction):
            cropped += result.unheard > UNHEARD_SECONDS
    for remark, paths in remarks.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        say(f"note: {paths[0]}{more}: {remark}")
    if cropped:
        seconds = classifier.seconds
        say(
            f"note: {cropped} file(s) last longer than the {seconds:g} s that {classifier.head.run.encoder} "
            "reads at once: their centre was heard; --timeline hears everything"
        )
    return failed


def _kinds(runs: Iterable[Run]) -> str:
    """Name heads and shots of runs: ``palm 1, 16 shots; zero-shot``."""
    shots: dict[str, set[int]] = {}
    for run in runs:
        shots.setdefault(run.method, set()).add(run.shots)
    return "; ".join(
        f"{head} {', '.join(map(spell_shots, sorted(of_head)))} shots" if any(of_head) else head
        for head, of_head in sorted(shots.items())
    )
