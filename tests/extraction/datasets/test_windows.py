"""Long recordings cut into rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import write_tone

from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.params import ReadingParams
from palm_cache.types import ClipTable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seconds in (
        ("wren/a.wav", 3.3),
        ("wren/b.wav", 1.0),
        ("robin/c.wav", 2.0),
        ("robin/d.wav", 0.5),
    ):
        write_tone(tmp_path / name, 300, seconds=seconds, seed=len(name) + ord(name[-5]))
    return tmp_path


def read(folder: Path, window: float, hop: float | None = None) -> ClipTable:
    return read_dataset(str(folder), reading=ReadingParams(window=window, hop=hop))


def test_windows_follow_each_other_and_the_last_ends_with_its_recording(folder: Path) -> None:
    table = read(folder, 1.0)
    assert [(clip.name, clip.start, clip.end) for clip in table.clips if "wren" in clip.name] == [
        ("wren/a.wav", 0.0, 1.0),
        ("wren/a.wav", 1.0, 2.0),
        ("wren/a.wav", 2.0, 3.0),
        ("wren/a.wav", 2.3, None),
        ("wren/b.wav", 0.0, None),
    ]
    assert [clip.start for clip in read(folder, 1.0, 0.5).clips if clip.name == "wren/a.wav"] == [
        *(0.0, 0.5, 1.0, 1.5, 2.0, 2.3)
    ]
    assert "4 rows cut into 8 windows of 1 s" in table.notes


def test_windows_keep_label_fold_and_recording_together(folder: Path) -> None:
    table = read(folder, 0.7)
    for clip in table.clips:
        assert table.class_of(clip) == clip.name.split("/")[0]
    for fold in table.folds:
        train, test = ({table.clips[row].name for row in rows.tolist()} for rows in (fold.train, fold.test))
        assert test
        assert not train & test
        assert len(fold.train) + len(fold.test) == len(table.clips)
    assert table.groups == table.clips.names


def test_a_labelled_stretch_is_cut_within_its_bounds(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 300, seconds=5)
    (tmp_path / "x.csv").write_text(
        "path,start,end,label\na.wav,1,3.5,wren\na.wav,4,4.5,robin\na.wav,4.5,,wren\n"
    )
    assert [(clip.start, clip.end) for clip in read(tmp_path, 1.0).clips] == [
        *((1.0, 2.0), (2.0, 3.0), (2.5, 3.5)),
        (4.0, 4.5),
        (4.5, None),
    ]


def test_windows_that_a_table_names_are_the_same_rows(folder: Path, tmp_path: Path) -> None:
    cut = read(folder, 0.7).clips
    lines = [f"{clip.name},{clip.start},{'' if clip.end is None else clip.end},bird" for clip in cut]
    (folder / "labels.csv").write_text("\n".join(["path,start,end,classname", *lines]) + "\n")
    named = read_dataset(str(folder / "labels.csv")).clips
    assert [(clip.name, clip.start, clip.end) for clip in named] == [
        (clip.name, clip.start, clip.end) for clip in cut
    ]


def test_a_file_that_cannot_be_read_stays_one_row_for_extraction_to_name(folder: Path) -> None:
    (folder / "robin" / "c.wav").write_bytes(b"RIFF")
    assert [(clip.start, clip.end) for clip in read(folder, 1.0).clips if "c.wav" in clip.name] == [
        (0.0, None)
    ]
