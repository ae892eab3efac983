from __future__ import annotations

from pathlib import Path

import pytest
from miniatures import write_miniature
from samples import write_palm_folder

from palm_cache.errors import DataError, UnknownNameError
from palm_cache.extraction.datasets.registry import (
    CARDS,
    dataset_name,
    find_card,
    read_dataset,
    source_of,
)
from palm_cache.store.places import place


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_dataset_that_is_not_here_says_where_how_and_under_which_licence(
    card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read_dataset(card.name)
    message = str(caught.value)
    for part in (f"data/raw/{card.name}", card.size, card.licence, card.source, card.how_to_get, "root"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("urbansound8k", "UrbanSound8K"),
        ("URBANSOUND8K", "UrbanSound8K"),
        ("us8k", "UrbanSound8K"),
        ("ESC-50", "ESC50"),
        ("esc_50", "ESC50"),
        ("ESC-50-Actions", "ESC50-Actions"),
        ("GTZAN", "GT-Music-Genre"),
        ("NSynth", "NS-Instruments"),
        ("tut-2017", "TUT2017"),
        ("vocal-sound", "VocalSound"),
        ("ravdess", "RAVDESS"),
        ("Sesa", "SESA"),
        ("crema-d", "CREMA-D"),
        ("cremad", "CREMA-D"),
        ("beijing_opera", "Beijing-Opera"),
    ],
)
def test_names_are_found_whatever_their_spelling(spelling: str, name: str) -> None:
    card = find_card(spelling)
    assert card is not None
    assert card.name == name
    assert dataset_name(spelling) == name


def test_no_two_datasets_share_a_spelling() -> None:
    spellings = [spelling for card in CARDS for spelling in {card.name.lower(), *card.aliases}]
    assert len(spellings) == len(set(spellings))
    assert all(spelling == spelling.lower() for spelling in spellings)


def test_a_folder_is_a_dataset(tmp_path: Path) -> None:
    folder = write_palm_folder(tmp_path / "Mine")
    assert read_dataset(str(folder)).dataset == "Mine"
    assert dataset_name(f"{folder}/") == "Mine"


def test_near_matches_of_an_unknown_name_are_given() -> None:
    with pytest.raises(UnknownNameError, match=r"'urbansound9k'; did you mean UrbanSound8K\?"):
        read_dataset("urbansound9k")


def test_a_path_that_is_not_there_is_not_taken_for_a_name() -> None:
    with pytest.raises(DataError, match=r"\./nowhere: no such folder"):
        read_dataset("./nowhere")


def test_root_makes_no_sense_for_a_folder(tmp_path: Path) -> None:
    folder = write_palm_folder(tmp_path / "Mine")
    with pytest.raises(DataError, match="root goes with a dataset known by name"):
        read_dataset(str(folder), tmp_path)


def test_a_linked_folder_is_called_what_it_is_called_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_palm_folder(tmp_path / "store" / "v2")
    (tmp_path / "birds").symlink_to(folder)
    monkeypatch.chdir(tmp_path / "birds")
    for spelling in (f"{tmp_path}/birds", f"{tmp_path}/birds/", f"{tmp_path}/store/../birds/."):
        assert read_dataset(spelling).dataset == dataset_name(spelling) == "birds"
        assert read_dataset(spelling).source == f"{tmp_path}/birds"
    assert dataset_name(".") == "v2"  # the system itself knows no other name


def test_datasets_of_one_name_differ_in_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = (read_dataset(str(write_palm_folder(Path(site, "recordings")))) for site in ("a", "b"))
    assert one.dataset == other.dataset == "recordings"
    assert (one.source, other.source) == (f"{tmp_path}/a/recordings", f"{tmp_path}/b/recordings")
    published = read_dataset("esc50", write_miniature("ESC50", Path("mine")))
    assert (published.source, published.published) == (f"{tmp_path}/mine", "ESC50")
    assert read_dataset(f"./{write_palm_folder(Path('ESC50'))}").published == ""


def test_credentials_are_no_part_of_a_source() -> None:
    for url in ("https://me:secret@host/x/birds", "https://host/x/birds?token=secret"):
        assert source_of(place(url)) == "https://host/x/birds"


@pytest.mark.parametrize("name", ["..csv", "...csv"])
def test_a_name_that_would_be_a_way_out_of_the_features_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("path,label\nx.wav,a\n")
    with pytest.raises(DataError, match="is no name for a dataset; rename the file"):
        dataset_name(str(tmp_path / name))


def test_a_whole_disk_is_no_dataset() -> None:
    with pytest.raises(DataError, match="a whole disk is no dataset"):
        dataset_name("/")
