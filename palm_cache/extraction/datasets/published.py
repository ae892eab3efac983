"""The known datasets in the layouts that their makers publish, and in that of the PALM authors' copies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets import palm_layout
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.class_names import named
from palm_cache.extraction.datasets.clip_tables import build_table
from palm_cache.extraction.datasets.columns import read_annotated
from palm_cache.extraction.datasets.listing import list_files
from palm_cache.extraction.datasets.rows import Content, Rows, TableRow
from palm_cache.extraction.datasets.splits import held_out
from palm_cache.extraction.datasets.texts import decode, read_table
from palm_cache.params import ReadingParams
from palm_cache.store.atomic import parse_json
from palm_cache.types import ClipTable, Place

ORDER_NOTE = (
    "read as published: its rows come in another order than in the PALM authors' tables, "
    "so the few-shot draw is not theirs"
)

VOCALSOUND_FOLDERS = ("audio_44k", "data_44k", "audio_16k")
"""As the two releases name them; the first that is there is read."""


def read(card: DatasetCard, root: Place, reading: ReadingParams = ReadingParams()) -> ClipTable:  # noqa: B008
    """Read a known dataset by its PALM tables if its folder has any, else in its published layout.

    The tables may lie beside a published tree: a clip is then found by its file name.

    Raises
    ------
    DataError
        If tables or lists are missing or malformed, or only PALM tables would hold the paper's split.
    """
    if palm_layout.has_tables(root):
        content = palm_layout.read_folds(root, reading)
    elif card.layout:
        told = dict(card.layout)
        content = LAYOUTS[told.pop("kind")](card, root, **told)
        content = replace(content, notes=[*filter(None, [card.hub and ORDER_NOTE, card.note])])
    else:
        raise _unsplit(card, root)
    if card.subset:
        content = _of_its_classes(card, content)
    table = build_table(card.name, root, content, reading)
    return replace(table, notes=(*table.notes, *_contradictions(card, table)))


def _class_of(card: DatasetCard, path: PurePosixPath) -> str | None:
    """Return the class that a file's name tells, if it does."""
    told = re.search(card.class_in_name, path.stem) if card.class_in_name else None
    return told and (card.codes.get(told[1]) if card.codes else told[1])


def _unsplit(card: DatasetCard, root: Place) -> DataError:
    found = (_class_of(card, PurePosixPath(path)) for path in list_files(root).audio)
    classes = Counter(filter(None, found))
    return DataError(
        f"{root}: {counted(classes.total(), 'clip')} of "
        f"{counted(len(classes), 'class', 'classes')}, but {card.name} is published "
        "without the paper's train/test split, which only the PALM authors' tables hold; put those "
        f"(train.csv and test.csv, or csv_files/) beside the audio, or: palm-cache download {card.name}"
    )


def _of_its_classes(card: DatasetCard, content: Content) -> Content:
    """Return the rows of the card's classes only, and a note where there are others."""
    kept, folds = content.rows.class_name.are(card.class_names.__contains__), content.folds or []
    train, test = folds[0]
    others = content.rows.take(np.concatenate([part[~kept[part]] for part in (train, test)]))
    if not len(others):
        return content
    left_out = [name or "None" for name in others.class_name.texts]
    note = (
        f"classes that {card.name} leaves out are not read: {named(sorted(left_out))}; the order of its "
        "clips may not be that of the PALM authors' tables"
    )
    of_classes = [(train[kept[train]], test[kept[test]]) for train, test in folds]
    return replace(content, folds=of_classes, notes=[*content.notes, note])


def _contradictions(card: DatasetCard, table: ClipTable) -> list[str]:
    """Say which classes of tables, which decide, are others than the file names tell."""
    contradictions = []
    for clip in table.clips if card.class_in_name else ():
        told, name = _class_of(card, PurePosixPath(clip.name)), table.class_of(clip)
        if told not in (None, name):
            contradictions.append(f"{clip.name} is {name!r} in the tables, {told!r} by its name")
    if not contradictions:
        return []
    contradicting = counted(len(contradictions), "clip contradicts its", "clips contradict their")
    return [f"{contradicting} file name, e.g. {contradictions[0]}"]


def _cross_validation(
    card: DatasetCard, root: Place, metadata: str, columns: Mapping[str, str], clips: str
) -> Content:
    """Read metadata that gives every clip a fold; fold K tests on the clips of fold K.

    Parameters
    ----------
    metadata : str
        Path of a CSV. Folds and classes are what it holds, so that stand-ins of any size can be read.
    columns : mapping
        Names of the columns with path, fold and label; underscores in labels become spaces.
    clips : str
        Path of a clip by its ``name`` and ``fold``.

    Raises
    ------
    DataError
        If the metadata is missing, malformed or skips a fold.
    """
    top = root / PurePosixPath(metadata).name  # Kaggle's copies have it there
    file = top if top.is_file() and not (root / metadata).is_file() else root / metadata
    table = read_table(file)
    absent = [name for name in columns.values() if name not in table.header]
    if absent:
        raise DataError(
            f"{file}: no column {' or '.join(map(repr, absent))}; "
            f"it has {', '.join(map(repr, table.header)) or 'none'}, wanted {', '.join(columns.values())}"
        )
    rows, folds = [], []
    for row in read_annotated(table, columns, labelled=True):
        if not re.fullmatch(r"0*[1-9]\d{0,8}", row.part):
            raise DataError(f"{row}: fold {row.part!r} is not a whole number from 1")
        folds.append(int(row.part))
        path = clips.format(name=row.path, fold=folds[-1])
        rows.append(row._replace(path=path, class_name=str(row.class_name).replace("_", " ")))
    numbers = sorted(set(folds))
    if not rows:
        raise DataError(f"{file}: the table has no rows")
    if len(numbers) < 2:
        raise DataError(f"{file}: only fold {numbers[0]}; testing on one fold needs others to train on")
    skipped = sorted(set(range(1, min(numbers[-1], len(numbers) + 1) + 1)) - set(numbers))
    if skipped:
        raise DataError(f"{file}: no rows for fold {', '.join(map(str, skipped))}; complete the metadata")
    return Content(Rows.of(rows), folds=held_out(np.array(folds), numbers))


def _class_in_name(card: DatasetCard, root: Place, part: str) -> Iterator[TableRow]:
    """Read a folder in which file names tell the class."""
    audio = list_files(root / part).audio
    if not audio:
        published = f"{card.name} as published has the folders train and test"
        raise DataError(f"{root / part}: no audio files; {published}")
    for number, path in enumerate(audio, start=1):
        yield TableRow(part, number, f"{part}/{path}", _class_of(card, PurePosixPath(path)))


def _nsynth(card: DatasetCard, root: Place, part: str) -> Iterator[TableRow]:
    """Read ``examples.json`` of a folder: notes by name, with their family."""
    file = root / part / "examples.json"
    notes = _read_json(file)
    if not isinstance(notes, dict):
        raise DataError(f"{file}: notes by name expected, found a {type(notes).__name__}")
    for number, (name, note) in enumerate(notes.items(), start=1):
        family = note.get("instrument_family_str") if isinstance(note, dict) else None
        if not isinstance(family, str):
            raise DataError(f"{file}: note {name!r} has no instrument_family_str")
        yield TableRow(f"{part}/examples.json", number, f"{part}/audio/{name}.wav", family)


def _vocalsound(card: DatasetCard, root: Place, part: str) -> Iterator[TableRow]:
    """Read a list of ``datafiles``, in which file names tell the class."""
    folder = next((name for name in VOCALSOUND_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        wanted = " or ".join(VOCALSOUND_FOLDERS)
        raise DataError(f"{root}: no folder {wanted}; VocalSound as published has one")
    file = root / "datafiles" / f"{part}.json"
    content = _read_json(file)
    entries = content.get("data") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file}: a list of recordings under 'data' expected")
    for number, entry in enumerate(entries, start=1):
        wav = entry.get("wav") if isinstance(entry, dict) else None
        # The lists carry the paths of the machine that they were made on.
        path = PurePosixPath(wav if isinstance(wav, str) else "")
        sound = _class_of(card, path)
        if sound is None:
            known = f"known: {', '.join(card.codes)}"
            raise DataError(f"{file}, entry {number}: {path.name or entry!r} names no sound; {known}")
        yield TableRow(f"datafiles/{file.name}", number, f"{folder}/{path.name}", sound)


def _two_parts(
    rows: Callable[[DatasetCard, Place, str], Iterator[TableRow]], train: str, test: str
) -> Callable[[DatasetCard, Place], Content]:
    return lambda card, root: Content.of_folds([(rows(card, root, train), rows(card, root, test))])


def _tut(card: DatasetCard, root: Place) -> Content:
    """Read ``meta.txt`` and the train and evaluation list of every fold in ``evaluation_setup``."""
    scenes = {values[0]: values[1] for _, values in _lines(root / "meta.txt", fields=2)}
    lists = root / "evaluation_setup"
    numbers = palm_layout.fold_numbers(lists, r"fold(\d{1,9})_train\.txt")
    if not numbers:
        raise DataError(f"{lists}: no fold1_train.txt; {card.name} as published has a list per fold here")

    def rows(file: Place) -> Iterator[TableRow]:
        listed = _lines(file, fields=1)
        if not listed:
            raise DataError(f"{file}: the list has no rows")
        for line, (path, *more) in listed:
            scene = scenes.get(path)
            if scene is None:
                raise DataError(f"{file.name}, row {line}: {path} is not in meta.txt; complete the metadata")
            if more and more[0] != scene:
                raise DataError(f"{file.name}, row {line}: {path} is {more[0]!r} here, {scene!r} in meta.txt")
            yield TableRow(file.name, line, path, scene)

    return Content.of_folds(
        (rows(lists / f"fold{number}_train.txt"), rows(lists / f"fold{number}_evaluate.txt"))
        for number in numbers
    )


def _lines(file: Place, fields: int) -> list[tuple[int, list[str]]]:
    """Read the tab-separated fields of every line that is not empty, with its number."""
    split = (line.split("\t") for line in decode(file).splitlines())
    lines = [(number, [value.strip() for value in values]) for number, values in enumerate(split, start=1)]
    lines = [(number, values) for number, values in lines if any(values)]
    for number, values in lines:
        if len(values) < fields or not all(values[:fields]):
            expected = f"{counted(fields, 'field')} separated by tabs expected"
            raise DataError(f"{file.name}, row {number}: {expected}")
    return lines


def _read_json(file: Place) -> object:
    try:
        return parse_json(decode(file))
    except ValueError as error:
        raise DataError(f"{file}: not JSON: {error}; get the file again") from error


LAYOUTS: dict[str, Callable[..., Content]] = {
    "cross-validation": _cross_validation,
    "part-folders": _two_parts(_class_in_name, "train", "test"),
    "nsynth": _two_parts(_nsynth, "nsynth-train", "nsynth-test"),
    "vocalsound": _two_parts(_vocalsound, "tr", "te"),
    "tut": _tut,
}
"""Readers of published layouts, by the ``kind`` of a card's layout."""
