"""Anybody's data: what is recognised, what becomes of it, and what is said of what makes no sense."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from miniatures import write_miniature
from samples import write_palm_folder, write_tone

from palm_cache.errors import DataError, PalmCacheError, UnknownNameError
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.params import ReadingParams
from palm_cache.types import ClipTable

CLASSES = ("blackbird", "wren")


def tones(root: Path, *names: str, seconds: float = 0.25) -> Path:
    for number, name in enumerate(names):
        write_tone(root / name, 300 + 50 * number, seconds=seconds, seed=number)
    return root


def labels(table: ClipTable) -> dict[str, str | None]:
    return {clip.name: table.class_of(clip) for clip in table.clips}


def stretches(table: ClipTable) -> list[tuple[str, float, float | None, str | None]]:
    return [(clip.name, clip.start, clip.end, table.class_of(clip)) for clip in table.clips]


def read(root: Path, **reading: object) -> ClipTable:
    return read_dataset(str(root), reading=ReadingParams(**reading))  # type: ignore[arg-type]


BIRDS = {f"{name}/{number}.wav": name for name in CLASSES for number in range(3)}


def in_folders(root: Path) -> None:
    tones(root, *BIRDS)


def in_a_wrapping_folder(root: Path) -> None:
    tones(root / "audio", *BIRDS)


def in_a_csv(root: Path) -> None:
    tones(root, *BIRDS)
    lines = [f"{path},{name},2024" for path, name in BIRDS.items()]
    (root / "metadata.csv").write_text("\n".join(["File Name,Species,Year", *lines]))


def in_a_tsv_by_names(root: Path) -> None:
    in_folders(root / "sounds")
    tones(root / "sounds", "wren/extra.wav")
    lines = [f"sounds\\{path.replace('/', chr(92))}\t{name}" for path, name in BIRDS.items()]
    (root / "labels.tsv").write_text("\n".join(["recording\tcommon_name", *lines]))


def in_a_parquet(root: Path) -> None:
    tones(root, *BIRDS)
    pq.write_table(pa.table({"file": list(BIRDS), "label": list(BIRDS.values())}), root / "x.parquet")


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (in_folders, "read as a folder per class: 6 files, 2 classes"),
        (in_a_wrapping_folder, "read as a folder per class: 6 files, 2 classes"),
        (in_a_csv, "read as one table, metadata.csv (path=File Name,label=Species)"),
        (in_a_tsv_by_names, "read as one table, labels.tsv (path=recording,label=common_name)"),
        (in_a_parquet, "read as one table, x.parquet (path=file,label=label)"),
    ],
)
def test_labels_in_any_form_are_recognised_and_told_in_one_line(
    write: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    root = tmp_path / "birds"
    write(root)
    (root / ".DS_Store").write_bytes(b"x")
    table = read(root)
    assert table.dataset == "birds"
    assert table.class_names == CLASSES
    assert {Path(clip.file).name + (table.class_of(clip) or "") for clip in table.clips} == {
        Path(path).name + name for path, name in BIRDS.items()
    }
    assert all(clip.file.is_file() for clip in table.clips)
    assert table.notes[0] == told
    assert sorted(len(fold.test) for fold in table.folds) == [1, 1, 1, 1, 2]
    assert sorted(row for fold in table.folds for row in fold.test.tolist()) == list(range(6))
    assert read(root, test="none").folds[0].train.tolist() == list(range(6))


def test_folders_called_train_and_test_are_the_split(tmp_path: Path) -> None:
    paths = [
        f"{part}/{name}/{number}.wav"
        for part in ("Train", "test", "val")
        for name in CLASSES
        for number in (1, 2)
    ]
    table = read(tones(tmp_path, *paths))
    assert table.class_names == CLASSES
    assert table.notes[0] == "read as a folder per class below Train, test, val: 12 files, 2 classes"
    (fold,) = table.folds
    assert {table.clips[row].name.split("/")[0] for row in fold.train.tolist()} == {"Train"}
    assert {table.clips[row].name.split("/")[0] for row in fold.test.tolist()} == {"test"}
    assert "4 rows of the validation part are in no fold" in table.notes


def test_folders_called_fold_are_folds(tmp_path: Path) -> None:
    paths = [f"fold{fold}/{name}/1.wav" for fold in (1, 2, 10) for name in CLASSES]
    folds = read(tones(tmp_path, *paths)).folds
    assert [len(fold.test) for fold in folds] == [2, 2, 2]


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    table = read(tones(tmp_path, "a/x.wav", "a/Y.WAV"))
    assert (table.class_names, table.folds, table.notes) == (
        (),
        (),
        ("read as audio without labels: 2 files",),
    )
    assert labels(table) == {"a/Y.WAV": None, "a/x.wav": None}
    assert read(tmp_path, layout="folders").class_names == ("a",)
    with pytest.raises(DataError, match="no folder of a class here or below; layout flat reads it"):
        read(tmp_path / "a", layout="folders")


def test_audio_beside_class_folders_has_no_label(tmp_path: Path) -> None:
    table = read(tones(tmp_path, "x.wav", *BIRDS))
    assert labels(table)["x.wav"] is None
    assert "1 of 7 rows has no label, and is in no fold" in table.notes


def test_rows_without_a_label_are_unlabelled_and_what_the_table_says_else_is_named(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav", "b.wav", "c.wav")
    (root / "x.csv").write_text(
        "path,label,lat,lon\na.wav,wren,1,2\nb.wav,,1,2\nc.wav,wren,1,2\n._c.wav,wren,1,2\n"
    )
    table = read(root)
    assert labels(table) == {"a.wav": "wren", "c.wav": "wren", "b.wav": None}
    assert "columns not used: lat, lon" in table.notes
    assert "1 row of files that the file system added, skipped (._* ...)" in table.notes
    assert labels(read(root, columns=("label=",))) == dict.fromkeys(("a.wav", "b.wav", "c.wav"))


def test_a_table_may_be_the_dataset(tmp_path: Path) -> None:
    root = tones(tmp_path, *BIRDS)
    for name in CLASSES:
        (root / f"{name}.csv").write_text(f"path,label\n{name}/0.wav,{name}\n{name}/1.wav,x\n")
    with pytest.raises(DataError, match=r"2 tables have a column of paths: blackbird\.csv, wren\.csv; give"):
        read(root)
    table = read(root / "wren.csv")
    assert (table.dataset, table.source) == ("wren", f"{root}/wren.csv")
    assert labels(table) == {"wren/0.wav": "wren", "wren/1.wav": "x"}
    assert read(root, layout="folders").class_names == CLASSES


STRETCHES = [
    ("long.wav", 0.0, 1.5, "wren"),
    ("long.wav", 1.5, 2.25, "blackbird"),
    ("long.wav", 62.5, 63.0, "wren"),
    ("long.wav", 64.0, None, "wren"),
]


@pytest.mark.parametrize(
    "table",
    [
        "file,start,end,label\nlong.wav,0,1.5,wren\nlong.wav,1.5,2.25,blackbird\nlong.wav,1:02.5,1:03,wren\nlong.wav,64,,wren\n",
        "filename;Begin Time (s);End Time (s);Species\nlong.wav;0;1,5;wren\nlong.wav;1,5;2,25;blackbird\n"
        "long.wav;62,5 s;63;wren\nlong.wav;64;;wren\n",
        "filename\tonset\toffset\tevent_label\nlong.wav\t0\t1.5\twren\nlong.wav\t1.5\t2.25\tblackbird\n"
        "long.wav\t0:01:02.5\t63\twren\nlong.wav\t64\t\twren\n",
        "path,start,duration,class\nlong.wav,0,1.5,wren\nlong.wav,1.5,.75,blackbird\nlong.wav,62.5,0.5,wren\nlong.wav,64,,wren\n",
    ],
    ids=["plain", "decimal commas", "onset and offset", "durations"],
)
def test_rows_may_be_stretches(table: str, tmp_path: Path) -> None:
    root = tones(tmp_path, "long.wav", seconds=65)
    (root / "x.csv").write_text(table)
    assert stretches(read(root, test="none")) == STRETCHES


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.wav,2,1,wren", r"x\.csv, row 2: ends at 1 s, not after its start at 2 s"),
        ("a.wav,1,1,wren", r"x\.csv, row 2: ends at 1 s, not after"),
        ("a.wav,-1,1,wren", r"x\.csv, row 2: start '-1' is no time; write seconds"),
        ("a.wav,nan,1,wren", r"x\.csv, row 2: start 'nan' is no time"),
        ("a.wav,0,soon,wren", r"x\.csv, row 2: end 'soon' is no time"),
        ("a.wav,0,1e999,wren", r"x\.csv, row 2: end '1e999' is no time"),
        (",0,1,wren", r"x\.csv, row 2: path is empty"),
        (
            "a.wav,0,1,wren\na.wav,0,1,robin",
            r"row 3: a\.wav from 0 s to 1 s is 'robin' here but 'wren' in x\.csv, row 2",
        ),
        (
            "a.wav,9,10,wren\nb.wav,0,1,wren",
            r"a\.wav lasts 2\.00 s, but a row begins at 9 s; .*columns start=,end=",
        ),
        ("../../a.wav,0,1,wren", r"leaves the dataset's folder"),
    ],
)
def test_stretches_that_make_no_sense_are_named(rows: str, message: str, tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav", "b.wav", seconds=2)
    (root / "x.csv").write_text(f"path,start,end,label\n{rows}\n")
    with pytest.raises(DataError, match=message):
        read(root)


def test_stretches_that_end_after_their_file_or_overlap_are_said(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav", "b.wav", seconds=2)
    rows = "a.wav,0,2.04,wren\na.wav,1,3,robin\na.wav,1.5,1.75,robin\nb.wav,0,1,wren\nb.wav,1,2,robin\n"
    (root / "x.csv").write_text(f"path,start,end,label\n{rows}")
    table = read(root)
    assert [clip.end for clip in table.clips] == [None, None, 1.75, 1.0, None]
    assert "1 row ends after their file: they end with it, e.g. a.wav, 3 s of 2.00" in table.notes
    assert "2 rows overlap one of another class in their recording, e.g. a.wav at 1 s (robin)" in table.notes


def test_of_a_table_that_labels_are_appended_to_the_last_row_of_a_stretch_holds(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav", "b.wav", seconds=2)
    rows = "a.wav,0,1,wren,1\nb.wav,0,,wren,2\na.wav,0,1,robin,3\nb.wav,0,,,4\n"
    (root / "labels.csv").write_text(f"path,start,end,classname,time\n{rows}")
    table = read(root / "labels.csv", test="none")
    assert stretches(table) == [("a.wav", 0.0, 1.0, "robin"), ("b.wav", 0.0, None, None)]
    assert "2 rows replaced by later ones of the same stretch" in table.notes
    (root / "labels.csv").write_text(f"path,start,end,classname,time\n{rows}a.wav,0,1\n")
    with pytest.raises(DataError, match=r"labels\.csv, row 6: 3 fields, but the header has 5"):
        read(root / "labels.csv")


def test_audacitys_labels_beside_recordings(tmp_path: Path) -> None:
    root = tones(tmp_path, "night.wav", "sub/day.WAV", "more.wav", "none.wav", seconds=4)
    (root / "night.txt").write_text(
        "0.5\t1.25\twren\n\\\t200.0\t900.0\n2,5\t3,0\t blackbird \n3.5\t3.5\tclick\n3\t4\t\n"
    )
    (root / "sub" / "day.wav.txt").write_text("0.000000\t1.000000\twren\n")
    (root / "more_labels.txt").write_text("1\t2\twren\n")
    (root / "gone.txt").write_text("1\t2\twren\n")
    (root / "README.txt").write_text("Recorded in May\n")
    table = read(root)
    assert set(stretches(table)) == {
        ("night.wav", 0.5, 1.25, "wren"),
        ("night.wav", 2.5, 3.0, "blackbird"),
        ("night.wav", 3.0, None, None),
        ("sub/day.WAV", 0.0, 1.0, "wren"),
        ("more.wav", 1.0, 2.0, "wren"),
        ("none.wav", 0.0, None, None),
    }
    assert table.notes[0] == "read as Audacity's labels: 5 stretches in 3 recordings, 1 recording without any"
    assert "no recording, or several, for 1 annotation: gone.txt" in table.notes
    assert "1 label at a point of time, not over a stretch, skipped" in table.notes
    (root / "night.txt").write_text("0.5\t1.25\twren\nsoon\t2\twren\n")
    with pytest.raises(DataError, match=r"night\.txt, row 2: start 'soon' is no time"):
        read(root)


RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def test_ravens_selection_tables_beside_recordings(tmp_path: Path) -> None:
    root = tones(tmp_path, "night.wav", "day.wav", seconds=4)
    (root / "night.Table.1.selections.txt").write_text(
        f"{RAVEN}\tSpecies\n1\tWaveform 1\t1\t0.5\t1.5\t0\t9\twren\n"
        "1\tSpectrogram 1\t1\t0.5\t1.5\t0\t9\twren\n2\tSpectrogram 1\t1\t2\t3\t0\t9\t\n"
    )
    table = read(root)
    assert set(stretches(table)) == {
        ("night.wav", 0.5, 1.5, "wren"),
        ("night.wav", 2.0, 3.0, None),
        ("day.wav", 0.0, None, None),
    }
    assert table.notes[0] == (
        "read as Raven's selection tables: 2 stretches in 1 recording, 1 recording without any"
    )


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        (
            "audacity",
            r"no Audacity label track here or below: looked for \*\.txt with start TAB end TAB label",
        ),
        (
            "raven",
            r"no Raven selection table here or below: looked for \*\.txt with a column 'Begin Time \(s\)'",
        ),
    ],
)
def test_a_folder_without_annotations_is_not_read_as_annotated(
    layout: str, kind: str, tmp_path: Path
) -> None:
    root = tones(tmp_path, "night.wav")
    with pytest.raises(DataError, match=rf"^{tmp_path}: {kind}$"):
        read(root, layout=layout)
    (root / "sub").mkdir()
    (root / "sub" / "README.txt").write_text("Recorded in May\n")
    with pytest.raises(DataError, match=f"{kind}; sub/README.txt: nothing of the kind"):
        read(root, layout=layout)


def test_a_selection_table_without_a_column_of_labels_is_said(tmp_path: Path) -> None:
    root = tones(tmp_path, "night.wav", seconds=4)
    (root / "night.txt").write_text(f"{RAVEN}\tWhat\n1\tS\t1\t0.5\t1.5\t0\t9\twren\n")
    assert "no column of labels in night.txt; `columns` label=NAME says which it is" in read(root).notes
    assert not any("no column" in note for note in read(root, columns=("label=What",)).notes)


def test_a_selection_table_over_several_files_counts_in_each_of_them(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav", "b.wav", seconds=4)
    (root / "all.txt").write_text(
        f"{RAVEN}\tBegin File\tFile Offset (s)\tCall\n1\tS\t1\t0.5\t1.5\t0\t9\ta.wav\t0.5\twren\n"
        "2\tS\t1\t5\t6.5\t0\t9\tB.WAV\t1\trobin\n"
    )
    table = read(root, columns=("label=Call",))
    assert stretches(table) == [("a.wav", 0.5, 1.5, "wren"), ("b.wav", 1.0, 2.5, "robin")]


def test_what_is_not_recognised_says_what_was_looked_for_and_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"x")
    (tmp_path / "b.xlsx").write_bytes(b"x")
    (tmp_path / "c.csv").write_text("when,what\n1,2\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no audio (looked for .wav, ")
    assert message.endswith(
        "what lies here is .csv, .m4a, .xlsx; convert it, e.g. with: ffmpeg -i FILE NEW.flac"
    )


@pytest.mark.parametrize(
    ("reading", "error", "message"),
    [
        ({"columns": ("path=fil",)}, UnknownNameError, r"column in x\.csv: 'fil'; did you mean file\?"),
        ({"group": "sit"}, UnknownNameError, r"column in x\.csv: 'sit'; did you mean site\?"),
        ({"layout": "webdataset"}, DataError, r"no file here ends with .*\.tar"),
        ({"layout": "flat", "group": "site"}, DataError, "it has no column 'site' to group by"),
        ({"layout": "table", "columns": ("path=",)}, DataError, "which column holds the paths"),
    ],
)
def test_what_is_asked_for_but_not_there_is_named(
    reading: dict[str, object], error: type[PalmCacheError], message: str, tmp_path: Path
) -> None:
    root = tones(tmp_path, "a.wav", "b.wav")
    (root / "x.csv").write_text("file,label,site\na.wav,wren,1\nb.wav,wren,2\n")
    with pytest.raises(error, match=message):
        read(root, **reading)


def test_a_published_dataset_is_not_read_another_way(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ESC50 is read as published: layout, columns and group"):
        read_dataset("esc50", tmp_path, reading=ReadingParams(layout="flat"))


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
    told = f"folders below those of the classes say nothing here; if they are the classes, {meant}"
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


@pytest.mark.parametrize("layout", ["auto", "folders", "flat"])
def test_columns_of_a_folder_without_tables_are_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no columns; leave columns out"):
        read(tones(tmp_path, *BIRDS), layout=layout, columns=("path=x",))


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


def test_one_file_that_is_missing_is_told_in_the_singular(tmp_path: Path) -> None:
    (tones(tmp_path, *BIRDS) / "wren" / "0.wav").write_bytes(b"")
    assert read(tmp_path).notes[0].startswith("1 of 6 files is missing or empty, e.g. wren/0.wav; all of")


def test_a_single_file_that_is_no_dataset_is_named_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("# words")
    Path("numbers.csv").write_text("a,b\n1,2\n")
    Path("nothing.csv").touch()
    with pytest.raises(
        DataError, match=r"^nothing\.csv: the table is empty; its first row names the columns"
    ):
        read(Path("nothing.csv"))
    with pytest.raises(DataError, match=r"^own\\birds: no such folder; paths have / here"):
        read_dataset("own\\birds")
    with pytest.raises(DataError, match=r"^README\.md: no audio .*no table"):
        read(Path("README.md"))
    with pytest.raises(DataError, match=r"^numbers\.csv: which column holds the paths\?"):
        read(Path("numbers.csv"))


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\u2028b"])
def test_a_folder_whose_name_cannot_be_a_classs_is_named(tmp_path: Path, name: str) -> None:
    for folder in ("robin", name):
        write_tone(tmp_path / "birds" / folder / "x.wav", 300, seconds=0.1)
    told = rf"the folder {re.escape(repr(name))} gives a class its name, which holds the control character .*"
    with pytest.raises(DataError, match=rf"{told}; rename it") as caught:
        read_dataset(str(tmp_path / "birds"))
    assert "\n" not in str(caught.value)
