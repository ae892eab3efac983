"""Commands around fitted heads: predict, calibrate, export."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from palm_cache.cli.extraction import DeviceOption, SameEncoderOption, TokenizerOption, choice
from palm_cache.cli.results import Rows, TableRows, Telling, csv_rows, json_rows
from palm_cache.cli.terminal import Json, one_line_errors, print_json, print_table, progress_bar, say, tell
from palm_cache.errors import DataError
from palm_cache.params import CLIP_TOKENIZER
from palm_cache.prediction.answers import Failure, Prediction, Stretch, printable
from palm_cache.store.atomic import keep_inputs
from palm_cache.types import spell_shots

if TYPE_CHECKING:
    from palm_cache.prediction.classifier import Classifier
    from palm_cache.prediction.export import Form
    from palm_cache.types import Run

SOME_FAILED = 3
"""Exit code of ``predict`` where some inputs got no answer."""

UNHEARD_SECONDS = 0.1
"""What the crop may leave out of a file before the user is told."""

MOST_AT_ONCE = 4096
"""Clips or windows that are held in memory for one encoder call."""

FORMS = ("safetensors", "onnx", "torchscript")


def complete_forms(incomplete: str) -> list[str]:
    """Return the forms of export that begin like this."""
    return [name for name in FORMS if name.startswith(incomplete)]


HeadsArgument = Annotated[Path, typer.Argument(help="A heads.h5 file, or the folder that it lies in.")]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="A run of the file, by its name or the beginning of it: palm, palm-16shots.",
        metavar="NAME",
        show_default="palm, else a head that learns; most shots, first fold and seed",
    ),
]


def predict(
    heads: HeadsArgument,
    audio: Annotated[
        list[str],
        typer.Argument(
            help="Files; folders, searched for audio; patterns in quotes; - for paths on standard input, "
            "one a line or NUL-ended.",
        ),
    ],
    run: RunOption = None,
    top: Annotated[int, typer.Option(help="Name so many classes.", min=1)] = 1,
    threshold: Annotated[
        float, typer.Option(help='Say "none of these" where no class is as probable.', min=0, max=1)
    ] = 0.0,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Slide a window over recordings of any length.")
    ] = False,
    window: Annotated[
        float | None, typer.Option(help="Seconds heard at once.", show_default="the encoder's window")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(help="Seconds from window to window.", show_default="the window")
    ] = None,
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
    as_json: Json = False,
    encoder: SameEncoderOption = None,
    tokenizer: TokenizerOption = None,
    device: DeviceOption = None,
    batch_size: Annotated[
        int, typer.Option(help="Clips or windows per encoder call.", min=1, max=MOST_AT_ONCE)
    ] = 16,
) -> None:
    """Say what is heard in audio files, with a fitted head.

    One answer per file: of what is longer than the encoder reads at once, the centre counts, as in training.
    With --timeline every second is heard: start, end and label of each stretch, in flat memory.
    Files that cannot be read, and silence, are named; the rest goes on, and the exit code is 3.

    Examples: palm-cache predict runs/demo/mini/heads.h5 recordings/ --top 3 --threshold 0.5

    palm-cache predict runs/demo/mini/heads.h5 night.flac --timeline --hop 1 --audacity night.txt
    """
    _check_options(timeline, {"--window": window, "--hop": hop, "--audacity": audacity}, csv, as_json)
    if not threshold >= 0:  # click lets NaN pass its bounds
        raise typer.BadParameter(f"{threshold} is not a probability", param_hint="--threshold")
    with one_line_errors("what was printed or written stands"), ExitStack() as stack:
        from palm_cache.prediction.inputs import find_recordings

        classifier = _load(heads, run, encoder, device, tokenizer)
        found = find_recordings(audio, _read_stdin)
        recordings = [entry for entry in found if isinstance(entry, Path)]
        for option, output in (("--csv", csv), ("--audacity", audacity)):
            keep_inputs([output] if output else [], [_file(heads), *recordings], option)
        top = min(top, len(classifier.class_names))
        telling = Telling(classifier.class_names, top, threshold, over_time=timeline)
        progress = stack.enter_context(progress_bar("seconds" if timeline else "files"))
        results: Iterator[Prediction | Stretch | Failure]
        if timeline:
            from palm_cache.prediction.timeline import Sliding, join, listen

            sliding = Sliding.over(classifier, window, hop)
            stretches = listen(classifier, found, sliding, batch_size=batch_size, progress=progress)
            if merge:
                stretches = join(stretches, lambda stretch: telling.label(stretch.probabilities))
            results = _labelled(stretches, telling, audacity, found) if audacity else stretches
        else:
            from palm_cache.prediction.clips import predict_files

            results = predict_files(classifier, found, batch_size=batch_size, progress=progress)
        about = _about(heads, classifier, telling) if as_json else None
        failed = _tell(results, telling, _rows(stack, telling, found, csv, about), classifier)
    if failed:
        say(f"{failed} of {len(found)} input(s) failed")
        raise typer.Exit(SOME_FAILED)


def calibrate(
    heads: HeadsArgument,
    run: RunOption = None,
    all_runs: Annotated[bool, typer.Option("--all", help="Every run of the file.")] = False,
    store: Annotated[
        str | None,
        typer.Option(help="The feature store, if it is no longer where the heads were fitted on it."),
    ] = None,
    encoder: SameEncoderOption = None,
    device: DeviceOption = None,
    tokenizer: TokenizerOption = None,
    as_json: Json = False,
) -> None:
    """Fit the temperature that turns a run's logits into probabilities, on its own shots, held out.

    The run's shots are split into four parts; a head fitted like the run's on three of them scores the
    fourth, and so on. Test clips take no part. palm-cache fit does this by itself for the run that predict
    takes first, unless the head learns words.

    Example: palm-cache calibrate runs/demo/mini/heads.h5 --run coop
    """
    if all_runs and run is not None:
        raise typer.BadParameter("give --run or --all, not both", param_hint="--all")
    with one_line_errors("nothing was changed"):
        from palm_cache.adaptation.calibration import calibrate_file
        from palm_cache.extraction.encoders.registry import load_text_tower
        from palm_cache.store.heads import choose_run, read_runs, run_name
        from palm_cache.store.places import place

        file = _file(heads)
        runs = read_runs(file)
        with progress_bar("runs") as progress:
            done = calibrate_file(
                file,
                runs if all_runs else [choose_run(runs, run)],
                store=place(store) if store else None,
                load_tower=partial(
                    load_text_tower,
                    device=device or "auto",
                    tokenizer=tokenizer or CLIP_TOKENIZER,
                    named=encoder,
                ),
                progress=progress,
            )
        if not any(one.calibration for one in done):
            raise DataError(done[0].problem)
    for one in done:
        if one.problem:
            say(f"note: not calibrated: {one.problem}")
    known = {run_name(one.run): one.calibration for one in done if one.calibration}
    if as_json:
        print_json({name: asdict(found) for name, found in known.items()})
        return
    print_table(
        ("run", "temperature", "held-out shots", "loss before", "loss"),
        [
            [
                name,
                f"{found.temperature:.3f}",
                str(found.n_clips),
                f"{found.loss_before:.3f}",
                f"{found.loss:.3f}",
            ]
            for name, found in known.items()
        ],
    )


def export(
    heads: HeadsArgument,
    to: Annotated[
        str, typer.Option("--to", help=f"{', '.join(FORMS)}.", metavar="FORM", autocompletion=complete_forms)
    ],
    run: RunOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="named after the run, beside HEADS")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a fitted head for other programs, with a card in JSON that says what it is.

    safetensors: class embeddings, scale and temperature (other heads: their state). onnx, torchscript: a
    graph from embeddings to logits and probabilities, compared with the head before it is called done. The
    card names classes, encoder, fingerprint, window, scores and licences.

    Example: palm-cache export runs/demo/mini/heads.h5 --to onnx --out demo.onnx
    """
    form = cast("Form", choice("--to", to, FORMS))
    with one_line_errors():
        from palm_cache.prediction.export import export_head

        done = export_head(_file(heads), form, run, out)
    if as_json:
        print_json({"file": str(done.file), "card_file": str(done.card_file), "card": done.card})
        return
    tell(f"{done.card['run']} -> {done.file}, {done.card_file}")
    if form == "torchscript":
        say("note: torch calls TorchScript deprecated; ONNX is the form to build on")


def register(app: typer.Typer) -> None:
    """Add the commands that use fitted heads."""
    panel = "Using a head"
    for command in (predict, calibrate, export):
        app.command(rich_help_panel=panel)(command)


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


def _file(heads: Path) -> Path:
    return heads / "heads.h5" if heads.is_dir() else heads


def _load(
    heads: Path, run: str | None, encoder: str | None, device: str | None, tokenizer: str | None
) -> Classifier:
    """Load head and encoder, and say which run it is and what its probabilities are worth."""
    from palm_cache.prediction.classifier import Classifier
    from palm_cache.store.heads import read_runs, run_name

    file = _file(heads)
    classifier = Classifier.load(
        file, run, encoder=encoder, device=device or "auto", tokenizer=tokenizer or CLIP_TOKENIZER
    )
    head, runs = classifier.head, read_runs(file)
    name, calibration = run_name(head.run), head.calibration
    if calibration:
        worth = f"probabilities calibrated on {calibration.n_clips} held-out shots"
    elif head.run.shots:
        worth = f"probabilities are not calibrated: palm-cache calibrate {file} --run {name}"
    else:
        worth = "probabilities are not calibrated: it learned from no shots that could be held out"
    others = f", one of {len(runs)} runs ({_kinds(runs)}; choose with --run)" if len(runs) > 1 else ""
    say(f"note: {name}{others if run is None else ''}; {worth}")
    return classifier


def _about(heads: Path, classifier: Classifier, telling: Telling) -> dict[str, object]:
    """Return what a JSON document says before its results."""
    from palm_cache.store.heads import run_name

    head = classifier.head
    return {
        "heads": str(_file(heads)),
        "run": run_name(head.run),
        "encoder": classifier.encoder.spec,
        "classes": list(head.class_names),
        "calibration": asdict(head.calibration) if head.calibration else None,
        "threshold": telling.threshold,
    }


def _rows(
    stack: ExitStack,
    telling: Telling,
    found: Sequence[Path | Failure],
    csv: Path | None,
    about: Mapping[str, object] | None,
) -> Rows:
    """Return where results go; the stack brings it to its end."""
    if about is not None:
        return stack.enter_context(json_rows(about))
    if csv is not None:
        return stack.enter_context(csv_rows(telling, csv))
    return TableRows(telling, [printable(entry) for entry in found if isinstance(entry, Path)])


def _labelled(
    results: Iterator[Stretch | Failure], telling: Telling, target: Path, found: Sequence[Path | Failure]
) -> Iterator[Stretch | Failure]:
    """Write label tracks while results pass."""
    from palm_cache.prediction.label_tracks import LabelTracks

    with LabelTracks(target, [entry for entry in found if isinstance(entry, Path)]) as tracks:
        for result in results:
            if isinstance(result, Stretch):
                label = telling.label(result.probabilities)
                named = label if label in telling.class_names else None
                tracks.write(result.path, result.start, result.end, named)
            yield result


def _tell(
    results: Iterator[Prediction | Stretch | Failure], telling: Telling, rows: Rows, classifier: Classifier
) -> int:
    """Show results as they come; return how many inputs failed."""
    failed = cropped = 0
    remarks: dict[str, list[str]] = {}
    for result in results:
        rows.write(telling.row(result))
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
        seconds = classifier.longest / classifier.encoder.sample_rate
        say(
            f"note: {cropped} file(s) last longer than the {seconds:g} s that {classifier.encoder.spec} "
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
