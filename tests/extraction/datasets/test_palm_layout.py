from __future__ import annotations

import os
from pathlib import Path

import pytest
from samples import write_palm_folder

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.palm_layout import read


def write_tables(root: Path, train: str, test: str = "path,classname\nt.wav,a\n") -> Path:
    (root / "train.csv").write_text(train)
    (root / "test.csv").write_text(test)
    return root


def test_a_folder_is_named_by_its_path_and_read_in_table_order(tmp_path: Path) -> None:
    table = read(write_palm_folder(tmp_path / "Tones"))
    assert table.dataset == "Tones"
    assert table.class_names == ("high tone", "low tone")
    assert [clip.name for clip in table.clips][:2] == ["audios/train_0_0.wav", "audios/train_0_1.wav"]
    assert table.clips[0].file == tmp_path / "Tones" / "audios" / "train_0_0.wav"
    assert [clip.label for clip in table.clips] == [1] * 4 + [0] * 4 + [1] * 2 + [0] * 2
    assert table.folds[0].train.tolist() == list(range(8))
    assert table.folds[0].test.tolist() == list(range(8, 12))
    assert table.notes == ()


def test_folds_come_from_csv_files_even_where_one_was_copied_over_train_csv(tmp_path: Path) -> None:
    write_tables(tmp_path, "path,classname\nx.wav,z\n")
    folder = tmp_path / "csv_files"
    folder.mkdir()
    for fold, (train, test) in enumerate([("a", "b"), ("b", "a")], start=1):
        (folder / f"train_{fold}.csv").write_text(f"path,classname\n{train}.wav,c\n")
        (folder / f"test_{fold}.csv").write_text(f"path,classname\n{test}.wav,c\n")
    table = read(tmp_path)
    assert [clip.name for clip in table.clips] == ["a.wav", "b.wav"]
    assert [(fold.train.tolist(), fold.test.tolist()) for fold in table.folds] == [([0], [1]), ([1], [0])]


def test_a_missing_fold_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "csv_files"
    folder.mkdir()
    for name in ("train_1", "test_1", "train_3", "test_3"):
        (folder / f"{name}.csv").write_text(f"path,classname\n{name}.wav,c\n")
    with pytest.raises(DataError, match=r"train_2\.csv: no such table; .*layout table reads one alone"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath,classname\r\nx.wav,dog\r\n\r\ny.wav,cat\r\n",
        b'"path" , classname\n"x.wav"," dog "\ny.wav,cat\n',
        b"id,classname,path\n1,dog,x.wav\n2,cat,y.wav\n",
    ],
    ids=["BOM and CRLF", "quotes and spaces", "other columns and order"],
)
def test_tables_of_every_make_are_read(tmp_path: Path, content: bytes) -> None:
    write_tables(tmp_path, "", "path,classname\nt.wav,dog\n")
    (tmp_path / "train.csv").write_bytes(content)
    table = read(tmp_path)
    assert [clip.name for clip in table.clips] == ["x.wav", "y.wav", "t.wav"]
    assert table.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("path,what\nx.wav,a\n", r"train\.csv: no column 'classname'; it has 'path', 'what'; .*columns"),
        ("", r"train\.csv: no column 'path' or 'classname'; it has none"),
        ("path,classname\n", r"train\.csv: the table has no rows"),
        (
            "path,classname\nx.wav,a\ny.wav,\n",
            r"train\.csv, row 3: class name is empty; every clip needs one",
        ),
        ("path,classname\nx.wav\n", r"train\.csv, row 2: 1 field, but the header has 2"),
        ("path,classname\n,a\n", r"train\.csv, row 2: path is empty"),
        ("path,classname\n..\\x.wav,a\n", r"row 2: \.\.\\x\.wav leaves the dataset's folder"),
        ("path,classname\na/../../x.wav,a\n", r"row 2: a/\.\./\.\./x\.wav leaves the dataset's folder"),
        (
            "path,classname\nx.wav,a\nx.wav,b\n",
            r"train\.csv, row 3: x\.wav is 'b' here but 'a' in train\.csv, row 2",
        ),
    ],
)
def test_bad_tables_are_refused_by_file_row_and_value(tmp_path: Path, train: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write_tables(tmp_path, train))


def test_a_path_may_go_up_as_long_as_it_stays_inside(tmp_path: Path) -> None:
    table = read(write_tables(tmp_path, "path,classname\naudios/../x.wav,a\n"))
    assert table.clips[0].name == "x.wav"


def test_two_spellings_of_one_path_are_one_clip(tmp_path: Path) -> None:
    table = read(
        write_tables(tmp_path, "path,classname\n./x.wav,a\naudios//y.wav,a\n", "path,classname\nx.wav,a\n")
    )
    assert [clip.name for clip in table.clips] == ["x.wav", "audios/y.wav"]
    assert "fold 1: 1 clip in both train and test, e.g. x.wav; test scores will flatter" in table.notes
    with pytest.raises(DataError, match=r"test\.csv, row 2: x\.wav is 'b' here but 'a' in train\.csv, row 2"):
        read(write_tables(tmp_path, "path,classname\n./x.wav,a\n", "path,classname\nx.wav,b\n"))


def test_what_is_odd_but_readable_is_said(tmp_path: Path) -> None:
    train = "path,classname\nx.wav,a\nx.wav,a\ny.wav,a\n"
    table = read(write_tables(tmp_path, train, "path,classname\ny.wav,a\nz.wav,b\n"))
    assert table.notes == (
        "1 clip on more than one row, e.g. x.wav (train.csv, row 3)",
        "fold 1: 1 clip in both train and test, e.g. y.wav; test scores will flatter",
        "fold 1: classes in test that train lacks: b",
    )
    assert table.folds[0].train.tolist() == [0, 0, 1]


def test_what_holds_in_many_folds_is_said_once(tmp_path: Path) -> None:
    folder = tmp_path / "csv_files"
    folder.mkdir()
    for fold in range(1, 31):
        (folder / f"train_{fold}.csv").write_text("path,classname\nx.wav,a\nx.wav,a\n")
        (folder / f"test_{fold}.csv").write_text("path,classname\nx.wav,a\ny.wav,b\nz.wav,c\n")
    assert read(tmp_path).notes == (
        "1 clip on more than one row, e.g. x.wav (train_1.csv, row 3)",
        "folds 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more: 1 clip in both train and test, e.g. x.wav; "
        "test scores will flatter",
        "folds 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more: classes in test that train lacks: b, c",
    )


def test_columns_of_stretches_are_used_and_those_of_a_split_are_named(tmp_path: Path) -> None:
    write_tables(
        tmp_path,
        "path,classname,start,end,fold,gain\nlong.wav,siren,3,5.5,1,0\nlong.wav,dog,1:00,,1,0\n",
        "filename,label\nlong.wav,dog\n",
    )
    table = read(tmp_path)
    assert [(clip.start, clip.end, table.class_of(clip)) for clip in table.clips] == [
        (3.0, 5.5, "siren"),
        (60.0, None, "dog"),
        (0.0, None, "dog"),
    ]
    assert table.notes[:4] == (
        "columns fold not used: the layout's own tables are the split",
        "columns not used: gain",
        "columns read as path=path,label=classname,start=start,end=end",
        "columns read as path=filename,label=label",
    )


def test_a_name_that_is_not_utf8_finds_its_file_and_is_stored_escaped(tmp_path: Path) -> None:
    name = b"caf\xe9 1.wav"
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    write_tables(tmp_path, "")
    (tmp_path / "train.csv").write_bytes(b"path,classname\n" + name + b",a\n")
    clip = read(tmp_path).clips[0]
    assert clip.file.read_bytes() == b"x"
    assert clip.name == "caf%E9 1.wav"


def test_a_folder_without_tables_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train\.csv: no such table; the folder needs train\.csv and test\.csv"
    ):
        read(tmp_path)
