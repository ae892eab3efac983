"""The file that labels are appended to."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import write_tone

from palm_cache.errors import DataError, OutputError
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.label.labels import Label, Labelled, Stretch, append_label, read_labels

A: Stretch = ("a.wav", 0.0, None)
B: Stretch = ("b.wav", 2.5, 5.123456789)


def classes(file: Path) -> dict[Stretch, str]:
    return Labelled(read_labels(file)[0]).classes


def test_every_label_is_a_row_and_the_last_of_a_stretch_counts(tmp_path: Path) -> None:
    file = tmp_path / "new" / "labels.csv"
    assert read_labels(file) == ([], [])
    for stretch, name in ((A, "dog"), (B, 'a "quoted", name'), (A, "cat"), (A, None), (B, "Schäfer")):
        append_label(file, stretch, name)
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,start,end,classname,time"
    assert lines[2].startswith('b.wav,2.5,5.123456789,"a ""quoted"", name",20')
    assert len(lines) == 6
    assert classes(file) == {B: "Schäfer"}


@settings(max_examples=40)
@given(
    start=st.just(0.0) | st.floats(1e-6, 1e6),
    length=st.floats(1e-3, 1e6),
    name=st.text("aé\"',; ", min_size=1).filter(str.strip),
)
def test_a_stretch_comes_back_as_it_was_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, start: float, length: float, name: str
) -> None:
    file = tmp_path_factory.mktemp("labels") / "labels.csv"
    stretch: Stretch = (f"{name.strip()}.wav", start, start + length)
    append_label(file, stretch, "dog")
    assert classes(file) == {stretch: "dog"}


def test_a_name_that_is_not_utf8_is_written_as_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    append_label(file, ("caf%E9.wav", 0.0, None), "dog")
    append_label(file, ("50%25.wav", 0.0, None), "dog")
    assert [line.split(b",")[0] for line in file.read_bytes().splitlines()[1:]] == [
        b"caf\xe9.wav",
        b"50%25.wav",
    ]
    assert [path for path, _, _ in classes(file)] == ["caf%E9.wav", "50%25.wav"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("c.wav,0,,dog", "4 fields instead of 5"),
        ("c.wav,0,,dog,now,more", "6 fields instead of 5"),
        ('c.wav,0,,"dog,now', "malformed"),
        (",0,,dog,now", "path is empty"),
        ("c.wav,soon,,dog,now", "start 'soon' is no time"),
        ("c.wav,5,3,dog,now", "ends at 3 s, not after its start at 5 s"),
        ("c.wav,0,,do\x07g,now", "holds the control character"),
    ],
)
def test_a_row_broken_by_hand_is_named_and_the_others_are_kept(tmp_path: Path, row: str, said: str) -> None:
    file = tmp_path / "labels.csv"
    append_label(file, A, "dog")
    with file.open("a") as opened:
        opened.write(f"{row}\n")
    append_label(file, B, "cat")
    before = file.read_bytes()
    labels, problems = read_labels(file)
    assert [label.stretch for label in labels] == [A, B]
    assert len(problems) == 1
    assert re.match(f"labels.csv, row 3: .*{said}", problems[0])
    append_label(file, A, "cow")
    assert file.read_bytes().startswith(before)


def test_what_an_editor_leaves_is_read_and_continued(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(
        b'\xef\xbb\xbfpath,start,end,classname,time\r\na.wav,"0,0",,dog,x\r\n\r\nb.wav,1:02.5,65,cat,x'
    )
    assert classes(file) == {A: "dog", ("b.wav", 62.5, 65.0): "cat"}
    append_label(file, B, "cow")
    assert list(classes(file).values()) == ["dog", "cat", "cow"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"filename,label\na.wav,dog\n", "its first row is 'filename,label', not path,start"),
        ("path,start,end,classname,time\n".encode("utf-16"), "is not UTF-8"),
        (b"\n", "its first row is '', not path,start"),
    ],
)
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    appended = ".*: no file that labels can be appended to; choose another with labels"
    with pytest.raises(DataError, match=f"labels.csv: {fault}{appended}"):
        read_labels(file)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["", "/dev/null"])
def test_what_is_no_file_is_refused_and_nothing_is_lost_in_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="but a folder or a device; choose another with labels"):
        read_labels(tmp_path / name)


def test_a_full_disk_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "labels.csv"
    append_label(file, A, "dog")
    before, write = file.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:7]))
    with pytest.raises(OutputError, match="no space left on device"):
        append_label(file, B, "cat")
    assert file.read_bytes() == before


def test_a_path_with_a_line_break_cannot_be_a_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line break"):
        append_label(tmp_path / "labels.csv", ("a\nb.wav", 0.0, None), "dog")
    assert not (tmp_path / "labels.csv").exists()


def test_undo_goes_back_step_by_step_and_so_it_does_after_a_restart() -> None:
    given = [Label(A, "dog"), Label(B, "cat"), Label(A, "cow")]
    labelled = Labelled(given)
    states = []
    while labelled.undo:
        label = Label(*labelled.undo)
        given.append(label)
        labelled.take(label)
        states.append(dict(labelled.classes))
        again = Labelled(given)
        assert (again.classes, again.undo) == (labelled.classes, labelled.undo)
    assert states == [{B: "cat", A: "dog"}, {A: "dog"}, {}]


def test_extract_reads_the_file_as_a_dataset_wherever_the_audio_lies(tmp_path: Path) -> None:
    recordings, file = tmp_path / "drive", tmp_path / "project" / "labels.csv"
    for number in range(6):
        write_tone(recordings / f"{number}.wav", 300, seconds=3, seed=number)
    for number in range(6):
        append_label(file, (f"{number}.wav", 0.0, 1.0), "low" if number % 2 else "high")
        append_label(file, (f"{number}.wav", 1.0, None), "low")
    append_label(file, ("0.wav", 0.0, 1.0), "low")
    append_label(file, ("1.wav", 0.0, 1.0), None)
    table = read_dataset(str(file), recordings)
    assert table.class_names == ("high", "low")
    told = {(clip.name, clip.start, clip.end): table.class_of(clip) for clip in table.clips}
    assert told == {
        **{(f"{number}.wav", 0.0, 1.0): "low" if number % 2 else "high" for number in range(6)},
        **{(f"{number}.wav", 1.0, None): "low" for number in range(6)},
        ("0.wav", 0.0, 1.0): "low",
        ("1.wav", 0.0, 1.0): None,
    }
    assert all(clip.file.parent == recordings for clip in table.clips)
    assert table.source == str(recordings)
