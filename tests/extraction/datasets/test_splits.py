"""Folds where a dataset has none: nothing that belongs together is torn apart."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import write_miniature
from numpy.typing import NDArray
from samples import write_tone

from palm_cache.errors import DataError
from palm_cache.extraction.datasets import splits
from palm_cache.extraction.datasets.listing import sizes_below
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.datasets.rows import Rows, TableRow
from palm_cache.extraction.datasets.splits import KnownContents, split, twins
from palm_cache.params import ReadingParams


def row(
    number: int, name: str | None = "wren", *, part: str = "", group: str = "", path: str = ""
) -> TableRow:
    return TableRow("x.csv", number + 2, path or f"{number}.wav", name, part=part, group=group)


def folds_of(rows: list[TableRow], **reading: int) -> list[tuple[list[TableRow], list[TableRow]]]:
    params = ReadingParams(**reading)  # type: ignore[arg-type]
    folds, _ = split(Rows.of(rows), None, params, lambda asked: np.arange(len(asked)))
    return [([rows[row] for row in train], [rows[row] for row in test]) for train, test in folds]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123456")), min_size=2),
    st.integers(2, 6),
    st.integers(0, 3),
)
def test_every_row_is_tested_once_and_no_group_is_torn_apart(
    drawn: list[tuple[str, str]], folds: int, seed: int
) -> None:
    rows = [row(number, name, group=group) for number, (name, group) in enumerate(drawn)]
    made = folds_of(rows, folds=folds, seed=seed)
    if len({group for _, group in drawn}) == 1:
        assert made == [(rows, [])]
        return
    assert len(made) == min(folds, len({group for _, group in drawn}))
    assert Counter(row for _, test in made for row in test) == Counter(rows)
    for train, test in made:
        assert train
        assert test
        assert not {row.group for row in train} & {row.group for row in test}
        assert sorted(row.line for row in train + test) == sorted(row.line for row in rows)
    assert made == folds_of(rows, folds=folds, seed=seed)


def test_folds_hold_as_much_of_every_class_as_can_be_and_follow_the_seed() -> None:
    rows = [row(number, "abc"[number % 3] if number < 45 else "a") for number in range(60)]
    for seed in range(3):
        counts = [Counter(row.class_name for row in test) for _, test in folds_of(rows, seed=seed)]
        assert counts == [Counter({"a": 6, "b": 3, "c": 3})] * 5
    assert folds_of(rows, seed=0) != folds_of(rows, seed=1)


def test_stretches_of_a_recording_stay_together() -> None:
    rows = [row(number, "ab"[number % 2], path=f"{number % 4}.wav") for number in range(40)]
    for train, test in folds_of(rows):
        assert not {row.path for row in train} & {row.path for row in test}


def test_folders_of_sites_stay_together_and_folders_of_classes_do_not() -> None:
    sites = [row(number, "ab"[number % 2], path=f"site{number % 5}/{number}.wav") for number in range(40)]
    for train, test in folds_of(sites):
        assert not {row.path.split("/")[0] for row in train} & {row.path.split("/")[0] for row in test}
    classes = [row(number, "ab"[number % 2], path=f"{'ab'[number % 2]}/{number}.wav") for number in range(40)]
    assert [len(test) for _, test in folds_of(classes)] == [8] * 5


def test_twins_stay_together_whatever_they_are_called(tmp_path: Path) -> None:
    for number in range(6):
        write_tone(tmp_path / "wren" / f"{number}.wav", 300 + number, seconds=0.1, seed=number)
        shutil.copy(tmp_path / "wren" / f"{number}.wav", tmp_path / "wren" / f"copy of {number}.wav")
    table = read_dataset(str(tmp_path), reading=ReadingParams(layout="folders", folds=3))
    assert len(table.folds) == 3
    for fold in table.folds:
        train, test = (
            {table.clips[row].file.read_bytes() for row in rows.tolist()} for rows in (fold.train, fold.test)
        )
        assert not train & test
    names = [*table.clips.names]
    assert set(twins_of(tmp_path, names)) == {(f"wren/{n}.wav", f"wren/copy of {n}.wav") for n in range(6)}


def twins_of(
    root: Path, names: Sequence[str], contents: KnownContents | None = None
) -> list[tuple[str, ...]]:
    groups: dict[int, list[str]] = {}
    for name, first in zip(
        names, twins(root, names, sizes_below(root)(names), contents).tolist(), strict=True
    ):
        groups.setdefault(first, []).append(name)
    assert all(names[first] == alike[0] for first, alike in groups.items())
    return [tuple(alike) for alike in groups.values() if len(alike) > 1]


def test_files_of_one_size_are_no_twins_unless_all_of_them_agrees(tmp_path: Path) -> None:
    content = bytes(200_000)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(content[:-1] + b"x")
    (tmp_path / "c").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "empty too").write_bytes(b"")
    assert twins_of(tmp_path, ["a", "b", "c", "empty", "empty too", "gone"]) == [("a", "c")]


@pytest.mark.parametrize("known", ["", "a", "ab", "bd", "abcd"])
def test_of_files_whose_content_is_known_nothing_is_read(
    tmp_path: Path, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in zip("abcde", ("one", "two", "one", "two", "longer"), strict=True):
        (tmp_path / name).write_text(content)
    read, inner = set(), splits._sha256

    def watched(file: str) -> bytes:
        read.add(Path(file).name)
        return inner(file)

    def contents(files: Sequence[str]) -> NDArray[np.uint8]:
        hashes = (inner(file) if Path(file).name in known else bytes(32) for file in files)
        return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)

    monkeypatch.setattr(splits, "_sha256", watched)
    assert twins_of(tmp_path, "abcde", contents) == [("a", "c"), ("b", "d")]
    assert read == {*"abcd"} - {*known}


def test_a_column_says_what_stays_together(tmp_path: Path) -> None:
    lines = [f"{number}.wav,{'ab'[number % 2]},speaker {number // 4}" for number in range(24)]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,speaker", *lines]))
    for number in range(24):
        write_tone(tmp_path / f"{number}.wav", 300 + number, seconds=0.1, seed=number)
    table = read_dataset(str(tmp_path), reading=ReadingParams(group="speaker"))
    assert table.groups is not None
    assert set(table.groups) == {f"speaker {number}" for number in range(6)}
    for fold in table.folds:
        train, test = ({table.groups[row] for row in rows.tolist()} for rows in (fold.train, fold.test))
        assert not train & test
    assert "no split given: 5 folds made (seed 0), rows of a group are kept in one fold" in table.notes


@pytest.mark.parametrize(
    ("parts", "tested"),
    [
        ("train test train test", [[1, 3]]),
        ("Training evaluation train valid", [[1]]),
        ("train val train val", [[1, 3]]),
        ("dev test dev test", [[1, 3]]),
        ("1 2 1 3", [[0, 2], [1], [3]]),
        ("fold_1 fold_2 fold_1 fold_10", [[0, 2], [1], [3]]),
        ("1.0 2.0 1.0 2.0", [[0, 2], [1, 3]]),
        ("train train train train", [[0], [1], [2], [3]]),
    ],
)
def test_the_tables_own_split_is_used_as_far_as_it_is_one(parts: str, tested: list[list[int]]) -> None:
    rows = [row(number, part=part) for number, part in enumerate(parts.split())]
    made = [[row.line - 2 for row in test] for _, test in folds_of(rows)]
    assert sorted(made) == tested


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("train test often", r"x\.csv, row 4: 'often' is no part of a split .*columns split=,fold="),
        ("1 1 1", r"x\.csv, row 2: only fold 1; testing on one needs others to train on"),
        ("train 1 2", r"x\.csv, row 3: '1' is no part"),
    ],
)
def test_a_split_that_makes_no_sense_is_named(parts: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        folds_of([row(number, part=part) for number, part in enumerate(parts.split())])


@pytest.mark.parametrize("layout", ["palm", "published", "table"])
def test_without_a_test_all_that_is_labelled_trains_once_whatever_the_split(
    layout: str, tmp_path: Path
) -> None:
    if layout == "table":  # of a split that makes no sense
        for number in range(4):
            write_tone(tmp_path / f"{number}.wav", 300 + number, seconds=0.1)
        rows = ["0.wav,a,often", "1.wav,b,1", "1.wav,b,1", "2.wav,,1", "3.wav,a,"]
        (tmp_path / "x.csv").write_text("\n".join(["path,label,split", *rows]))
        name, root, wanted = str(tmp_path), None, [0, 1, 3]
    else:
        name, root = "ESC50", write_miniature("ESC50", tmp_path, layout)  # type: ignore[arg-type]
        wanted = list(range(20))
    table = read_dataset(name, root, reading=ReadingParams(test="none"))
    assert [(fold.train.tolist(), fold.test.tolist()) for fold in table.folds] == [(wanted, [])]
    assert any("on more than one row" in note for note in table.notes) == (layout == "table")


def test_of_a_column_of_folds_and_one_of_a_split_one_must_be_named(tmp_path: Path) -> None:
    lines = [
        f"{number}.wav,{'ab'[number % 2]},{number % 3 + 1},{['train', 'test'][number // 6]}"
        for number in range(9)
    ]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,fold,subset", *lines]))
    for number in range(9):
        write_tone(tmp_path / f"{number}.wav", 300 + number, seconds=0.1, seed=number)
    with pytest.raises(
        DataError, match=r"columns fold and subset: which of them is the split\? .*split= reads fold"
    ):
        read_dataset(str(tmp_path))
    for columns, tested in (
        ("split=", [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),
        ("fold=fold", [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),
        ("fold=", [[6, 7, 8]]),
        ("split=subset", [[6, 7, 8]]),
    ):
        table = read_dataset(str(tmp_path), reading=ReadingParams(columns=(columns,)))
        assert [fold.test.tolist() for fold in table.folds] == tested
    alone = read_dataset(str(tmp_path), reading=ReadingParams(test="none"))
    assert [fold.train.tolist() for fold in alone.folds] == [[*range(9)]]
    without = (line.split(",") for line in lines)
    (tmp_path / "x.csv").write_text(
        "\n".join(
            ["path,label,fold,subset", *(f"{path},{label},,{part}" for path, label, _, part in without)]
        )
    )
    assert [fold.test.tolist() for fold in read_dataset(str(tmp_path)).folds] == [[6, 7, 8]]


def test_a_row_that_repeats_another_counts_once_but_in_tables_that_are_the_split(tmp_path: Path) -> None:
    for number in range(4):
        write_tone(tmp_path / f"{number}.wav", 300 + number, seconds=0.1, seed=number)
    rows = ["0.wav,a", "1.wav,b", "0.wav,a", "2.wav,a", "3.wav,b"]
    table = tmp_path / "x.csv"
    table.write_text("\n".join(["path,label,split", *(f"{row},train" for row in rows), "3.wav,b,test"]))
    read = read_dataset(str(tmp_path))
    assert [(fold.train.tolist(), fold.test.tolist()) for fold in read.folds] == [([0, 1, 2, 3], [3])]
    assert any(
        note.startswith("2 clips on more than one row, e.g. 0.wav (x.csv, row 4)") for note in read.notes
    )
    table.unlink()
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("\n".join(["path,classname", *rows]))
    assert [fold.train.tolist() for fold in read_dataset(str(tmp_path)).folds] == [[0, 1, 0, 2, 3]]
