"""Tables as people's tools write them, and as they should not be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.clip_tables import inside
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.datasets.rows import TableRow
from palm_cache.extraction.datasets.texts import read_header, read_table

ROWS = ((2, ("audios/x.wav", "Hühner, wild")), (3, ("audios/y.wav", "dog")))


def write(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "train.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_encoding_delimiter_and_line_end_gives_the_same_rows(
    encoding: str, delimiter: str, newline: str, tmp_path: Path
) -> None:
    lines = ["path,classname", 'audios/x.wav,"Hühner@ wild"', "audios/y.wav,dog", ""]
    text = newline.join(lines).replace(",", delimiter).replace("@", ",")
    file = write(tmp_path, text.encode(encoding))
    table = read_table(file)
    assert table.header == read_header(file) == ("path", "classname")
    assert tuple(table.records) == ROWS


def test_excels_line_about_the_delimiter_is_no_row(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "sep=;\r\npath;classname\r\na,b.wav;dog\r\n"))
    assert tuple(table.records) == ((3, ("a,b.wav", "dog")),)


def test_rows_and_columns_without_content_are_passed_over(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "path,classname,,\nx.wav,dog,,\n,,,\n\n , ,\ny.wav,cat,,\n"))
    assert table.header == ("path", "classname")
    assert [line for line, _ in table.records] == [2, 6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('path,classname\nx.wav,dog\ny.wav,"cat\nz.wav,hen\n', "row 3: malformed from here on"),
        ('path,classname\nx.wav,"dog\ny.wav,cat\nz.wav,"hen"\n', "row 2: malformed from here on"),
        ('path,classname\nx.wav,"do"g\n', "row 2: malformed from here on"),
        ('path,classname\nx.wav,"dog\ny.wav,cat"\n', "row 2: a quoted field goes over other rows"),
        (
            "path,classname\nx.wav,dog\ny.wav,cat, wild\n",
            r"row 3: 3 fields, but the header has 2; put a name",
        ),
        ("path,classname,note\nx.wav,dog,\ny.wav\n", r"row 3: 1 field, but the header has 3"),
        (b"\xff\xfep\x00a\x00t", "looks like UTF-16, but is not"),
        ("path,classname\n" + "x" * 200_000 + ",dog\n", "row 2: malformed from here on .*field larger than"),
    ],
    ids=[
        "never closed",
        "closed by another",
        "text after",
        "swallows a row",
        "comma",
        "ragged",
        "cut",
        "huge",
    ],
)
def test_a_table_that_is_malformed_but_could_be_read_is_an_error_with_file_and_row(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"train\.csv.*{message}"):
        list(read_table(write(tmp_path, content)).records)


@pytest.mark.parametrize("sentence", ['"What now', '"Stop," he said', 'a "b'])
def test_between_tabs_a_quote_that_closes_nothing_is_a_character(sentence: str, tmp_path: Path) -> None:
    rows = [("x.wav", sentence, "dog"), ("y.wav", "plain", "cat"), ("z.wav", 'end"', "dog")]
    content = "".join("\t".join(row) + "\n" for row in [("path", "sentence", "classname"), *rows])
    assert [fields for _, fields in read_table(write(tmp_path, content)).records] == rows
    quoted = read_table(write(tmp_path, 'path\tclassname\n"x.wav"\t"a\tdog" \n"y.wav"\t"cat"\n'))
    assert [fields for _, fields in quoted.records] == [("x.wav", "a\tdog"), ("y.wav", "cat")]
    ragged = write(tmp_path, 'path\tclassname\n"x.wav"\t"a\ndog"\n"y.wav"\t"cat"\tmore\n')
    with pytest.raises(DataError, match="row 4: 3 fields, but the header has 2"):
        list(read_table(ragged).records)


def test_a_field_of_several_lines_may_hold_commas_of_its_own(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'path,classname,note\nx.wav,dog,"far away,\nbut loud"\n'))
    assert tuple(table.records) == ((2, ("x.wav", "dog", "far away,\nbut loud")),)


def names_read(tmp_path: Path, *names: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    rows = b"".join(b"%d.wav,%s\n" % (number, name) for number, name in enumerate(names))
    write(tmp_path, b"path,classname\n" + rows)
    (tmp_path / "test.csv").write_text("path,classname\nt.wav,x\n")
    table = read(tmp_path)
    return tuple(name for name in table.class_names if name != "x"), table.notes


def test_a_table_in_windows_1252_is_read_as_such_and_said(tmp_path: Path) -> None:
    names, notes = names_read(tmp_path, "Hühner".encode("cp1252"), "Café “au lait”".encode("cp1252"))
    assert names == ("Café “au lait”", "Hühner")
    assert notes[0] == "class names that are not UTF-8, read as Windows-1252: Café “au lait”, Hühner"
    for name in names:
        name.encode()


def test_one_name_in_several_forms_is_one_class_and_said(tmp_path: Path) -> None:
    spellings = ("Café noir", "Cafe\u0301 noir", "Café\u00a0noir", "\ufeffCafé noir", "Café\u202fnoir\u200b")
    names, notes = names_read(tmp_path, *(name.encode() for name in spellings))
    assert names == ("Café noir",)
    assert notes[0].endswith("read as one with their plain spelling: Café noir")


def test_names_that_differ_by_case_or_dashes_only_are_said(tmp_path: Path) -> None:
    names, notes = names_read(tmp_path, b"Dog", b"dog", b"dog", b"car-horn", b"car horn", b"car_horn", b"cat")
    assert len(names) == 6
    assert notes[:2] == (
        "classes whose names hardly differ: 'Dog' (1), 'dog' (2); are they one?",
        "classes whose names hardly differ: 'car horn' (1), 'car-horn' (1), 'car_horn' (1); are they one?",
    )


def test_lists_of_classes_are_said_and_names_with_commas_are_not(tmp_path: Path) -> None:
    lists = (b'"Guitar,Music"', b'"Piano,Music"', b'"Piano;Guitar"')
    _, notes = names_read(tmp_path, *lists, b'"Male speech, man speaking"', b"Music")
    told = "3 classes seem to be lists of others, e.g. 'Guitar,Music': a clip has one class"
    assert any(note.startswith(told) for note in notes)


def test_a_quote_around_half_a_name_is_asked_about(tmp_path: Path) -> None:
    _, notes = names_read(tmp_path, b'"""wren"', b"robin")
    assert "class '\"wren' (1) begins or ends with a quote: was it to be closed, or opened?" in notes


def test_a_class_may_be_called_nan_but_is_asked_about(tmp_path: Path) -> None:
    names, notes = names_read(tmp_path, b"nan", b"None")
    assert names == ("None", "nan")
    assert "class 'nan' (1): is that a name, or a label that is missing?" in notes


@pytest.mark.parametrize(
    "name", [b"do\x1b[31mg", b"dog\x00", b'"dog\ncat"', "dog\u2028cat".encode(), b"\x81\x07"]
)
def test_a_class_name_that_is_no_line_of_text_is_refused_by_file_and_row(name: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv, row 2: class name .* holds the control character"):
        names_read(tmp_path, name)


def test_a_column_that_is_used_is_there_once(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "path,classname,note,note\nx.wav,dog,a,b\n"))
    assert list(table.rows(["path"])) == [(2, ("x.wav",))]
    with pytest.raises(DataError, match=r"train\.csv: two columns are called 'note'"):
        list(table.rows(["note"]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.tar", "x.txt"])
def test_a_pipe_is_never_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=r"x\.\w+: not a regular file"):
        read_dataset(str(tmp_path))


@pytest.mark.parametrize("layout", ["palm", "urbansound8k"])
def test_a_fold_of_an_absurd_number_is_named_at_once(layout: str, tmp_path: Path) -> None:
    if layout == "palm":
        (tmp_path / "csv_files").mkdir()
        for part in ("train_1", "test_1", "train_999999999", "test_999999999"):
            (tmp_path / "csv_files" / f"{part}.csv").write_text("path,classname\nx.wav,a\n")
        with pytest.raises(DataError, match=r"train_2\.csv: no such table"):
            read(tmp_path)
        return
    rows = "slice_file_name,fold,class\na.wav,1,dog\nb.wav,{},dog\n"
    (tmp_path / "metadata").mkdir()
    for fold, message in (("999999999", "no rows for fold 2"), ("9" * 5000, "is not a whole number from 1")):
        (tmp_path / "metadata" / "UrbanSound8K.csv").write_text(rows.format(fold))
        with pytest.raises(DataError, match=message):
            read_dataset("us8k", tmp_path)


@given(st.text())
@example("/A:")
@example("x/../A:B:c")
def test_no_path_of_a_table_leaves_the_folder(path: str) -> None:
    try:
        found = inside(TableRow("x.csv", 2, path, None))
    except DataError:
        return
    for spelling in (found, found.replace("\\", "/")):
        assert os.path.normpath(f"/data/birds/{spelling}").startswith("/data/birds")
    assert not found.startswith("/")
    assert inside(TableRow("x.csv", 2, found, None)) == found


def test_a_word_in_letters_of_two_alphabets_is_said(tmp_path: Path) -> None:
    names, notes = names_read(tmp_path, b"dog", "d\u043eg".encode(), "собака dog".encode())
    assert len(names) == 3
    (said,) = [note for note in notes if "alphabets" in note]
    assert "'d\u043eg' (1)" in said
