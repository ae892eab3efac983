from __future__ import annotations

from pathlib import Path

import pytest
from samples import write_palm_folder

from palm_cache.errors import DataError, UnknownNameError
from palm_cache.extraction.datasets.registry import CARDS, dataset_name, find_card, read_dataset


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_dataset_that_is_not_here_says_where_how_and_under_which_licence(
    card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read_dataset(card.name)
    message = str(caught.value)
    for part in (f"data/raw/{card.name}", card.size, card.licence, card.source, card.how_to_get, "--root"):
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
    with pytest.raises(DataError, match="--root goes with a dataset known by name"):
        read_dataset(str(folder), tmp_path)
