"""Commands around datasets: datasets, download."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palm_cache.cli.completion import complete_dataset
from palm_cache.cli.options import RootOption, takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.terminal import Json, as_typed, note, print_json, print_table, say, tell
from palm_cache.errors import counted
from palm_cache.params import ReadingParams

if TYPE_CHECKING:  # imported inside commands, so that --help is instant
    from palm_cache.extraction.datasets.card import DatasetCard
    from palm_cache.extraction.datasets.check import Check
    from palm_cache.extraction.datasets.survey import Survey
    from palm_cache.types import Place

FILES_LISTED = 20
"""Missing files that ``datasets --check`` lists; ``--json`` lists all."""

CARD_FIELDS = (
    *("aliases", "class_names", "test_clips", "few_shot_clips", "split", "note", "tree", "how_to_get"),
    *("hub", "bibtex"),
)
"""What ``--json`` says of a card beside what the list of all says."""


@takes(reading=ReadingParams)
def datasets(
    reading: ReadingParams,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show one dataset's card; with --check also a folder.",
            metavar="NAME",
            autocompletion=complete_dataset,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Compare the local copy with the card, open every file; exit 1 if anything is wrong.",
        ),
    ] = False,
    root: RootOption = None,
    as_json: Json = False,
) -> None:
    """List the known datasets, show one's card, or check a copy.

    With --check a folder or table of your own can be checked too: what is understood of it is shown.

    Example: palm-cache datasets --check path/to/birds
    """
    how = reading != ReadingParams()
    if name is None or (not check and how):
        if name is not None:
            raise typer.BadParameter("how a dataset is read goes with --check", param_hint="NAME")
        if check or root is not None or how:
            raise typer.BadParameter("say which dataset (see: palm-cache datasets)", param_hint="NAME")
        _list_all(as_json)
    elif check:
        _check(name, root, reading, as_json)
    else:
        _show_card(name, root, as_json)


def download(
    name: Annotated[
        str, typer.Argument(help="Which dataset.", metavar="NAME", autocompletion=complete_dataset)
    ],
    root: Annotated[
        Path | None, typer.Option(help="The folder to make.", metavar="DIR", show_default="data/raw/<Name>")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download the PALM authors' copy of a dataset.

    It can be interrupted and run again: what has arrived is kept. The folder appears when it is complete.

    Example: palm-cache download esc50
    """
    from palm_cache.extraction.datasets.download import download as run
    from palm_cache.extraction.datasets.registry import default_root, read_dataset, require_card

    card = require_card(name)
    folder = root or default_root(card)
    with progress_bar("MB") as progress:
        copy = run(card, folder, announce=say, progress=progress)
    table = read_dataset(card.name, folder)
    note(*table.notes)
    if as_json:
        clips = {"clips": len(table.clips), "notes": as_typed(table.notes)}
        source = {"dataset": card.name, "folder": str(folder), "repository": copy.repository}
        print_json({**source, "revision": copy.revision, "bytes": copy.n_bytes, **clips})
        return
    tell(
        f"{counted(len(table.clips), 'clip')} -> {folder} ({copy.repository}, revision {copy.revision[:12]})"
    )


def _list_all(as_json: bool) -> None:
    from palm_cache.extraction.datasets.registry import CARDS, root_of

    rows = [_facts(card, root_of(card)) for card in CARDS]
    if as_json:
        print_json(rows)
        return
    keys = ("name", "classes", "folds", "clips", "size", "licence", "source")
    print_table(
        ("dataset", "here", *keys[1:]),
        [
            [
                row["name"],
                row["looked_for"] if row["here"] else "no",
                *("" if row[key] is None else str(row[key]) for key in keys[1:]),
            ]
            for row in rows
        ],
    )
    tell("One of them: palm-cache datasets NAME; get it: palm-cache download NAME.")
    tell("Your own data works too; what is made of it: palm-cache datasets --check PATH.")


def _facts(card: DatasetCard, folder: Place) -> dict[str, Any]:
    """Return what the list shows of a card, and of its dataset in a folder."""
    return {
        "name": card.name,
        "classes": card.n_classes,
        "folds": card.n_folds,
        "clips": card.n_clips,
        **{key: getattr(card, key) for key in ("size", "licence", "source", "description")},
        "here": folder.is_dir(),
        "looked_for": str(folder),
    }


def _show_card(name: str, root: str | None, as_json: bool) -> None:
    from palm_cache.extraction.datasets.registry import require_card, root_of
    from palm_cache.store.places import place

    card = require_card(name)
    folder = place(root) if root else root_of(card)
    if as_json:
        print_json(
            {
                **_facts(card, folder),
                **{key: getattr(card, key) for key in CARD_FIELDS},
                "published_test_clips": card.published_test_clips or card.test_clips,
            }
        )
        return
    clips = "unknown" if card.n_clips is None else f"{card.n_clips:,}"
    lines = [
        f"{card.name}: {card.description}",
        f"  also known as: {', '.join(card.aliases) or '-'}",
        f"  here: {folder if folder.is_dir() else f'no (looked for in {folder})'}",
        f"  get it: {card.how_to_get}",
        f"  source: {card.source}",
        f"  licence: {card.licence}",
        f"  size: {card.size}",
        f"  classes: {card.n_classes}: {', '.join(card.class_names)}",
        f"  clips: {clips}; per fold {card.few_shot_clips:,} for training at 16 shots, "
        f"for test {', '.join(f'{count:,}' for count in card.test_clips)}",
        f"  split: {card.split}",
        *([f"  note: {card.note}"] if card.note else []),
        "  published layout (the PALM layout is read too):",
        indent(card.tree, "    ").rstrip(),
    ]
    if card.bibtex:
        lines += ["  cite:", indent(card.bibtex, "    ").rstrip()]
    tell(*"\n".join(lines).split("\n"))  # a reference has several


def _check(name: str, root: str | None, reading: ReadingParams, as_json: bool) -> None:
    from palm_cache.extraction.datasets.registry import check_dataset
    from palm_cache.extraction.datasets.survey import survey
    from palm_cache.store.places import place

    check = check_dataset(name, place(root) if root else None, reading=reading)
    with progress_bar("files") as progress:
        facts = survey(check.table, progress)
    sound = check.sound and not facts.unreadable
    if as_json:
        print_json(_check_facts(check, facts, sound))
    else:
        tell(*_check_lines(check, facts, sound))
        note(*check.table.notes)
    if not sound:
        raise typer.Exit(1)


def _check_facts(check: Check, facts: Survey, sound: bool) -> dict[str, Any]:
    table = check.table
    counts = Counter(table.clips.labels)
    return {
        "dataset": table.dataset,
        "source": table.source,
        "folder": str(check.folder),
        "sound": sound,
        "clips": len(table.clips),
        "files": len(set(table.clips.names)),
        "classes": table.class_names,
        "clips_per_class": {name: counts[label] for label, name in enumerate(table.class_names)},
        "unlabelled": counts[-1],
        "folds": [{"train": len(fold.train), "test": len(fold.test)} for fold in table.folds],
        "seconds": {
            "total": sum(facts.seconds),
            **dict(zip(("shortest", "median", "longest"), _spread(facts.seconds), strict=False)),
        },
        "rates": facts.rates,
        "channels": facts.channels,
        "unreadable": dict(facts.unreadable),
        "duplicates": facts.twins,
        "findings": facts.findings,
        "differences": check.differences,
        "missing": check.table.missing,
        "notes": as_typed(table.notes),
    }


def _check_lines(check: Check, facts: Survey, sound: bool) -> Iterator[str]:
    table = check.table
    numbers = (
        counted(len(table.clips), "clip"),
        counted(len(table.class_names), "class", "classes"),
        counted(len(table.folds), "fold"),
    )
    verdict = "OK" if sound else "not as it should be"
    yield f"{table.dataset} in {check.folder}: {verdict}; {', '.join(numbers)}"
    yield from (f"  {difference}" for difference in check.differences)
    yield from _some([f"missing or empty: {file}" for file in check.table.missing])
    yield from _some([f"cannot be read: {file}: {why}" for file, why in facts.unreadable])
    counts = Counter(table.clips.labels)
    if table.class_names:
        classes = (f"{name} ({counts[label]:,})" for label, name in enumerate(table.class_names))
        yield f"  classes: {', '.join(classes)}"
    if counts[-1]:
        yield f"  unlabelled: {counts[-1]:,}"
    for number, fold in enumerate(table.folds, start=1):
        yield f"  fold {number}: {len(fold.train):,} to train on, {len(fold.test):,} to test on"
    if facts.seconds:
        low, middle, high = _spread(facts.seconds)
        yield (
            f"  length: {sum(facts.seconds) / 3600:.2f} h in {counted(len(facts.seconds), 'file')}; "
            f"{low:.2f} s to {high:.2f} s, half of them up to {middle:.2f} s"
        )
        rates = ", ".join(f"{rate:,} Hz ({count:,})" for rate, count in facts.rates.items())
        channels = ", ".join(f"{count:,} of {counted(n, 'channel')}" for n, count in facts.channels.items())
        yield f"  rates: {rates}; {channels}"
    yield from _some([f"the same content: {', '.join(names)}" for names in facts.twins])
    yield from (f"  {finding}" for finding in facts.findings)


def _some(lines: list[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:FILES_LISTED])
    if len(lines) > FILES_LISTED:
        yield f"  and {counted(len(lines) - FILES_LISTED, 'more file')}; all of them with --json"


def _spread(seconds: Sequence[float]) -> tuple[float, ...]:
    """Return the shortest, the median and the longest length; none of none."""
    return (seconds[0], seconds[len(seconds) // 2], seconds[-1]) if seconds else ()
