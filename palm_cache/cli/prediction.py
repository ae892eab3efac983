"""The command that asks a fitted head what is heard in recordings, or what rows of stores are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from palm_cache.cli.checks import check_stores, not_both, replaces, require_heads
from palm_cache.cli.chosen_run import about, say_which
from palm_cache.cli.completion import complete_store
from palm_cache.cli.loading import load
from palm_cache.cli.options import RunOption, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.scored_rows import show_rows
from palm_cache.cli.terminal import Json, note, say
from palm_cache.errors import StoreError, counted
from palm_cache.params.use import LoadingParams, PredictParams
from palm_cache.store.layout import SHARED_ENDING
from palm_cache.store.nearby import heads_file
from palm_cache.store.outputs import PREDICTIONS

if TYPE_CHECKING:
    from palm_cache.cli.results import Result, ResultFormat
    from palm_cache.prediction.answers import Failure
    from palm_cache.prediction.classifier import Classifier
    from palm_cache.prediction.label_tracks import LabelTracks
    from palm_cache.prediction.sources import HeadSource

SOME_FAILED = 3
"""Exit code of ``predict`` where some inputs got no answer."""

UNHEARD_SECONDS = 0.1
"""What the crop may leave out of a file before the user is told."""


@takes(settings=PredictParams, loading=LoadingParams)
def predict(
    settings: PredictParams,
    loading: LoadingParams,
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
            help="Write labels for Audacity: of one recording to a file, NAME.txt; of any number into a "
            "folder.",
            metavar="PATH",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            help="Write CSV to this file; - is standard output.",
            metavar="FILE",
            callback=replaces(PREDICTIONS),
        ),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(help="With --store: write a Parquet file, which needs pyarrow.", metavar="FILE"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is heard in audio files.

    A fitted head says it, or the names in --classes. There is one answer per file; of a file longer than the
    encoder reads at once only the centre is heard. With --timeline every second is heard: start, end and
    label of each stretch.

    Files that cannot be read, and silence, are reported. The rest goes on, and the exit code is 3.

    An output replaces an earlier one of its kind, and no other file.

    Examples: palm-cache predict runs/demo/mini/heads.h5 recordings/ --top 3 --threshold 0.5

    palm-cache predict runs/demo/mini/heads.h5 night.flac --timeline --hop 1 --audacity night.txt

    palm-cache predict --classes "dog bark,siren" recordings/

    palm-cache predict runs/demo/mini --store data/features/demo/mini.zarr --csv answers.csv
    """
    if audacity is not None and not settings.timeline:
        raise typer.BadParameter("goes with --timeline", param_hint="--audacity")
    if csv is not None and audacity is not None and csv.resolve() == audacity.resolve():
        raise typer.BadParameter("give --csv another file than --audacity", param_hint="--csv")
    not_both(csv=csv, as_json=as_json)
    not_both(run=run, classes=classes)
    if store:
        if len(inputs) != 1 or classes is not None or settings.timeline:
            message = "goes with a heads file alone: no audio, no --classes, no --timeline"
            raise typer.BadParameter(message, param_hint="--store")
        failed = show_rows(inputs[0], store, run, loading, settings.threshold, top, csv, parquet, as_json)
    elif parquet is not None:
        raise typer.BadParameter("goes with --store", param_hint="--parquet")
    else:
        heads, audio = _heads_and_audio(inputs, classes, run)
        failed = _show_recordings(
            heads, audio, run, classes, loading, settings, top, merge, audacity, csv, as_json
        )
    if failed:
        say(failed)
        raise typer.Exit(SOME_FAILED)


def _heads_and_audio(
    inputs: Sequence[str], classes: str | None, run: str | None
) -> tuple[str | None, Sequence[str]]:
    """Part what was given into the heads, which --classes needs none of, and what to listen to."""
    if classes is not None:
        with suppress(StoreError):
            if inputs[0].startswith("hf:") or heads_file(inputs[0]).suffix in (".h5", SHARED_ENDING):
                message = f"goes without heads, and {inputs[0]} holds some; give one of them"
                raise typer.BadParameter(message, param_hint="--classes")
        return None, inputs
    if len(inputs) < 2:
        raise typer.BadParameter(
            'give a heads file and what to listen to (or --classes "NAME,NAME" instead of the heads)',
            param_hint="HEADS AUDIO...",
        )
    require_heads(inputs[0], run)
    return inputs[0], inputs[1:]


def _show_recordings(
    heads: str | None,
    audio: Sequence[str],
    run: str | None,
    classes: str | None,
    loading: LoadingParams,
    settings: PredictParams,
    top: int,
    merge: bool,
    audacity: Path | None,
    csv: Path | None,
    as_json: bool,
) -> str:
    """Show what is heard in recordings; return what is to be said of those in which nothing could be."""
    from palm_cache.prediction.inputs import find_recordings
    from palm_cache.prediction.label_tracks import LabelTracks
    from palm_cache.prediction.sources import find_heads

    # What is wrong with the words is said before torch and the encoder are loaded, which takes seconds.
    source = None if heads is None else find_heads(heads)
    entries = find_recordings(audio, sys.stdin.buffer.read)
    recordings = [entry for entry in entries if isinstance(entry, Path)]
    tracks = None if audacity is None else LabelTracks(audacity, recordings)
    if not (recordings or csv or as_json):
        for entry in entries:
            _say_failed(cast("Failure", entry))
        return _unheard(len(entries), len(entries))
    load("palm_cache.prediction.table")
    from palm_cache.cli.results import ResultFormat, result_writer
    from palm_cache.prediction.answers import printable
    from palm_cache.prediction.table import classify

    classifier = _load(source, run, classes, loading)
    names = classifier.class_names
    shape = ResultFormat(names, min(top, len(names)), settings.threshold, over_time=settings.timeline)
    encoder = classifier.head.run.encoder
    said = about(source, classifier.head, shape.threshold, encoder=encoder) if as_json else None
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar("seconds" if settings.timeline else "files"))
        results = classify(classifier, entries, settings, merge=merge, progress=progress)
        writers = [stack.enter_context(result_writer(shape, list(map(printable, recordings)), csv, said))]
        if tracks is not None:
            writers.append(partial(_write_label, stack.enter_context(closing(tracks)), shape))
        failed = _show(results, writers, classifier)
    return _unheard(failed, len(entries))


def _say_failed(failure: Failure) -> None:
    say(f"failed {failure.path}: {failure.reason}")


def _unheard(n_failed: int, n_inputs: int) -> str:
    return f"{n_failed} of {counted(n_inputs, 'input')} failed" if n_failed else ""


def _load(
    heads: HeadSource | None, run: str | None, classes: str | None, loading: LoadingParams
) -> Classifier:
    """Load head and encoder, and say which run it is and what its probabilities are worth."""
    from palm_cache.prediction.table import load_classifier

    classifier = load_classifier(heads, run, None if classes is None else classes.split(","), loading)
    if heads is None:
        note(f"zero-shot with {classifier.encoder.spec}; probabilities are not calibrated")
    else:
        say_which(heads, run, classifier.head)
    return classifier


def _write_label(tracks: LabelTracks, shape: ResultFormat, result: Result) -> None:
    from palm_cache.prediction.answers import Stretch, label_of

    if isinstance(result, Stretch):
        label = label_of(result.probabilities, shape.class_names, shape.threshold)
        named = label if label in shape.class_names else None
        tracks.write(result.path, result.start, result.end, named)


def _show(
    results: Iterator[Result], writers: Sequence[Callable[[Result], None]], classifier: Classifier
) -> int:
    """Show results as they come; return how many inputs failed."""
    from palm_cache.prediction.answers import Failure, Prediction

    failed = cropped = 0
    remarks: dict[str, list[str]] = {}
    for result in results:
        for write in writers:
            write(result)
        if isinstance(result, Failure):
            failed += 1
            _say_failed(result)
            continue
        for remark in result.remarks:
            remarks.setdefault(remark, []).append(result.path)
        if isinstance(result, Prediction):
            cropped += result.unheard > UNHEARD_SECONDS
    for remark, paths in remarks.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        note(f"{paths[0]}{more}: {remark}")
    if cropped:
        seconds = classifier.seconds
        note(
            f"{counted(cropped, 'file lasts', 'files last')} longer than the {seconds:g} s that "
            f"{classifier.head.run.encoder} "
            "reads at once: their centre was heard; --timeline hears everything"
        )
    return failed
