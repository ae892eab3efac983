"""The command that asks a fitted head what is heard in recordings, or what rows of stores are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.checks import check_class_names, check_stores, not_both, replaces, require_heads
from palm_cache.cli.completion import complete_store
from palm_cache.cli.loading import load
from palm_cache.cli.options import RunOption, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.terminal import Json, note, say, tell
from palm_cache.errors import StoreError, counted
from palm_cache.params.use import LoadingParams, PredictParams
from palm_cache.store.layout import SHARED_ENDING, command_line
from palm_cache.store.nearby import heads_file
from palm_cache.store.outputs import PREDICTIONS

if TYPE_CHECKING:
    from palm_cache.cli.results import Result
    from palm_cache.prediction.answers import Failure
    from palm_cache.prediction.label_tracks import LabelTracks
    from palm_cache.prediction.sources import HeadSource
    from palm_cache.types.runs import FittedHead

SOME_FAILED = 3
"""Exit code of ``predict`` where some inputs got no answer."""


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
            callback=check_class_names,
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
    output = _Output(run, settings.threshold, top, csv, as_json)
    if store:
        if len(inputs) != 1 or classes is not None or settings.timeline:
            message = "goes with a heads file alone: no audio, no --classes, no --timeline"
            raise typer.BadParameter(message, param_hint="--store")
        failed = _score_rows(inputs[0], store, loading, parquet, output)
    elif parquet is not None:
        raise typer.BadParameter("goes with --store", param_hint="--parquet")
    else:
        heads, audio = _heads_and_audio(inputs, classes, run)
        failed = _listen(heads, audio, classes, loading, settings, merge, audacity, output)
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


@dataclass(frozen=True, slots=True)
class _Output:
    """How answers are shown, and which run was asked for."""

    run: str | None
    threshold: float
    top: int
    csv: Path | None
    as_json: bool

    def show(
        self,
        source: HeadSource | None,
        head: FittedHead,
        results: Iterator[Result],
        paths: Sequence[str],
        over_time: bool,
        **about: object,
    ) -> int:
        """Show results as they come, of a head that lies somewhere or of names alone; count the failures.

        Parameters
        ----------
        paths : sequence of str
            All that will come.
        **about
            What a JSON document says of them.
        """
        from palm_cache.cli.results import ResultFormat, result_writer
        from palm_cache.prediction.answers import Failure
        from palm_cache.store.run_names import run_name

        names = head.class_names
        shape = ResultFormat(names, min(self.top, len(names)), self.threshold, over_time)
        document = {
            "heads": source.name if source else None,
            "run": run_name(head.run) if source else head.run.head,
            **about,
            "classes": list(names),
            "calibration": asdict(head.calibration) if head.calibration else None,
            "threshold": self.threshold,
        }
        told = failed = 0
        remarks: dict[str, list[str]] = {}
        with result_writer(shape, paths, self.csv, document if self.as_json else None) as write:
            for result in results:
                write(result)
                told += 1
                if isinstance(result, Failure):
                    failed += 1
                    _say_failed(result)
                else:
                    for remark in result.remarks:
                        remarks.setdefault(remark, []).append(result.path)
        for remark, among in remarks.items():
            more = f" and {len(among) - 1} more" if len(among) > 1 else ""
            note(f"{among[0]}{more}: {remark}")
        if self.csv is not None and str(self.csv) != "-":
            without = f" ({failed:,} without an answer)" if failed else ""
            tell(f"{counted(told, 'row')} -> {self.csv}{without}")
        return failed


def _score_rows(
    heads: str, stores: Sequence[str], loading: LoadingParams, parquet: Path | None, output: _Output
) -> str:
    """Show what a head says of every row of some stores; return what is to be said of rows left out."""
    require_heads(heads)
    load("palm_cache.prediction.table")
    from palm_cache.prediction.rows import score_rows, write_parquet
    from palm_cache.prediction.sources import find_heads
    from palm_cache.store.places import place

    source = find_heads(heads)
    scored = score_rows(source.file, [place(address) for address in stores], output.run, loading)
    _say_which(source, output.run, scored.head)
    rows = scored.rows
    shown = parquet is None or output.csv is not None or output.as_json
    if parquet is not None:
        write_parquet(scored.table(output.threshold), parquet)
        (say if shown else tell)(f"{counted(len(rows), 'row')} -> {parquet}")
    if shown:
        paths, over_time = rows["path"].tolist(), scored.over_time
        output.show(source, scored.head, scored.results(), paths, over_time, stores=list(stores))
    return _failed(int((rows["error"] != "").sum()), len(rows), "row")


def _listen(
    heads: str | None,
    audio: Sequence[str],
    classes: str | None,
    loading: LoadingParams,
    settings: PredictParams,
    merge: bool,
    audacity: Path | None,
    output: _Output,
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
    if not (recordings or output.csv or output.as_json):
        for entry in entries:
            if not isinstance(entry, Path):
                _say_failed(entry)
        return _failed(len(entries), len(entries), "input")
    load("palm_cache.prediction.table")
    from palm_cache.prediction.answers import Failure, printable
    from palm_cache.prediction.classifier import Classifier
    from palm_cache.prediction.table import classify

    if source is None:
        classifier = Classifier.zero_shot((classes or "").split(","), loading)
        note(f"zero-shot with {classifier.encoder.spec}; probabilities are not calibrated")
    else:
        classifier = Classifier.load(source, output.run, loading)
        _say_which(source, output.run, classifier.head)
    head = classifier.head
    with progress_bar("seconds" if settings.timeline else "files") as progress:
        results = classify(classifier, entries, settings, merge=merge, progress=progress)
        if tracks is not None:
            results = _labelled(results, tracks, head, output.threshold)
        paths = list(map(printable, recordings))
        try:
            failed = output.show(source, head, results, paths, settings.timeline, encoder=head.run.encoder)
        except OSError:  # of standard output; the tracks are files of their own
            if tracks is not None:
                note("standard output takes no more; the labels are written to the end")
                for result in results:
                    if isinstance(result, Failure):
                        _say_failed(result)
            raise
    if tracks is not None and tracks.written:
        say(f"labels of {counted(tracks.written, 'recording')} -> {audacity}")
    return _failed(failed, len(entries), "input")


def _say_failed(failure: Failure) -> None:
    say(f"failed {failure.path}: {failure.reason}")


def _failed(count: int, of_all: int, noun: str) -> str:
    return f"{count:,} of {counted(of_all, noun)} failed" if count else ""


def _say_which(heads: HeadSource, run: str | None, head: FittedHead) -> None:
    """Say which run it is and what its probabilities are worth."""
    from palm_cache.store.run_names import run_name
    from palm_cache.store.shared import runs_in

    name, best = run_name(head.run), head.calibration is not None
    worth = "calibrated" if best else "not calibrated"
    if head.run.shots < 2:
        worth += ": it learned from no shots that could be held out"
    elif heads.many and not best:
        worth += f": {command_line('calibrate', heads.name, run=name)}"
    runs = len(runs_in(heads.file)) if run is None else 1
    why = ": of the heads calibrated on its shots, the one with the least held-out loss" if best else ""
    chosen = f", one of {runs} runs (another: --run){why}" if runs > 1 else ""
    note(f"{name}{chosen}; probabilities are {worth}")


def _labelled(
    results: Iterator[Result], tracks: LabelTracks, head: FittedHead, threshold: float
) -> Iterator[Result]:
    """Write the label track of results while they pass."""
    from palm_cache.prediction.answers import Failure, label_of

    with closing(tracks):
        for result in results:
            if not isinstance(result, Failure):
                label = label_of(result.probabilities, head.class_names, threshold)
                named = label if label in head.class_names else None
                tracks.write(result.path, result.start, result.end, named)
            yield result
