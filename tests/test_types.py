from __future__ import annotations

import tracemalloc
from array import array
from math import nan
from pathlib import Path

import pytest
import torch

from palm_cache.errors import DataError
from palm_cache.types import Clip, Clips, ClipTable, Fold, Texts
from palm_cache.types.stretches import stretch_text


def clip(label: int | None, start: float = 0.0, end: float | None = None) -> Clip:
    return Clip(Path("x.wav"), "x.wav", label, start, end)


def fold(train: list[int], test: list[int]) -> Fold:
    return Fold(torch.tensor(train, dtype=torch.int64), torch.tensor(test, dtype=torch.int64))


@pytest.mark.parametrize(("start", "end"), [(-1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (0.0, float("nan"))])
def test_a_stretch_begins_in_the_file_and_ends_after_that(start: float, end: float) -> None:
    with pytest.raises(DataError, match=r"x\.wav: a stretch from"):
        clip(0, start, end)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_stretch_to_the_end_of_the_file_begins_at_a_number(bad: float) -> None:
    assert clip(0, 7.5).end is None
    with pytest.raises(DataError, match=r"x\.wav: a stretch from"):
        clip(0, bad)


def test_a_dataset_without_labels_needs_neither_classes_nor_folds() -> None:
    table = ClipTable("birds", (), Clips.of((clip(None), clip(None, 5.0))), ())
    assert table.class_of(table.clips[0]) is None
    with pytest.raises(DataError, match="birds: no folds"):
        ClipTable("birds", ("wren",), Clips.of((clip(None), clip(0))), ())


@pytest.mark.parametrize("label", [2, -2])
def test_a_label_has_a_class(label: int) -> None:
    with pytest.raises(DataError, match=rf"birds: x\.wav: label {label} has no class"):
        ClipTable("birds", ("a", "b"), Clips.of((clip(0), clip(label))), (fold([0], [1]),))


def test_folds_hold_labelled_rows_only() -> None:
    clips = Clips.of((clip(0), clip(None), clip(0, 5.0)))
    table = ClipTable("birds", ("wren",), clips, (fold([0], [2]), fold([2], [])))
    assert table.class_of(clips[2]) == "wren"
    for bad in (fold([0, 1], [2]), fold([0], [1])):
        with pytest.raises(DataError, match=r"birds, fold 1: x\.wav has no label: no fold"):
            ClipTable("birds", ("wren",), clips, (bad,))


def test_there_is_a_group_for_every_clip_or_for_none() -> None:
    with pytest.raises(DataError, match="birds: 1 groups for 2 clips"):
        ClipTable("birds", (), Clips.of((clip(None), clip(None))), (), groups=("one",))


def test_clips_are_a_sequence_that_takes_a_few_dozen_bytes_each() -> None:
    tracemalloc.start()
    names = Texts(f"site/{row:06}.wav" for row in range(10_000))
    labels, starts = array("q", [0]) * 10_000, array("d", [0.0]) * 10_000
    clips = Clips(Path("birds"), names, names, labels, starts, array("d", [nan]) * 10_000)
    assert tracemalloc.get_traced_memory()[0] < 60 * len(clips)
    tracemalloc.stop()
    last = Clip(Path("birds/site/009999.wav"), "site/009999.wav", 0)
    assert clips[-1] == clips[9_999] == clips[9_999:][0] == last
    assert [clip.name for clip in clips] == list(names)
    for beyond in (10_000, -10_001):
        with pytest.raises(IndexError):
            clips[beyond]


def test_clips_come_back_as_they_were_given() -> None:
    given = [Clip(Path("/a/x.wav"), "x.wav", None, 0.5), Clip(Path("b/\udce4.wav"), "%E4.wav", 3, 0.0, 2.0)]
    clips = Clips.of(given)
    assert list(clips) == given
    assert list(clips.take([1, 0])) == given[::-1]
    assert list(clips.numbered([1])) == [(1, given[1])]
    assert clips == Clips.of(given) != clips.take([1, 0])


def test_people_read_where_a_stretch_ends() -> None:
    assert stretch_text(0.0, None) == stretch_text(0.0, nan) == ""
    assert stretch_text(0.0, 2.5) == "0-2.5 s"
    assert stretch_text(27.299937, nan) == "27.3 s to its end"
    assert stretch_text(100_000.125, 100_001.0) == "100000.125-100001 s"
