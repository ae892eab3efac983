"""Anybody's data: what is recognised, what becomes of it, and what is said of what makes no sense."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from birds import BIRDS, CLASSES, labels, read, stretches, tones
from samples import write_tone

from palm_cache.errors import DataError, PalmCacheError, UnknownNameError
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.datasets.survey import survey
from palm_cache.params import ReadingParams


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
        (in_folders, "read as a folder per class: 6 files, 2 classes (blackbird, wren)"),
        (in_a_wrapping_folder, "read as a folder per class: 6 files, 2 classes (blackbird, wren)"),
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
    assert (
        table.notes[0]
        == "read as a folder per class below Train, test, val: 12 files, 2 classes (blackbird, wren)"
    )
    (fold,) = table.folds
    assert {table.clips[row].name.split("/")[0] for row in fold.train.tolist()} == {"Train"}
    assert {table.clips[row].name.split("/")[0] for row in fold.test.tolist()} == {"test"}
    assert "4 rows of the validation part are in no fold" in table.notes


def test_classes_are_told_and_counted_in_their_plain_spelling(tmp_path: Path) -> None:
    tones(tmp_path, "train/M\u00f6we/1.wav", "test/Mo\u0308we/2.wav")
    assert read(tmp_path).notes[0].endswith("below test, train: 2 files, 1 class (M\u00f6we)")


def test_folders_called_fold_are_folds(tmp_path: Path) -> None:
    paths = [f"fold{fold}/{name}/1.wav" for fold in (1, 2, 10) for name in CLASSES]
    folds = read(tones(tmp_path, *paths)).folds
    assert [len(fold.test) for fold in folds] == [2, 2, 2]


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    table = read(tones(tmp_path, "a/x.wav", "a/Y.WAV"))
    assert (table.class_names, table.folds, table.notes) == (
        (),
        (),
        (
            "read as audio without labels: 2 files",
            "no folder is taken for a class: a; `layout` folders does so",
        ),
    )
    assert labels(table) == {"a/Y.WAV": None, "a/x.wav": None}
    assert read(tmp_path, layout="folders").class_names == ("a",)
    with pytest.raises(DataError, match="no folder of a class here or below; layout flat reads it"):
        read(tmp_path / "a", layout="folders")


def test_folders_of_days_are_no_classes_unless_asked_for(tmp_path: Path) -> None:
    table = read(tones(tmp_path, "audio/2024-05-01/x.wav", "audio/20240502/x.wav"))
    assert table.class_names == ()
    assert "audio/2024-05-01, audio/20240502; `layout` folders does so" in table.notes[1]
    assert read(tmp_path, layout="folders").class_names == ("2024-05-01", "20240502")
    assert read(tones(tmp_path, "audio/wren/x.wav")).class_names == ("2024-05-01", "20240502", "wren")


def test_folders_of_days_are_folds_where_classes_lie_below(tmp_path: Path) -> None:
    days = ("20240501", "20240502")
    table = read(tones(tmp_path, *(f"{day}/{name}/x.wav" for day in days for name in ("robin", "wren"))))
    assert (table.class_names, len(table.folds)) == (("robin", "wren"), 2)
    for day in days:
        (tmp_path / day).rename(tmp_path / f"{day[:4]}-{day[4:6]}-{day[6:]}")
    assert [len(fold.test) for fold in read(tmp_path).folds] == [2, 2]


def test_a_path_of_a_table_goes_up_from_where_the_table_lies(tmp_path: Path) -> None:
    tones(tmp_path, "audio/a.wav", "audio/b.wav", "c.wav", "a.wav")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "x.csv").write_text("path,label\n../audio/a.wav,x\n..\\audio\\b.wav,y\nc.wav,x\n")
    assert list(labels(read(tmp_path))) == ["audio/a.wav", "audio/b.wav", "c.wav"]
    with pytest.raises(DataError, match=r"\.\./audio/a\.wav leaves the dataset's folder; give one above"):
        read(tmp_path / "meta" / "x.csv")


def test_what_may_hold_labels_beside_sounds_and_is_not_read_is_named(tmp_path: Path) -> None:
    tones(tmp_path, *BIRDS)
    for name in ("Labels.XLSX", "more.json", "old.zip", "a.TextGrid"):
        (tmp_path / name).write_bytes(b"PK")
    with tarfile.open(tmp_path / "backup.tar", "w") as archive:
        archive.add(tmp_path / "wren/1.wav", "wren/1.wav")
    table = read(tmp_path)
    assert len(table.clips) == len(BIRDS)  # and not those of the archive alone
    assert {
        "not read: Labels.XLSX, more.json; save what holds labels as CSV or JSON lines (.jsonl)",
        "not read: old.zip; unpack what holds sounds or labels",
        "not read: a.TextGrid; export what holds labels as a table, or for Audacity",
        "not read: backup.tar; unpack what holds sounds or labels, or `layout` webdataset",
    } <= set(table.notes)
    alone = read(tmp_path / "backup.tar")
    assert (len(alone.clips), alone.class_names) == (1, ())
    assert (
        "no x.cls or x.json beside x.wav inside; if folders inside are the classes, unpack them"
        in alone.notes
    )
    for name, remedy in (("old.zip", "unpack what"), ("Labels.XLSX", "save what holds labels as CSV")):
        with pytest.raises(DataError, match=f"no audio .*; {remedy}"):
            read(tmp_path / name)


def test_audio_beside_class_folders_has_no_label(tmp_path: Path) -> None:
    table = read(tones(tmp_path, "x.wav", *BIRDS))
    assert labels(table)["x.wav"] is None
    assert "1 of 7 rows has no label, and is in no fold" in table.notes


def test_a_column_that_is_named_need_not_be_in_other_tables(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav")
    (root / "labels.csv").write_text("path,etikett\na.wav,wren\n")
    (root / "weather.csv").write_text("day,wind\n1,2\n")
    assert labels(read(root, columns=("label=etikett",))) == {"a.wav": "wren"}


def test_tables_far_below_that_list_sounds_elsewhere_are_said_not_to_be_read(tmp_path: Path) -> None:
    root = tones(tmp_path, "audio/one/a.wav", "audio/two/b.wav")
    table = root / "metadata" / "strong" / "x.tsv"
    table.parent.mkdir(parents=True)
    table.write_text("filename\tevent_label\na.wav\tDog\n")
    told = "not read, though sounds are listed: metadata/strong/x.tsv; "
    assert f"{told}`dataset` {table} with `root` {root} reads it" in read(root).notes
    assert labels(read_dataset(str(table), root)) == {"a.wav": "Dog"}


def test_in_tables_of_kaleidoscope_the_folder_tells_files_of_one_name_apart(tmp_path: Path) -> None:
    root = tones(tmp_path, "site1/night.wav", "site2/night.wav", seconds=2)
    header = "INDIR,FOLDER,IN FILE,OFFSET,DURATION,MANUAL ID"
    rows = (f"C:\\rec,SITE{number}\\,night.wav,0.5,1.0,x{number}" for number in (1, 2))
    (root / "id.csv").write_text("\n".join([header, *rows]))
    table = read(root)
    found = {Path(clip.file).relative_to(root).as_posix(): table.class_of(clip) for clip in table.clips}
    assert found == {"site1/night.wav": "x1", "site2/night.wav": "x2"}
    assert [note for note in table.notes if "not used" in note] == ["columns not used: INDIR"]


def test_in_tables_of_xeno_canto_the_english_name_is_the_label(tmp_path: Path) -> None:
    root = tones(tmp_path, "XC1.wav")
    (root / "x.csv").write_text("id,gen,en,type,file-name\n1,Troglodytes,Eurasian Wren,song,XC1.wav\n")
    assert labels(read(root)) == {"XC1.wav": "Eurasian Wren"}
    (root / "x.csv").write_text("file-name,emotion,en\nXC1.wav,calm,yes\n")
    assert read(root).class_names == ("calm",)


def test_a_text_that_is_given_itself_is_a_table(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav")
    (root / "x.txt").write_bytes(
        "File\tSpecies\r\na.wav\twren\r\n".encode("utf-16")
    )  # Excel's "Unicode text"
    assert labels(read(root / "x.txt")) == {"a.wav": "wren"}


def test_a_table_without_a_column_of_labels_is_told_how_to_name_it(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav")
    (root / "x.csv").write_text("path,etikett\na.wav,wren\n")
    assert "columns not used: etikett; if one of them holds labels: `columns` label=NAME" in read(root).notes
    assert labels(read(root, columns=("label=etikett",))) == {"a.wav": "wren"}


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
        "path,start_ms,end_ms,class\nlong.wav,0,1500,wren\nlong.wav,1500,2250,blackbird\n"
        "long.wav,62500,63000,wren\nlong.wav,64000,,wren\n",
        "FOLDER,IN FILE,OFFSET,DURATION,TOP1DIST,MANUAL ID*\n,long.wav,0,1.5,1,wren\n"
        ",long.wav,1.5,.75,1,blackbird\n,long.wav,62.5,0.5,1,wren\n,long.wav,64,,1,wren\n",
        "path;Onset [s];Duration (msec);class\nlong.wav;0;1500;wren\nlong.wav;1,5;750;blackbird\n"
        "long.wav;62,5;500,0;wren\nlong.wav;64;;wren\n",
    ],
    ids=[
        "plain",
        "decimal commas",
        "onset and offset",
        "durations",
        "milliseconds",
        "Kaleidoscope",
        "two units",
    ],
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
            "a.wav,0,1,wren\na.wav,0,1,robin\na.wav,,,wren\na.wav,,,robin",
            r"row 5: a\.wav is 'robin' here but 'wren' in x\.csv, row 4; a clip has one class",
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
    assert "1 row cut at the end of the file, e.g. a.wav, 3 s of 2.00" in table.notes
    assert "2 rows overlap one of another class in their recording, e.g. a.wav at 1 s (robin)" in table.notes


def test_a_stretch_that_begins_after_its_file_is_named_by_its_row_and_stops_nothing(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav", "b.wav", seconds=2)
    rows = "a.wav,0,1,wren\na.wav,9,10,wren\nb.wav,0,1,wren\nb.wav,2.0,,wren\nb.wav,7,8,wren\n"
    (root / "x.csv").write_text(f"path,start,end,label\n{rows}")
    table = read(root)
    told = "x.csv, row 3: at 9 s of a.wav, which lasts 2.00 s; mend them"
    assert any(
        f"3 rows begin after the end of the file and cannot be read, e.g. {told}" in note
        for note in table.notes
    )
    assert stretches(table)[1] == ("a.wav", 9.0, 10.0, "wren")
    facts = survey(table)
    assert facts.unreadable == (
        ("a.wav", "1 row begins after its end at 2.00 s"),
        ("b.wav", "2 rows begin after its end at 2.00 s"),
    )


def test_a_stretch_of_several_labels_is_left_without_one(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav", seconds=2)
    rows = "a.wav,0,1,wren\na.wav,0,1,robin\na.wav,0.5,1,wren\na.wav,0,1,tit\na.wav,1,,wren\na.wav,1,,wren\n"
    (root / "x.csv").write_text(f"path,start,end,label\n{rows}")
    table = read(root)
    assert stretches(table) == [
        ("a.wav", 0.0, 1.0, None),
        ("a.wav", 0.5, 1.0, "wren"),
        ("a.wav", 1.0, None, "wren"),
    ]
    assert table.class_names == ("wren",)
    told = "x.csv, row 3: a.wav from 0 s to 1 s is 'robin' here but 'wren' in x.csv, row 2"
    assert f"1 stretch has several labels and is left without one, e.g. {told}" in table.notes


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


def test_what_is_not_recognised_says_what_was_looked_for_and_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"x")
    (tmp_path / "b.xlsx").write_bytes(b"x")
    (tmp_path / "c.csv").write_text("when,what\n1,2\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no audio (looked for .wav, ")
    assert message.endswith(
        "what lies here is .csv, .m4a, .xlsx; convert it, e.g. with: ffmpeg -i FILE NEW.flac; "
        "save what holds labels as CSV or JSON lines (.jsonl)"
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


@pytest.mark.parametrize("layout", ["auto", "folders", "flat"])
def test_columns_of_a_folder_without_tables_are_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no columns; leave columns out"):
        read(tones(tmp_path, *BIRDS), layout=layout, columns=("path=x",))


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


PREDICTED = "path,label,probability,error\n{}/0.wav,robin,0.9,\n{}/0.wav,robin,0.3,\n".format(*CLASSES)
FOUND = f"score,dataset,row,path,start,end,label,note\n0.9,x,0,{CLASSES[0]}/0.wav,,,robin,\n"


@pytest.mark.parametrize("answers", [PREDICTED, FOUND], ids=["predicted", "found"])
def test_answers_of_palm_cache_become_labels_only_where_they_are_asked_for(
    answers: str, tmp_path: Path
) -> None:
    file = tones(tmp_path, *BIRDS) / "answers.csv"
    file.write_text(answers)
    table = read(tmp_path)
    assert table.class_names == CLASSES
    assert f"not read, as predict or search wrote it: answers.csv; `dataset` {file} reads it" in table.notes
    asked = read(file, test="none")
    assert asked.class_names == ("robin",)
    assert "its labels are those that predict gave or a search found, not a person's" in asked.notes


@pytest.mark.parametrize("content", ["wren/0.wav,x\nwren/1.wav,y\n", "#mine,x\npath,label\nwren/0.wav,x\n"])
def test_a_table_whose_columns_have_no_names_is_said_not_to_be_read(content: str, tmp_path: Path) -> None:
    file = tones(tmp_path, *BIRDS) / "labels.csv"
    file.write_text(content)
    not_read = "no column in its first row is known to hold paths; `columns` path=NAME says which does"
    assert f"not read: labels.csv; {not_read}" in read(tmp_path).notes
    with pytest.raises(DataError, match=r"no table with a column of paths: labels\.csv; give the one"):
        read(tmp_path, layout="table")
    with pytest.raises(
        DataError, match=r"which column holds the paths\? .* its first row, which names them, has"
    ):
        read(file)


def test_a_folder_gives_its_name_before_links_to_it_do(tmp_path: Path) -> None:
    tones(tmp_path, "m/1.wav", "wren/1.wav")
    for letter in "abcdefghijklnopqrst":
        (tmp_path / letter).symlink_to("m")
    assert read(tmp_path).class_names == ("m", "wren")


def test_absolute_paths_lead_where_they_say_or_the_message_tells_how(tmp_path: Path) -> None:
    tones(tmp_path / "sounds", "a.wav", "b.wav")
    for folder in (tmp_path / "sounds", tmp_path / "tables"):
        folder.mkdir(exist_ok=True)
        rows = (f"{tmp_path}/sounds/{name}.wav,{name}" for name in "ab")
        (folder / "x.csv").write_text("\n".join(["path,label", *rows]))
    table = read_dataset(str(tmp_path / "sounds"))
    assert [*table.clips.names] == ["a.wav", "b.wav"]
    assert not [note for note in table.notes if "found" in note]
    with pytest.raises(DataError, match=r"sounds/a\.wav is there: give the table itself, and root / to"):
        read_dataset(str(tmp_path / "tables"))
    assert read_dataset(str(tmp_path / "tables" / "x.csv"), Path("/")).missing == ()
    with pytest.raises(DataError, match=r"nowhere: no such folder; root is what"):
        read_dataset(str(tmp_path / "tables" / "x.csv"), tmp_path / "nowhere")


def test_times_of_several_files_are_those_of_one_and_stretches_that_touch_do_not_overlap(
    tmp_path: Path,
) -> None:
    tones(tmp_path, "a.wav", seconds=2)
    header = "Begin Time (s)\tEnd Time (s)\tFile Offset (s)\tBegin File\tLabel"
    rows = ["100.1\t100.3\t0.1\ta.wav\twren", "100.3\t100.9\t0.3\ta.wav\trobin"]
    (tmp_path / "all.txt").write_text("\n".join([header, *rows]))
    table = read_dataset(str(tmp_path))
    assert [(clip.start, clip.end) for clip in table.clips] == [(0.1, 0.3), (0.3, 0.9)]
    assert not [note for note in table.notes if "overlap" in note]
