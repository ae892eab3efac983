"""TUT2017: TUT Acoustic Scenes 2017, development set; 10 s each of fifteen places."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import palm_tables_first
from palm_cache.extraction.datasets.tables import TableRow, build_table
from palm_cache.types import ClipTable


@palm_tables_first
def read(root: Path, dataset: str) -> ClipTable:
    """Read ``meta.txt`` and the train and evaluation list of every fold in ``evaluation_setup``."""
    scenes = {values[0]: values[1] for _, values in _lines(root / "meta.txt", fields=2)}
    lists = root / "evaluation_setup"
    matches = (re.fullmatch(r"fold(\d{1,9})_train\.txt", file.name) for file in lists.glob("fold*_train.txt"))
    found = {int(match[1]) for match in matches if match}
    numbers = range(1, min(max(found, default=0), len(found) + 1) + 1)
    if not numbers:
        raise DataError(f"{lists}: no fold1_train.txt; TUT2017 as published has a list per fold here")
    folds = [
        (
            _rows(lists / f"fold{number}_train.txt", scenes),
            _rows(lists / f"fold{number}_evaluate.txt", scenes),
        )
        for number in numbers
    ]
    return build_table(dataset, root, folds, [FOLDS_NOTE])


def _rows(file: Path, scenes: dict[str, str]) -> list[TableRow]:
    rows = []
    for line, values in _lines(file, fields=1):
        path, scene = values[0], scenes.get(values[0])
        if scene is None:
            raise DataError(f"{file.name}, row {line}: {path} is not in meta.txt; complete the metadata")
        if len(values) > 1 and values[1] != scene:
            raise DataError(f"{file.name}, row {line}: {path} is {values[1]!r} here, {scene!r} in meta.txt")
        rows.append(TableRow(file.name, line, path, scene))
    if not rows:
        raise DataError(f"{file}: the list has no rows")
    return rows


def _lines(file: Path, fields: int) -> list[tuple[int, list[str]]]:
    """Read the tab-separated fields of every line that is not empty, with its number."""
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
            reader = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            lines = [(reader.line_num, [value.strip() for value in values]) for values in reader if values]
    except OSError as error:
        raise DataError(f"{file}: cannot read the list: {error.strerror}") from error
    for line, values in lines:
        if len(values) < fields or not all(values[:fields]):
            raise DataError(f"{file.name}, row {line}: {counted(fields, 'field')} separated by tabs expected")
    return lines


FOLDS_NOTE = (
    "the published folds test on 1,170 to 1,173 clips; the PALM authors' tables of folds 2 to 4 on as many "
    "as the training lists hold, 3,507 to 3,510: train and test seem to overlap, and scores do not compare"
)

CARD = DatasetCard(
    name="TUT2017",
    aliases=(
        "tut-2017",
        "tut_2017",
        "tut",
        "tut-acoustic-scenes-2017",
        "tut-acoustic-scenes-2017-development",
    ),
    description="acoustic scenes: 10 s each of fifteen places, in four predefined folds",
    source="https://zenodo.org/records/400515",
    licence="for non-commercial research, on terms of its own",
    size="12.3 GB",
    how_to_get="palm-cache download TUT2017, or get it from the source and unpack it there",
    split=f"four folds: {FOLDS_NOTE}",
    tree="""\
meta.txt                                                    tab-separated: path, scene, recording
evaluation_setup/fold1_train.txt, fold1_evaluate.txt ...    tab-separated: path, scene
audio/*.wav
""",
    class_names=(
        "beach",
        "bus",
        "cafe/restaurant",
        "car",
        "city_center",
        "forest_path",
        "grocery_store",
        "home",
        "library",
        "metro_station",
        "office",
        "park",
        "residential_area",
        "train",
        "tram",
    ),
    test_clips=(1170, 3507, 3507, 3510),
    published_test_clips=(1170, 1173, 1173, 1170),
    n_clips=4680,
    bibtex="""\
@inproceedings{mesaros2016tut,
  author = {Mesaros, Annamaria and Heittola, Toni and Virtanen, Tuomas},
  title = {{TUT} Database for Acoustic Scene Classification and Sound Event Detection},
  booktitle = {24th European Signal Processing Conference (EUSIPCO)},
  pages = {1128--1132},
  year = {2016},
  doi = {10.1109/EUSIPCO.2016.7760424}
}
""",
    hub="MahiA/TUT2017",
    read=read,
)
