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


@pytest.mark.parametrize("spelling", ["urbansound8k", "UrbanSound8K", "URBANSOUND8K", "us8k"])
def test_names_are_found_whatever_their_spelling(spelling: str) -> None:
    card = find_card(spelling)
    assert card is not None
    assert card.name == "UrbanSound8K"
    assert dataset_name(spelling) == "UrbanSound8K"


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
