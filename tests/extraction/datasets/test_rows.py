"""Rows held by columns are the rows that were given; what numbers them agrees with a dictionary."""

from __future__ import annotations

import gc
import os
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import write_palm_folder

from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.datasets.rows import Content, Rows, TableRow, Words, numbered

WORDS = st.sampled_from(["", "a", "b", "\udce9"])
TIMES = st.sampled_from([0.0, 0.5, 2.0])
ROWS = st.lists(
    st.builds(
        TableRow,
        table=st.sampled_from(["x.csv", "y.csv"]),
        line=st.integers(1, 9),
        path=st.sampled_from(["1.wav", "2.wav", "caf\udce9.wav"]),
        class_name=st.sampled_from([None, "wren", "robin"]),
        start=TIMES,
        end=st.sampled_from([None, 3.0, 4.0]),
        part=WORDS,
        group=WORDS,
    )
)


@given(ROWS, st.data())
def test_rows_come_back_as_they_were_given_all_or_some(rows: list[TableRow], data: st.DataObject) -> None:
    held = Rows.of(rows)
    assert [*held] == rows
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
    some = held.take(np.array(chosen, np.int64))
    assert [*some] == [rows[row] for row in chosen]
    assert [*some.path.texts] == [*dict.fromkeys(rows[row].path for row in chosen)]
    assert some.path.first.tolist() == [
        some.path.codes.tolist().index(n) for n in range(len(some.path.texts))
    ]


@given(ROWS)
def test_rows_mean_one_stretch_where_file_start_and_end_agree(rows: list[TableRow]) -> None:
    numbers, first = Rows.of(rows).stretches
    seen: dict[object, int] = {}
    wanted = [seen.setdefault((row.path, row.start, row.end), len(seen)) for row in rows]
    assert numbers.tolist() == wanted
    assert first.tolist() == [wanted.index(number) for number in range(len(seen))]


@given(st.lists(st.tuples(st.integers(-2, 2), st.sampled_from([0.0, 0.25, 1.0]))))
def test_numbers_follow_first_appearance(keys: list[tuple[int, float]]) -> None:
    numbers, first = numbered(
        np.array([one for one, _ in keys], np.int64), np.array([two for _, two in keys])
    )
    seen: dict[object, int] = {}
    assert numbers.tolist() == [seen.setdefault(key, len(seen)) for key in keys]
    assert [keys[row] for row in first.tolist()] == [*seen]


def test_texts_that_become_equal_become_one() -> None:
    words = Words.of(["Wren", "wren", "robin", "Wren"])
    lower = words.spelled([text.lower() for text in words.texts])
    assert ([*lower], [*lower.texts]) == (["wren", "wren", "robin", "wren"], ["wren", "robin"])
    assert words.are(str.istitle).tolist() == [True, False, False, True]


def test_texts_go_with_their_column_and_wait_for_no_garbage_collector() -> None:
    class Spelling(str):
        __slots__ = ("__weakref__",)

    path = Spelling("1.wav")
    held = weakref.ref(path)
    gc.disable()
    try:
        words = Words.of([path])
        del path, words
        assert held() is None
    finally:
        gc.enable()


def test_clips_are_numbered_as_folds_list_them_and_rows_in_no_fold_are_left_out() -> None:
    rows = Rows.of(TableRow("x.csv", line, f"{line}.wav", "wren") for line in range(5))
    content = Content(rows, folds=[(np.array([3, 1]), np.array([4])), (np.array([4]), np.array([3, 1]))])
    ordered = content.in_order()
    assert [row.line for row in ordered.rows] == [3, 1, 4]
    folds = [(train.tolist(), test.tolist()) for train, test in ordered.folds or ()]
    assert folds == [([0, 1], [2]), ([2], [0, 1])]


def test_every_file_is_asked_for_its_state_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_palm_folder(tmp_path / "Tones")
    asked: Counter[str] = Counter()
    inner = os.stat

    def watched(file, **options):  # type: ignore[no-untyped-def]
        asked[os.fspath(file)] += 1
        return inner(file, **options)

    monkeypatch.setattr(os, "stat", watched)
    table = read_dataset(str(folder))
    assert [asked[str(clip.file)] for clip in table.clips] == [1] * len(table.clips)
