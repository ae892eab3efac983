"""Label tracks of Audacity and selection tables of Raven beside recordings."""

from __future__ import annotations

from pathlib import Path

import pytest
from birds import read, stretches, tones

from palm_cache.errors import DataError
from palm_cache.extraction.datasets import folder
from palm_cache.extraction.datasets.folder import FILES_TRIED
from palm_cache.extraction.datasets.texts import read_header
from palm_cache.types import Place


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
    assert table.notes[0] == ("read as selection tables: 2 stretches in 1 recording, 1 recording without any")


BIRDNET = "Start (s),End (s),Scientific name,Common name,Confidence"


@pytest.mark.parametrize(
    ("name", "header", "more"),
    [
        ("night.BirdNET.results.csv", f"{BIRDNET},File", ",/home/me/night.wav"),
        (
            "night.BirdNET.results.r.csv",
            f"{BIRDNET.replace('Start (s)', 'start')},filepath",
            ",C:\\\\night.wav",
        ),
        ("NIGHT.wav.csv", BIRDNET, ""),
        ("tables/night.csv", "onset;offset;name;species;sure", ""),
    ],
)
def test_a_csv_of_stretches_that_is_called_like_its_recording_is_read(
    name: str, header: str, more: str, tmp_path: Path
) -> None:
    root = tones(tmp_path, "night.wav", "day.wav", seconds=7)
    rows = (
        *("0.0,3.0,Troglodytes troglodytes,Wren,0.9", "3.0,6.0,Erithacus rubecula,Robin,0.7"),
        *("4.5,6.5,Turdus merula,Blackbird,0.7", "4.5,6.5,Parus major,Tit,0.6"),
    )
    table = "".join(f"{row}{more}\n" for row in rows)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(f"{header}\n{table.replace(',', ';') if ';' in header else table}")
    read_so = read(root)
    assert stretches(read_so) == [
        ("night.wav", 0.0, 3.0, "Wren"),
        ("night.wav", 3.0, 6.0, "Robin"),
        ("night.wav", 4.5, 6.5, None),
        ("day.wav", 0.0, None, None),
    ]
    told = f"e.g. {name}, row 5: night.wav from 4.5 s to 6.5 s is 'Tit' here but 'Blackbird' in {name}, row 4"
    assert f"1 stretch has several labels and is left without one, {told}" in read_so.notes
    (root / "deep" / "down").mkdir(parents=True)
    (root / "deep" / "down" / "broken.csv").write_bytes(b"\xff\xfe\x00")  # no table at all
    assert stretches(read(root)) == stretches(read_so)
    if more:  # a table that names its recordings, and is not one of BirdNET's for each
        (root / name).rename(root / "night.csv")
        assert "read as one table, night.csv" in read(root).notes[0]


def test_a_table_beside_those_of_single_recordings_is_the_datasets(tmp_path: Path) -> None:
    root = tones(tmp_path, "night.wav", "day.wav", seconds=7)
    (root / "night.csv").write_text(f"{BIRDNET}\n0.0,3.0,Troglodytes troglodytes,Wren,0.9\n")
    (root / "all.csv").write_text("path,label\nnight.wav,wren\nday.wav,robin\n")
    assert stretches(read(root)) == [("night.wav", 0.0, None, "wren"), ("day.wav", 0.0, None, "robin")]
    assert stretches(read(root, layout="raven"))[0] == ("night.wav", 0.0, 3.0, "Wren")


def test_a_table_of_all_recordings_is_read_beside_those_that_a_tool_wrote_for_each(tmp_path: Path) -> None:
    root = tones(tmp_path, "night.wav", "day.wav", seconds=7)
    rows = {name: f"0.0,3.0,Troglodytes troglodytes,Wren,0.9,/rec/{name}.wav\n" for name in ("night", "day")}
    for name, row in rows.items():
        (root / f"{name}.BirdNET.results.csv").write_text(f"{BIRDNET},File\n{row}")
    (root / "BirdNET_CombinedTable.csv").write_text(f"{BIRDNET},File\n{''.join(rows.values())}")
    table = read(root)
    assert table.notes[0].startswith("read as one table, BirdNET_CombinedTable.csv")
    assert [clip.file.name for clip in table.clips] == ["night.wav", "day.wav"]


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        (
            "audacity",
            r"no Audacity label track here or below: looked for \*\.txt with start TAB end TAB label",
        ),
        (
            "raven",
            r"no selection table here or below: looked for \*\.txt with a column 'Begin Time \(s\)', "
            r"and for \*\.csv of starts and ends, called like a recording",
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


def test_of_tables_beside_recordings_few_are_opened_to_recognise_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a bucket each is a request, and what is measured of sounds lies in as many tables."""
    names = [f"wren/deep/{number}" for number in range(FILES_TRIED + 5)]
    root = tones(tmp_path, *(f"{name}.wav" for name in names), "robin/deep/x.wav", seconds=1)
    for name in names:
        (root / f"{name}.csv").write_text("frameTime,f0\n0,1\n")
    opened: list[Place] = []

    def note(file: Place) -> tuple[str, ...]:
        opened.append(file)
        return read_header(file)

    monkeypatch.setattr(folder, "read_header", note)
    assert read(root).class_names == ("robin", "wren")
    assert len(opened) == FILES_TRIED


def test_a_table_of_stretches_without_labels_does_not_take_those_of_folders_away(tmp_path: Path) -> None:
    root = tones(tmp_path, "robin/a.wav", "wren/b.wav", seconds=4)
    (root / "wren" / "b.csv").write_text("start,end,power,What\n0,1,0.5,wren\n")
    assert read(root).class_names == ("robin", "wren")
    assert stretches(read(root, columns=("label=What",)))[0] == ("wren/b.wav", 0.0, 1.0, "wren")
    flat = tones(tmp_path / "flat", "b.wav", seconds=4)
    (flat / "b.csv").write_text("start,end,power\n0,1,0.5\n")
    tones(flat, "c.wav", seconds=4)
    (flat / "c.csv").write_text("start,end,power\n0,1,0.5\n")
    table = read(flat)
    assert stretches(table) == [("b.wav", 0.0, 1.0, None), ("c.wav", 0.0, 1.0, None)]
    assert "no column of labels in b.csv, c.csv; `columns` label=NAME says which it is" in table.notes


@pytest.mark.parametrize(
    ("name", "content"),
    [("dusk.txt", f"{RAVEN}\tCall\n1\tS\t1\t0.5\t1.5\t0\t9\twren\n"), ("dusk.txt", "0.5\t1.5\twren\n")],
    ids=["raven", "audacity"],
)
def test_annotations_none_of_which_belongs_to_a_recording_are_an_error(
    tmp_path: Path, name: str, content: str
) -> None:
    root = tones(tmp_path, "night.wav", seconds=4)
    (root / name).write_text(content)
    with pytest.raises(DataError, match=r"none belongs to a recording, e\.g\. dusk\.txt"):
        read(root)


def test_a_csv_beside_its_recording_may_count_in_milliseconds(tmp_path: Path) -> None:
    root = tones(tmp_path, "night.wav", seconds=4)
    (root / "night.csv").write_text("start_ms,end_ms,label\n500,1500,wren\n")
    assert stretches(read(root)) == [("night.wav", 0.5, 1.5, "wren")]


def test_recordings_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    """As recorders of several sites name theirs, and as Raven names them on the machine that it ran on."""
    root = tones(tmp_path, "site1/night.wav", "site2/night.wav", seconds=4)
    rows = (f"{n}\tS\t1\t0.5\t1.5\t0\t9\tnight.wav\tD:\\rec\\Site{n}\\night.wav\tx{n}\n" for n in (1, 2))
    (root / "all.txt").write_text(f"{RAVEN}\tBegin File\tBegin Path\tLabel\n{''.join(rows)}")
    expected = [(f"site{n}/night.wav", 0.5, 1.5, f"x{n}") for n in (1, 2)]
    assert stretches(read(root)) == expected
    (root / "all.txt").unlink()
    for n in (1, 2):
        row = f"{n}\tS\t1\t0.5\t1.5\t0\t9\tnight.wav\tx{n}\n"
        (root / f"site{n}" / "call.txt").write_text(f"{RAVEN}\tBegin File\tLabel\n{row}")
    assert stretches(read(root)) == expected
    for n in (1, 2):
        (root / f"site{n}" / "call.txt").unlink()
    for n, beside in enumerate((".", "site1", "site2")):
        tones(root / beside, "night.wav", seconds=4)
        (root / beside / "night.txt").write_text(f"0.5\t1.5\tx{n}\n")
    assert stretches(read(root)) == [("night.wav", 0.5, 1.5, "x0"), *expected]


def test_a_selection_table_over_several_files_counts_in_each_of_them(tmp_path: Path) -> None:
    root = tones(tmp_path, "a.wav", "b.wav", seconds=4)
    (root / "all.txt").write_text(
        f"{RAVEN}\tBegin File\tFile Offset (s)\tCall\n1\tS\t1\t0.5\t1.5\t0\t9\ta.wav\t0.5\twren\n"
        "2\tS\t1\t5\t6.5\t0\t9\tB.WAV\t1\trobin\n"
    )
    table = read(root, columns=("label=Call",))
    assert stretches(table) == [("a.wav", 0.5, 1.5, "wren"), ("b.wav", 1.0, 2.5, "robin")]


@pytest.mark.parametrize("name", ["night.txt", "night.BirdNET.results.txt"])
def test_what_stands_behind_a_label_is_not_part_of_it(name: str, tmp_path: Path) -> None:
    root = tones(tmp_path, "night.wav", seconds=7)
    (root / name).write_text("0.0\t3.0\tEurasian Wren\t0.8715\n3.0\t6.0\tRobin\t0.2\n6.0\t6.5\tRobin\n")
    table = read(root)
    assert stretches(table) == [
        ("night.wav", 0.0, 3.0, "Eurasian Wren"),
        ("night.wav", 3.0, 6.0, "Robin"),
        ("night.wav", 6.0, 6.5, "Robin"),
    ]
    assert "what stands behind the label is not used, on 2 lines" in table.notes


def test_a_track_that_predict_wrote_is_no_label(tmp_path: Path) -> None:
    root = tones(tmp_path, "day.wav", "night.wav", seconds=4)
    answers = "0.500000\t1.250000\twren\t\n2.000000\t3.000000\trobin\t\n"
    (root / "night.wav.txt").write_text(answers)
    told = "not read, as predict wrote it: night.wav.txt; exported from Audacity it is yours"
    unlabelled = [("day.wav", 0.0, None, None), ("night.wav", 0.0, None, None)]
    assert stretches(read(root)) == unlabelled
    assert told in read(root).notes
    with pytest.raises(DataError, match=f"no Audacity label track here or below: .*; {told}"):
        read(root, layout="audacity")
    (root / "day.txt").write_text("0.5\t1.25\twren\n")
    assert stretches(read(root)) == [("day.wav", 0.5, 1.25, "wren"), unlabelled[1]]
    assert told in read(root).notes
    (root / "night.wav.txt").write_text(answers.replace("\t\n", "\n"))  # as Audacity exports it
    assert len(stretches(read(root))) == 3


def test_a_corrected_track_is_read_however_many_predict_wrote_before_it(tmp_path: Path) -> None:
    names = [f"{number:02}.wav" for number in range(FILES_TRIED + 2)]
    root = tones(tmp_path, *names, seconds=1)
    for name in names:
        (root / f"{name}.txt").write_text("0.100000\t0.500000\twren\t\n")
    assert f"{names[9]}.txt and {FILES_TRIED - 8} more; exported" in read(root).notes[-1]
    (root / f"{names[-1]}.txt").write_text("0.100000\t0.500000\trobin\n")
    assert stretches(read(root))[0] == (names[-1], 0.1, 0.5, "robin")
