from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from miniatures import write_miniature

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.columns import understand
from palm_cache.extraction.datasets.published import read
from palm_cache.extraction.datasets.registry import read_dataset, require_card
from palm_cache.types import ClipTable

CARD = require_card("UrbanSound8K")
HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class\n"


def write_metadata(root: Path, *rows: tuple[str, int | str, str]) -> Path:
    folder = root / "metadata"
    folder.mkdir(parents=True)
    lines = [f"{name},1,0.0,4.0,1,{fold},3,{class_name}\n" for name, fold, class_name in rows]
    (folder / "UrbanSound8K.csv").write_text(HEADER + "".join(lines))
    return root


def test_every_fold_is_tested_once_and_trained_on_otherwise(tmp_path: Path) -> None:
    rows = [
        ("a.wav", 2, "dog_bark"),
        ("b.wav", 1, "siren"),
        ("c.wav", 3, "dog_bark"),
        ("d.wav", 1, "dog_bark"),
    ]
    table = read(CARD, write_metadata(tmp_path, *rows))
    assert table.dataset == "UrbanSound8K"
    assert table.class_names == ("dog bark", "siren")
    names = [clip.name for clip in table.clips]
    assert sorted(names) == [
        "audio/fold1/b.wav",
        "audio/fold1/d.wav",
        "audio/fold2/a.wav",
        "audio/fold3/c.wav",
    ]

    def named(rows: list[int]) -> list[str]:
        return [names[row].rsplit("/", 1)[1] for row in rows]

    assert [named(fold.test.tolist()) for fold in table.folds] == [["b.wav", "d.wav"], ["a.wav"], ["c.wav"]]
    assert named(table.folds[0].train.tolist()) == ["a.wav", "c.wav"]
    assert named(table.folds[2].train.tolist()) == ["a.wav", "b.wav", "d.wav"]


def test_the_palm_authors_copy_is_read_too(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(f"path,classname\naudios/{part}.wav,siren\n")
    assert read(CARD, tmp_path).dataset == "UrbanSound8K"


def write_miniature_audio(root: Path) -> Path:
    return write_miniature("UrbanSound8K", root, "published")


def told(table: ClipTable) -> list[tuple[str, str | None, bytes]]:
    return [(clip.name, table.class_of(clip), clip.file.read_bytes()) for clip in table.clips]


@pytest.mark.parametrize("layout", ["Kaggle's", "the folder above", "two folders above", "Kaggle's, above"])
def test_other_trees_than_the_published_one_are_read_the_same(layout: str, tmp_path: Path) -> None:
    right = told(read_dataset("us8k", write_miniature_audio(tmp_path / "right")))
    root = tmp_path / "archive"
    inner = {"Kaggle's": root, "two folders above": root / "x" / "y"}.get(layout, root / "UrbanSound8K")
    write_miniature_audio(inner)
    (root / ".DS_Store").write_bytes(b"x")
    if layout.startswith("Kaggle"):
        for fold in (inner / "audio").iterdir():
            fold.rename(inner / fold.name)
        (inner / "audio").rmdir()
        (inner / "metadata" / "UrbanSound8K.csv").rename(inner / "UrbanSound8K.csv")
        (inner / "metadata").rmdir()
    table = read_dataset("us8k", root)
    assert told(table) == right
    assert inner == root or any(note.startswith(f"read from {root}/") for note in table.notes)


def test_kaggles_esc50_is_read_though_it_holds_everything_twice(tmp_path: Path) -> None:
    right = told(read_dataset("esc50", write_miniature("ESC50", tmp_path / "right", "published")))
    root = write_miniature("ESC50", tmp_path / "kaggle", "published")
    (root / "meta" / "esc50.csv").rename(root / "esc50.csv")
    (root / "audio").rename(root / "sounds")
    shutil.copytree(root / "sounds", root / "audio" / "audio")
    shutil.move(root / "sounds", root / "audio" / "audio" / "16000")
    (root / "meta").rmdir()
    assert told(read_dataset("esc50", root)) == right


def test_a_tree_that_is_not_recognised_is_shown_the_expected_one(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError) as caught:
        read_dataset("us8k", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/metadata/UrbanSound8K.csv: cannot read the table: No such file")
    assert f"{tmp_path} should hold metadata/UrbanSound8K.csv; audio/fold1 ... fold10/*.wav" in message


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a.wav", "x", "siren")], r"UrbanSound8K\.csv, row 2: fold 'x' is not a whole number from 1"),
        ([("a.wav", 1, "siren")], "only fold 1; testing on one fold needs others"),
        ([("a.wav", 1, "siren"), ("b.wav", 4, "siren")], "no rows for fold 2, 3"),
        ([("a.wav", 1, "")], "row 2: class name is empty"),
        ([("../../../../x.wav", 1, "siren"), ("b.wav", 2, "siren")], "leaves the dataset's folder"),
        ([], "the table has no rows"),
    ],
)
def test_bad_metadata_is_refused(
    tmp_path: Path, rows: list[tuple[str, int | str, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(CARD, write_metadata(tmp_path, *rows))


def test_a_copy_under_another_name_is_read_as_slices(tmp_path: Path) -> None:
    root = write_miniature("UrbanSound8K", tmp_path / "city", "published")
    metadata = root / "metadata" / "UrbanSound8K.csv"
    lines = metadata.read_text().splitlines()
    place = lines[0].split(",").index("start")
    later = [line.split(",") for line in lines[1:]]
    for fields in later:
        fields[place], fields[place + 1] = "100", "104"  # in the recording that it was cut from
    metadata.write_text("\n".join([lines[0], *(",".join(fields) for fields in later)]) + "\n")
    table = read_dataset(str(root))
    assert {(clip.start, clip.end) for clip in table.clips} == {(0.0, None)}
    assert len(table.clips) == len(lines) - 1


def test_times_of_any_other_table_stay_times() -> None:
    times = {"start": "start", "end": "end"}
    assert understand(["wav", "start", "end"], {"path": ""}, "t.csv") == times
    assert understand(["slice_file_name", "start", "end"], times, "t.csv").items() >= times.items()
    assert not times.keys() & understand(["slice_file_name", "start", "end"], {}, "t.csv").keys()
    assert [*understand(["slice_file_name", "start", "duration"], {}, "t.csv")] == ["path"]
