from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from miniatures import MINIATURES, write_miniature
from samples import write_palm_folder

from palm_cache.errors import DataError
from palm_cache.extraction.datasets import registry
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.check import differences
from palm_cache.extraction.datasets.registry import check_dataset, find_card, read_dataset
from palm_cache.params import ReadingParams


@pytest.fixture
def esc50(monkeypatch: pytest.MonkeyPatch) -> DatasetCard:
    """ESC50's card with the counts of its miniature."""
    card = find_card("ESC50")
    assert card is not None
    small = replace(card, class_names=("clapping", "crying baby"), test_clips=(4,) * 5, n_clips=20)
    monkeypatch.setattr("palm_cache.extraction.datasets.check.SHOTS", 8)
    monkeypatch.setattr("palm_cache.extraction.datasets.card.SHOTS", 8)
    monkeypatch.setattr(registry, "CARDS", (small,))
    return small


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_miniature("ESC50", tmp_path / "ESC50")


def test_a_copy_that_is_as_its_card_says_is_sound(esc50: DatasetCard, root: Path) -> None:
    check = check_dataset("ESC50", root)
    assert check.sound
    assert (check.differences, check.table.missing, check.folder) == ((), (), root)
    assert read_dataset("esc-50", root, strict=True).notes == ()


def test_a_dataset_half_downloaded_is_said_and_refused_if_strict(esc50: DatasetCard, root: Path) -> None:
    files = sorted((root / "audios").iterdir())
    files[3].unlink()
    files[4].write_bytes(b"")
    check = check_dataset("ESC50", root)
    assert not check.sound
    assert set(check.table.missing) == {f"audios/{file.name}" for file in files[3:5]}
    note = read_dataset("ESC50", root).notes[-1]
    assert note.startswith(f"2 of 20 files are missing or empty, e.g. {check.table.missing[0]}; all of them:")
    with pytest.raises(DataError, match=r"ESC50 in .* is not as it should be: 2 of 20 files are missing"):
        read_dataset("ESC50", root, strict=True)


def test_a_missing_fold_is_said_and_refused_if_strict(esc50: DatasetCard, root: Path) -> None:
    for part in ("train", "test"):
        (root / "csv_files" / f"{part}_5.csv").unlink()
    assert read_dataset("ESC50", root).notes == ("4 folds instead of 5",)
    with pytest.raises(DataError, match=r"is not as it should be: 4 folds instead of 5"):
        read_dataset("ESC50", root, strict=True)


def test_a_fold_without_a_test_that_was_asked_for_differs_from_no_card(
    esc50: DatasetCard, root: Path
) -> None:
    everything = ReadingParams(test="none")
    assert check_dataset("ESC50", root, reading=everything).differences == ()
    assert read_dataset("ESC50", root, strict=True, reading=everything).notes == ()


def test_labels_that_are_not_the_cards_class_names_are_named(esc50: DatasetCard, root: Path) -> None:
    for file in (root / "csv_files").iterdir():
        file.write_text(file.read_text().replace("crying baby", "crying_baby"))
    assert read_dataset("ESC50", root).notes == (
        "1 of 2 classes missing: crying baby",
        "1 class name that the card does not have: crying_baby",
    )


def test_counts_that_differ_are_named_fold_by_fold(esc50: DatasetCard, root: Path) -> None:
    table = read_dataset("ESC50", root)
    more = replace(esc50, test_clips=(4, 5, 6, 7, 8), n_clips=1234)
    assert differences(more, table) == (
        "20 clips instead of 1,234",
        "test clips: 4 instead of 5 in fold 2; 4 instead of 6 in fold 3; "
        "4 instead of 7 in fold 4; and 1 more",
    )


def test_a_class_with_too_few_training_clips_shows_in_the_draw(esc50: DatasetCard, root: Path) -> None:
    train = root / "csv_files" / "train_2.csv"
    lines = train.read_text().splitlines()
    train.write_text("\n".join(lines[:-1]) + "\n")
    assert read_dataset("ESC50", root).notes == ("training clips at 8 shots: 15 instead of 16 in fold 2",)


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_no_miniature_passes_for_the_real_dataset(name: str, tmp_path: Path) -> None:
    root = write_miniature(name, tmp_path / name)
    assert any("classes missing" in line for line in check_dataset(name, root).differences)
    with pytest.raises(DataError, match=f"{name} in .* is not as it should be"):
        read_dataset(name, root, strict=True)


def test_a_folder_has_no_card_but_its_files_are_looked_for(tmp_path: Path) -> None:
    folder = write_palm_folder(tmp_path / "Tones")
    assert check_dataset(str(folder)).sound
    (folder / "audios" / "test_0_0.wav").unlink()
    check = check_dataset(str(folder))
    assert (check.differences, check.table.missing) == ((), ("audios/test_0_0.wav",))
    with pytest.raises(DataError, match=r"Tones in .* is not as it should be: 1 of 12 files"):
        read_dataset(str(folder), strict=True)
