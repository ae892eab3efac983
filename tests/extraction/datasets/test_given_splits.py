"""Splits that data bring along: in names of folders and tables, and in lists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from birds import CLASSES, read, stretches, tones

from palm_cache.errors import DataError
from palm_cache.types import ClipTable


def parts_of(table: ClipTable) -> dict[str, str]:
    """Return the only fold's part of every clip that is in it."""
    (fold,) = table.folds
    rows = (("train", fold.train), ("test", fold.test))
    return {table.clips[row].name: part for part, some in rows for row in some.tolist()}


def test_folders_whose_names_tell_parts_of_a_split_are_no_classes(tmp_path: Path) -> None:
    parts = {"speech-train": "train", "speech-test": "test", "speech-valid": ""}
    table = read(tones(tmp_path, *(f"{part}/{name}/1.wav" for part in parts for name in CLASSES)))
    assert table.class_names == CLASSES
    assert parts_of(table) == {
        f"{folder}/{name}/1.wav": part for folder, part in parts.items() for name in CLASSES if part
    }
    unlabelled = read(tones(tmp_path / "flat", "train/a.wav", "test/b.wav"))
    assert unlabelled.class_names == ()
    told = "no folder is taken for a class: test, train; `layout` folders does so"
    assert told in unlabelled.notes
    (tmp_path / "speech-valid").rename(tmp_path / "noise")
    assert read(tmp_path).class_names == ("flat", "noise", "speech-test", "speech-train")
    for part in ("train", "test"):
        (tmp_path / f"speech-{part}").rename(tmp_path / part)
    beside = tones(tmp_path, "noise/x.wav")
    shutil.rmtree(tmp_path / "flat")
    assert read(beside).class_names == CLASSES
    assert set(parts_of(read(beside)).values()) == {"train", "test"}
    assert "1 of 7 rows has no label, and is in no fold" in read(beside).notes
    trains = read(tones(tmp_path / "trains", "freight-train/a.wav", "test-drive/b.wav"))
    assert trains.class_names == ("freight-train", "test-drive")


@pytest.mark.parametrize("more", ["intro.wav", "training/wren/2.wav"])
def test_parts_that_are_all_to_train_on_are_no_classes(more: str, tmp_path: Path) -> None:
    root = tones(tmp_path, *(f"train/{name}/1.wav" for name in CLASSES), more)
    assert read(root).class_names == CLASSES
    trains = tones(
        tmp_path / "trains", *(f"{kind}-train/{n}/1.wav" for kind in ("steam", "maglev") for n in "ab")
    )
    assert read(trains).class_names == ("maglev-train", "steam-train")


def test_parts_of_two_kinds_are_no_split(tmp_path: Path) -> None:
    tops = ("2024-01-02", "bird-test")
    root = tones(tmp_path, *(f"{top}/{name}/1.wav" for top in tops for name in CLASSES))
    assert read(root).class_names == tops


@pytest.mark.parametrize("inner", [("05", "06"), ("", "raw")], ids=["hours", "in one day only"])
def test_folders_in_some_days_of_a_recorder_are_no_classes(inner: tuple[str, str], tmp_path: Path) -> None:
    days = ("2024-01-01", "2024-01-02")
    table = read(tones(tmp_path, *(f"{day}/{folder}/1.wav" for day, folder in zip(days, inner, strict=True))))
    assert table.class_names == ()
    assert table.notes[0] == "read as audio without labels: 2 files"


def test_lists_of_sounds_beside_folders_of_classes_are_the_split(tmp_path: Path) -> None:
    """As Speech Commands has them."""
    root = tones(tmp_path, *(f"{name}/{number}.wav" for name in CLASSES for number in range(4)))
    for part, number in (("validation", 2), ("testing", 3)):
        (root / f"{part}_list.txt").write_text("".join(f"{name}/{number}.wav\n" for name in CLASSES))
    (root / "test_notes.txt").write_text("nothing of the kind\n")
    table = read(root)
    lists = "testing_list.txt, validation_list.txt"
    assert table.notes[0].startswith(f"read as a folder per class, split by {lists}: 8 files, 2 classes")
    parts = ("train", "train", "", "test")
    assert parts_of(table) == {
        f"{name}/{number}.wav": part for name in CLASSES for number, part in enumerate(parts) if part
    }
    assert "2 rows of the validation part are in no fold" in table.notes


def test_lists_that_disagree_with_the_folder_are_told(tmp_path: Path) -> None:
    root = tones(tmp_path, *(f"{name}/{number}.wav" for name in CLASSES for number in range(2)))
    (root / "train.txt").write_text("".join(f"{name}/0.wav\n" for name in CLASSES))
    assert read(root).notes[-1].startswith("no split given: 4 folds made")  # nothing is said of the others
    (root / "test.txt").write_text(
        "".join(f"{name}/1.wav\n" for name in CLASSES) + "wren/0.wav\nwren/9.wav\n"
    )
    table = read(root)
    (fold,) = table.folds
    assert [len(fold.train), len(fold.test)] == [2, 3]
    assert table.notes[0].endswith("split by test.txt, train.txt: 4 files, 2 classes (blackbird, wren)")
    assert "listed, but not here: wren/9.wav" in table.notes
    assert "fold 1: 1 clip in both train and test, e.g. wren/0.wav; test scores will flatter" in table.notes


def as_lines_of_json(rows: list[tuple[str, str]]) -> str:
    lines = (json.dumps({"audio_filepath": path, "label": name, "more": [1, None]}) for path, name in rows)
    return "\n".join(lines)


def as_a_csv(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["file_name,label", *map(",".join, rows)])


@pytest.mark.parametrize(
    ("tables", "write"),
    [
        (("train/metadata.csv", "test/metadata.csv"), as_a_csv),
        (("train/metadata.jsonl", "test/metadata.jsonl"), as_lines_of_json),
        (("train.tsv", "test.tsv"), lambda rows: as_a_csv(rows).replace(",", "\t")),
        (("ground_truth/dev.csv", "ground_truth/eval.csv"), as_a_csv),
    ],
    ids=["the hub's folders", "in JSON lines", "Common Voice", "FSD50K"],
)
def test_tables_that_are_called_by_parts_of_a_split_are_read_as_one(
    tables: tuple[str, str], write: Callable[[list[tuple[str, str]]], str], tmp_path: Path
) -> None:
    """The names of sounds are the same in both parts where each has a folder of its own."""
    expected = {}
    for part, table in zip(("train", "test"), tables, strict=True):
        beside = table.startswith(part + "/")
        names = [f"{number}.wav" if beside else f"{part}{number}.wav" for number in range(2)]
        folder = part if beside else "clips"
        tones(tmp_path / folder, *names)
        (tmp_path / table).parent.mkdir(exist_ok=True)
        (tmp_path / table).write_text(write([*zip(names, CLASSES, strict=True)]))
        for name, class_name in zip(names, CLASSES, strict=True):
            expected[tmp_path / folder / name] = class_name, part
    (tmp_path / "other.csv").write_text("path,label\nclips/train0.wav,x\n")
    read_so = read(tmp_path)
    parts = parts_of(read_so)
    assert {Path(clip.file): (read_so.class_of(clip), parts[clip.name]) for clip in read_so.clips} == expected
    assert read_so.notes[0].startswith(f"read as 2 tables, {', '.join(sorted(tables))} (path=")
    assert f"not read: other.csv; `dataset` {tmp_path}/other.csv reads it" in read_so.notes


def test_a_manifest_in_lines_of_json_is_a_table(tmp_path: Path) -> None:
    tones(tmp_path, "a.wav", seconds=2)
    manifest = tmp_path / "manifest.json"
    lines = [
        {"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.0, "label": "wren"},
        {"audio_filepath": "a.wav", "duration": 0.5, "label": None},
    ]
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert stretches(read(manifest)) == [("a.wav", 0.5, 1.5, "wren"), ("a.wav", 0.0, 0.5, None)]
    manifest.write_text('{"audio_filepath": "a.wav", "offset": 0, "duration": 1, "labels": ["wren"]}\n')
    assert stretches(read(manifest)) == [("a.wav", 0.0, 1.0, "wren")]
    manifest.write_text('{"audio_filepath": "a.wav"}\n["a.wav"]\n')
    log = tones(tmp_path / "more", "wren/a.wav", "robin/b.wav") / "log.jsonl"
    log.write_text('{"audio_filepath": "wren/a.wav", "duration": 0.25}\n')
    assert "no row has a label; `layout` folders takes names of folders for labels" in read(log.parent).notes
    log.write_text('{"audio_filepath"\n')  # nothing of the kind, and in nobody's way
    assert read(log.parent).class_names == ("robin", "wren")
    log.write_text(f'["{"x" * 200_000}"]\n')
    assert read(log.parent.rename(tmp_path / "more.json")).class_names == ("robin", "wren")
    with pytest.raises(DataError, match=r"manifest\.json, row 2: no JSON object; every line is to be one"):
        read(manifest)
    manifest.write_text('{"audio_filepath": "a.wav", "label": "\\ud800"}\n')
    with pytest.raises(DataError, match=r"manifest\.json, row 1: no JSON object"):
        read(manifest)
