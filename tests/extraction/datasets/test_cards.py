"""All cards of the paper's datasets, each on a miniature tree in both layouts."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from miniatures import MINIATURES, write_miniature, write_palm_tables
from samples import shared

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.check import differences
from palm_cache.extraction.datasets.published import read
from palm_cache.extraction.datasets.registry import CARDS, check_dataset, find_card, read_dataset
from palm_cache.types import ClipTable

PAPER = [card for card in CARDS if card.name != "demo"]
UNSPLIT = {"Beijing-Opera", "CREMA-D", "GT-Music-Genre", "RAVDESS"}
SPLIT = [card for card in PAPER if card.name not in UNSPLIT]

every_card = pytest.mark.parametrize("card", PAPER, ids=lambda card: card.name)


def parts(table: ClipTable) -> list[tuple[set[str], set[str]]]:
    """File names and classes of every fold's train and test part, whatever their order and folders."""

    def told(row: int) -> str:
        clip = table.clips[row]
        return f"{clip.file.name} {table.class_names[clip.label]}"

    return [(set(map(told, fold.train.tolist())), set(map(told, fold.test.tolist()))) for fold in table.folds]


def test_every_dataset_but_the_demo_has_a_miniature() -> None:
    assert {card.name for card in PAPER} == set(MINIATURES)


@pytest.fixture
def paper() -> Path:
    return shared("paper")


def test_the_cards_of_the_papers_eleven_say_what_it_used(paper: Path) -> None:
    names = json.loads((paper / "classnames.json").read_text())
    with (paper / "datasets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(names) == 11
    for name, class_names in names.items():
        card = find_card(name)
        assert card is not None, name
        assert list(card.class_names) == class_names
        folds = [row for row in rows if row["dataset"] == name]
        assert [int(fold["test"]) for fold in folds] == list(card.test_clips)
        assert {int(fold["train_16shot"]) for fold in folds} == {card.few_shot_clips}
        assert {int(fold["n_folds"]) for fold in folds} == {card.n_folds}


@every_card
def test_a_card_says_where_from_under_which_licence_and_whom_to_cite(card: DatasetCard) -> None:
    assert card.source.startswith("https://")
    assert card.licence
    assert card.tree.endswith("\n")
    assert card.bibtex.startswith("@")
    assert card.bibtex.count("{") == card.bibtex.count("}")
    assert card.hub == f"MahiA/{card.name}"
    assert f"palm-cache download {card.name}" in card.how_to_get
    assert card.class_names == tuple(sorted(card.class_names))


@every_card
def test_the_palm_layout_is_read_in_the_order_of_its_tables(card: DatasetCard, tmp_path: Path) -> None:
    root = write_miniature(card.name, tmp_path / card.name)
    table = read(card, root)
    miniature = MINIATURES[card.name]
    assert table.dataset == card.name
    assert table.class_names == tuple(sorted(miniature.classes))
    assert len(table.folds) == miniature.folds == card.n_folds
    assert table.notes == ()
    for number, fold in enumerate(table.folds, start=1):
        part = f"csv_files/train_{number}.csv" if card.n_folds > 1 else "train.csv"
        lines = (root / part).read_text().splitlines()[1:]
        clips = [table.clips[row] for row in fold.train.tolist()]
        assert [f"{clip.name},{table.class_names[clip.label]}" for clip in clips] == lines
        assert len(fold.test) == 4
        assert not set(fold.train.tolist()) & set(fold.test.tolist())
    assert all(clip.file.is_file() for clip in table.clips)


@pytest.mark.parametrize("card", SPLIT, ids=lambda card: card.name)
def test_the_published_layout_holds_the_same_clips_and_says_that_their_order_differs(
    card: DatasetCard, tmp_path: Path
) -> None:
    published = read(card, write_miniature(card.name, tmp_path / "published", "published"))
    palm = read(card, write_miniature(card.name, tmp_path / "palm"))
    assert published.dataset == card.name
    assert published.class_names == palm.class_names
    assert parts(published) == parts(palm)
    assert all(clip.file.is_file() for clip in published.clips)
    assert "the few-shot draw is not theirs" in published.notes[0]


@pytest.mark.parametrize("name", sorted(UNSPLIT))
def test_what_is_published_without_the_papers_split_says_where_to_get_it(name: str, tmp_path: Path) -> None:
    root = write_miniature(name, tmp_path / name, "published")
    n_clips = 20 if name == "Beijing-Opera" else 8
    with pytest.raises(DataError) as caught:
        read_dataset(name, root)
    message = str(caught.value)
    assert message.startswith(f"{root}: {n_clips} clips of 2 classes, but {name} is published without")
    assert message.endswith(f"palm-cache download {name}")


@every_card
def test_palm_tables_beside_a_published_tree_find_their_clips_by_name(
    card: DatasetCard, tmp_path: Path
) -> None:
    root = write_miniature(card.name, tmp_path / "published", "published")
    write_palm_tables(card.name, root)
    beside = read(card, root)
    palm = read(card, write_miniature(card.name, tmp_path / "palm"))
    assert [clip.name for clip in beside.clips] == [clip.name for clip in palm.clips]
    assert [clip.file.name for clip in beside.clips] == [clip.file.name for clip in palm.clips]
    assert [clip.file.read_bytes() for clip in beside.clips] == [
        clip.file.read_bytes() for clip in palm.clips
    ]
    assert beside.notes[0].startswith(f"{len(palm.clips)} files found by name alone, e.g. audios/")


def test_another_container_of_the_same_name_is_found(tmp_path: Path) -> None:
    root = write_miniature("GT-Music-Genre", tmp_path / "GTZAN", "published")
    (root / "genres_original").rename(root / "genres")
    for file in root.rglob("*.wav"):
        file.rename(file.with_suffix(".au"))
    write_palm_tables("GT-Music-Genre", root)
    table = read_dataset("gtzan", root)
    assert {clip.file.suffix for clip in table.clips} == {".au"}


def test_a_name_that_lies_twice_is_not_guessed_at(tmp_path: Path) -> None:
    root = write_miniature("RAVDESS", tmp_path / "RAVDESS", "published")
    shutil.copytree(root / "Actor_01", root / "again" / "Actor_01")
    write_palm_tables("RAVDESS", root)
    table = read_dataset("RAVDESS", root)
    assert not table.clips[0].file.exists()
    assert all(clip.file.exists() for clip in table.clips[1:])
    assert any("bear the same name: which is meant?" in note for note in table.notes)


def test_one_file_never_stands_for_two_clips(tmp_path: Path) -> None:
    root = write_miniature("SESA", tmp_path / "SESA")
    table = (root / "test.csv").read_text().splitlines()
    first = (root / "train.csv").read_text().splitlines()[1]
    (root / "test.csv").write_text("\n".join([*table, first.replace("audios", "elsewhere")]))
    clip = read_dataset("SESA", root).clips[-1]
    assert clip.name.startswith("elsewhere/")
    assert not clip.file.exists()


@pytest.mark.parametrize("name", sorted(UNSPLIT))
def test_a_table_that_contradicts_the_file_names_is_said(name: str, tmp_path: Path) -> None:
    root = write_miniature(name, tmp_path / name)
    one, other = MINIATURES[name].classes
    tables = sorted(root.rglob("*.csv"))
    for table in tables:
        lines = table.read_text().splitlines()
        swapped = [line.replace(f",{one}", f",{other}") for line in lines]
        table.write_text("\n".join(swapped) + "\n")
    notes = [note for note in read_dataset(name, root).notes if "contradict their file name" in note]
    assert len(notes) == 1
    assert f"is {other!r} in the tables, {one!r} by its name" in notes[0]


def test_tables_for_the_hubs_viewer_are_no_fold(tmp_path: Path) -> None:
    root = write_miniature("Beijing-Opera", tmp_path / "Beijing-Opera")
    for part in ("train", "test"):
        shutil.copy(root / "csv_files" / f"{part}_1.csv", root / "csv_files" / f"{part}.csv")
    assert len(read_dataset("Beijing-Opera", root).folds) == 5


def test_esc50_actions_is_read_from_esc50(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for layout in ("palm", "published"):
        root = write_miniature("ESC50", Path("data/raw/ESC50"), layout)  # type: ignore[arg-type]
        for table in (root / "meta/esc50.csv", *(root / "csv_files").glob("*.csv")):
            if table.exists():
                table.write_text(table.read_text().replace("clapping", "dog"))
        table = read_dataset("esc50-actions")
        assert table.dataset == "ESC50-Actions"
        assert table.class_names == ("crying baby",)
        assert len(table.clips) == 10
        assert [len(fold.test) for fold in table.folds] == [2] * 5
        assert any("order" in note for note in table.notes)
        assert check_dataset("esc50-actions").folder == Path("data/raw/ESC50")
        shutil.rmtree(root)
    with pytest.raises(DataError, match="ESC50-Actions is not in data/raw/ESC50-Actions"):
        read_dataset("esc50-actions")


def test_a_family_without_test_clips_is_left_out(tmp_path: Path) -> None:
    root = write_miniature("NS-Instruments", tmp_path / "nsynth", "published")
    file = root / "nsynth-train" / "examples.json"
    notes = json.loads(file.read_text())
    notes["synth_lead_synthetic_000-060-050"] = {"instrument_family_str": "synth_lead"}
    file.write_text(json.dumps(notes))
    table = read_dataset("nsynth", root)
    assert table.class_names == ("bass", "flute")
    told = "classes that NS-Instruments leaves out are not read: synth_lead;"
    assert any(note.startswith(told) for note in table.notes)


def test_tut2017s_folds_are_right_by_the_papers_counts_and_by_the_published_ones(tmp_path: Path) -> None:
    card = find_card("TUT2017")
    assert card is not None
    table = read_dataset("TUT2017", write_miniature("TUT2017", tmp_path / "TUT2017", "published"))
    assert any("train and test seem to overlap" in note for note in table.notes)
    small = replace(card, class_names=table.class_names, n_clips=16)
    for paper, published in (((4, 9, 9, 9), (4, 4, 4, 4)), ((4, 4, 4, 4), (9, 9, 9, 9))):
        one = replace(small, test_clips=paper, published_test_clips=published)
        assert not any("test clips" in line for line in differences(one, table))
    mixed = replace(small, test_clips=(4, 9, 9, 9), published_test_clips=(4, 4, 4, 5))
    assert differences(mixed, table)[0] == "test clips: 4 instead of 5 in fold 4"


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("ESC50", "meta/esc50.csv", "filename,fold,category\na,1,dog\nb,3,dog\n", "no rows for fold 2"),
        ("ESC50", "meta/esc50.csv", "filename,fold\na,1\n", "no column 'category'"),
        ("NS-Instruments", "nsynth-test/examples.json", "{", "not JSON: .*get the file again"),
        ("NS-Instruments", "nsynth-test/examples.json", "[]", "notes by name expected, found a list"),
        ("NS-Instruments", "nsynth-test/examples.json", '{"a": {}}', "note 'a' has no instrument_family_str"),
        ("VocalSound", "datafiles/te.json", "{}", "a list of recordings under 'data' expected"),
        (
            "VocalSound",
            "datafiles/te.json",
            '{"data": [{"wav": "x/f1_0_hum.wav"}]}',
            r"te\.json, entry 1: 'f1_0_hum\.wav' names no sound; known: cough, laughter",
        ),
        (
            "TUT2017",
            "evaluation_setup/fold2_evaluate.txt",
            "audio/new.wav\tbeach\n",
            r"fold2_evaluate\.txt, row 1: audio/new\.wav is not in meta\.txt",
        ),
        (
            "TUT2017",
            "evaluation_setup/fold2_evaluate.txt",
            "audio/a000_0_10.wav\ttram\n",
            r"row 1: audio/a000_0_10\.wav is 'tram' here, 'cafe/restaurant' in meta\.txt",
        ),
        ("TUT2017", "evaluation_setup/fold2_evaluate.txt", "\n", "the list has no rows"),
        ("TUT2017", "meta.txt", "audio/a000_0_10.wav\n", r"meta\.txt, row 1: 2 fields separated by tabs"),
    ],
)
def test_malformed_metadata_is_refused(
    name: str, file: str, content: str, message: str, tmp_path: Path
) -> None:
    root = write_miniature(name, tmp_path / name, "published")
    (root / file).write_text(content)
    with pytest.raises(DataError, match=message):
        read_dataset(name, root)


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("ESC50", "meta", r"meta/esc50\.csv: cannot read the table: No such file"),
        ("SESA", "test", "SESA/test: no audio files; SESA as published has the folders train and test"),
        (
            "NS-Instruments",
            "nsynth-train",
            r"nsynth-train/examples\.json: cannot read the table: No such file",
        ),
        ("VocalSound", "audio_16k", "no folder audio_44k or data_44k or audio_16k"),
        ("TUT2017", "evaluation_setup", r"no fold1_train\.txt; TUT2017 as published has a list per fold"),
        ("TUT2017", "evaluation_setup/fold3_evaluate.txt", r"fold3_evaluate\.txt: cannot read the table"),
        ("UrbanSound8K", "metadata", r"metadata/UrbanSound8K\.csv: cannot read the table"),
    ],
)
def test_what_is_missing_of_a_published_tree_is_named(
    name: str, gone: str, message: str, tmp_path: Path
) -> None:
    root = write_miniature(name, tmp_path / name, "published")
    if (root / gone).is_dir():
        shutil.rmtree(root / gone)
    else:
        (root / gone).unlink()
    with pytest.raises(DataError, match=message):
        read_dataset(name, root)


def test_lists_that_give_no_scene_take_it_from_the_metadata(tmp_path: Path) -> None:
    root = write_miniature("TUT2017", tmp_path / "TUT2017", "published")
    whole = read_dataset("TUT2017", root)
    for file in (root / "evaluation_setup").iterdir():
        file.write_text("".join(line.split("\t")[0] + "\n" for line in file.read_text().splitlines()))
    assert parts(read_dataset("TUT2017", root)) == parts(whole)


def test_data_readme_has_every_dataset_with_source_and_licence() -> None:
    readme = (Path(__file__).parents[3] / "data" / "README.md").read_text(encoding="utf-8")
    for card in CARDS:
        for part in (card.name, card.source, card.licence, card.size):
            assert part in readme, f"{card.name}: {part}"
