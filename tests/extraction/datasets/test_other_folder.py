"""The folder above the one that is meant, and folders that are called like known datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
from birds import BIRDS, read, tones
from miniatures import write_miniature
from samples import write_palm_folder

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.registry import read_dataset

MEANT = "a table below this folder lists sounds; did you mean {}?"


def test_the_folder_above_a_dataset_is_told_with_the_dataset(tmp_path: Path) -> None:
    tones(tmp_path / "raw" / "birds" / "audio", *BIRDS)
    table = tmp_path / "raw" / "birds" / "meta" / "birds.csv"
    table.parent.mkdir()
    table.write_text("\n".join(["path,label", *(f"{path},{name}" for path, name in BIRDS.items())]))
    told = MEANT.format(tmp_path / "raw" / "birds")
    assert told in read(tmp_path / "raw").notes
    assert told in read(tmp_path).notes
    assert not any("below this folder" in note for note in read(tmp_path / "raw" / "birds").notes)
    assert not any("below this folder" in note for note in read(tmp_path, layout="folders").notes)
    table.write_bytes(b"\xff\xfe\x00")  # no table after all
    assert not any("below this folder" in note for note in read(tmp_path / "raw").notes)


def test_the_folder_above_one_in_the_palm_layout_is_told_with_it(tmp_path: Path) -> None:
    write_palm_folder(tmp_path / "Tones")
    with pytest.raises(DataError, match=rf"2 tables have .*; did you mean {tmp_path}/Tones\?"):
        read(tmp_path)


def test_the_folder_above_tables_of_a_splits_parts_is_told_with_the_one_that_holds_them(
    tmp_path: Path,
) -> None:
    for part in ("train", "test"):
        folder = tones(tmp_path / "hub" / "data" / part, "a.wav", "b.wav")
        (folder / "metadata.csv").write_text("file_name,label\na.wav,wren\nb.wav,robin\n")
    assert MEANT.format(tmp_path / "hub" / "data") in read(tmp_path / "hub").notes
    (fold,) = read(tmp_path / "hub" / "data").folds
    assert (len(fold.train), len(fold.test)) == (2, 2)


def test_the_folder_above_two_in_the_palm_layout_is_told_with_both_however_deep_their_tables(
    tmp_path: Path,
) -> None:
    write_palm_folder(tmp_path / "Tones")
    folds = tmp_path / "Folds" / "csv_files"
    write_palm_folder(folds.parent)
    folds.mkdir()
    for part in ("train", "test"):
        (folds.parent / f"{part}.csv").rename(folds / f"{part}_1.csv")
    with pytest.raises(DataError, match=rf"did you mean {tmp_path}/Tones or {tmp_path}/Folds\?"):
        read(tmp_path)


def test_the_folder_above_folders_of_classes_is_told_with_them(tmp_path: Path) -> None:
    tones(tmp_path / "own", *(f"{site}/{path}" for site in ("here", "there") for path in BIRDS))
    meant = f"did you mean {tmp_path}/own/here or {tmp_path}/own/there?"
    told = (
        "folders below those of the classes say nothing here; if no folder is a class, `layout` flat; "
        f"if they are the classes, {meant}"
    )
    assert told in read(tmp_path / "own").notes
    assert told in read(tmp_path).notes
    assert told not in read(tmp_path, layout="folders").notes
    assert not any("say nothing" in note for note in read(tmp_path / "own" / "here").notes)


def test_sounds_beside_the_folder_of_the_only_table_are_told(tmp_path: Path) -> None:
    tones(tmp_path, *(f"one/{path}" for path in BIRDS), "other/x.wav")
    (tmp_path / "one" / "x.csv").write_text(
        "\n".join(["path,label", *(f"{path},{name}" for path, name in BIRDS.items())])
    )
    assert f"sounds lie outside one, too; did you mean {tmp_path}/one?" in read(tmp_path).notes
    assert not any("outside" in note for note in read(tmp_path / "one").notes)


def test_a_folder_that_is_called_like_a_known_dataset_is_told_how_it_is_read_as_published(
    tmp_path: Path,
) -> None:
    root = write_miniature("VocalSound", tmp_path / "raw" / "VocalSound", "published")
    told = (
        "a known dataset is called VocalSound: if this is it, "
        f"--dataset VocalSound --root {root} reads it as published"
    )
    for given in (root, root.parent, tmp_path):
        assert told in read(given).notes
    assert told not in read_dataset("vocalsound", root).notes
    unpacked = root.rename(tmp_path / "vocalsound-main")  # as a repository's archive does
    assert told.replace(str(root), str(unpacked)) in read(unpacked).notes
