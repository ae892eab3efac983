from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import flip_bit, make_features, write_sample

from palm_cache.store.features import FeatureStore
from palm_cache.store.header import StoredRows
from palm_cache.store.layout import STORE_ROOT
from palm_cache.store.places import folder
from palm_cache.store.places.local import LocalFolder
from palm_cache.store.root import file_hash, root_hash
from palm_cache.store.writing import claimed_files, write_store


def files_of(store: Path) -> dict[str, bytes]:
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def test_the_same_content_is_the_same_store_byte_by_byte(tmp_path: Path) -> None:
    """DVC, which removes a store before the extraction, then sees that nothing has changed."""
    one, other = (write_sample(tmp_path / name, make_features()) for name in ("one.zarr", "other.zarr"))
    assert files_of(one) == files_of(other)


def test_a_chunk_of_another_store_is_no_chunk_of_this_one(tmp_path: Path) -> None:
    """A file that ends with its own CRC-32C has the same CRC-32C as every other that does."""
    features = make_features()
    one = write_sample(tmp_path / "one.zarr", features)
    other = write_sample(tmp_path / "other.zarr", replace(features, audio=2 * features.audio))
    shutil.copy(other / "audio" / "c" / "0" / "0" / "0", one / "audio" / "c" / "0" / "0" / "0")
    assert FeatureStore(one).problems() == ["audio/c/0/0/0 is damaged"]


def test_a_forged_manifest_claims_no_file_but_a_stores_own(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "x.zarr", make_features())
    (store / "sub").mkdir()
    (store / "sub" / "thesis.txt").write_text("years of work")
    root = json.loads((store / STORE_ROOT).read_text())
    root["attributes"]["files"] |= {"sub/thesis.txt": [13, "0" * 64], "../other": [1, "0" * 64]}
    root["attributes"]["sha256"] = root_hash(root)
    (store / STORE_ROOT).write_text(json.dumps(root))
    claimed = claimed_files(folder(store))
    assert "audio/zarr.json" in claimed
    assert claimed.isdisjoint({"sub/thesis.txt", "../other"})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """120 rows in files of 16: seven full ones and one of eight."""
    for module in ("features", "writing"):
        monkeypatch.setattr(f"palm_cache.store.{module}.CHUNK_ROWS", 16)
    return write_sample(tmp_path / "x.zarr", make_features())


def numbers_of_files(store: Path) -> list[int]:
    return [(store / f"audio/c/{file}/0/0").stat().st_ino for file in range(8)]


def write_again(store: Path, rows: StoredRows, order: list[int]) -> set[int]:
    """Write a store anew with rows of it in some order; return for which files embeddings were asked for."""
    old = FeatureStore(store)
    audio, asked = old.audio()[order], set()

    def embeddings(some: slice) -> np.ndarray:
        asked.add(some.start // 16)
        return audio[some]

    write_store(store, old.header, rows, old.text(), embeddings, before=old)
    assert [problem for problem in FeatureStore(store).problems() if "zero vector" not in problem] == []
    np.testing.assert_array_equal(FeatureStore(store).audio(), audio)
    return asked


def in_order(rows: StoredRows, order: list[int]) -> StoredRows:
    names = [rows.names[row] for row in order]
    arrays = {name: getattr(rows, name)[order] for name in ("start", "end", "labels", "contents")}
    return replace(rows, names=names, groups=None, **arrays)


@pytest.mark.parametrize(
    ("order", "made"),
    [
        ([*range(120), 3], {7}),
        ([*range(119)], {7}),
        ([*range(64)], set()),
        ([20, *range(1, 20), 0, *range(21, 120)], {0, 1}),
        ([*range(1, 120), 0], set(range(8))),
        ([*range(9)], {0}),
    ],
)
def test_files_of_embeddings_whose_rows_are_the_same_are_taken_over(
    store: Path, order: list[int], made: set[int]
) -> None:
    before, rows = numbers_of_files(store), in_order(FeatureStore(store).rows(), order)
    rows = replace(rows, folds=())
    assert write_again(store, rows, order) == made
    for file in {*range(len(order) // 16)} - made:
        assert (store / f"audio/c/{file}/0/0").stat().st_ino == before[file]


def test_a_row_that_is_another_stretch_or_has_failed_is_not_taken_over(store: Path) -> None:
    rows = FeatureStore(store).rows()
    rows.start[3], rows.end[20] = 0.5, 2.0
    assert write_again(store, replace(rows, errors={40: "damaged"}), [*range(120)]) == {0, 1, 2}
    assert write_again(store, replace(rows, errors={}), [*range(120)]) == {2}


def test_a_damaged_file_is_made_anew_and_not_taken_over(store: Path) -> None:
    rows, whole = FeatureStore(store).rows(), files_of(store)
    broken = FeatureStore(store)
    audio, text = broken.audio(), broken.text()
    flip_bit(store / "audio/c/3/0/0")
    (store / "audio/c/5/0/0").unlink()
    asked = []

    def embeddings(some: slice) -> np.ndarray:
        asked.append(some.start // 16)
        return audio[some]

    write_store(store, broken.header, rows, text, embeddings, before=broken)
    assert asked == [3, 5]
    assert files_of(store) == whole


def test_a_pipe_in_the_place_of_a_file_is_made_anew_and_waited_for_by_nobody(store: Path) -> None:
    before, whole = FeatureStore(store), files_of(store)
    audio, rows = before.audio(), before.rows()
    (store / "audio/c/3/0/0").unlink()
    os.mkfifo(store / "audio/c/3/0/0")
    write_store(store, before.header, rows, before.text(), audio.__getitem__, before=before)
    assert files_of(store) == whole


def test_a_file_that_is_taken_over_is_read_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def hashed(content: bytes) -> str:
        sizes.append(len(content))
        return file_hash(content)

    monkeypatch.setattr("palm_cache.store.writing.file_hash", hashed)
    assert write_again(store, FeatureStore(store).rows(), [*range(120)]) == set()
    assert sizes.count((store / "audio/c/0/0/0").stat().st_size) == 8


def test_where_disks_know_no_second_names_files_are_copied(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    before, whole = numbers_of_files(store), files_of(store)
    assert write_again(store, FeatureStore(store).rows(), [*range(120)]) == set()
    assert files_of(store) == whole
    assert set(before).isdisjoint(numbers_of_files(store))


def test_a_file_that_is_a_link_to_another_disk_is_taken_over_with_its_content(
    store: Path, tmp_path: Path
) -> None:
    """DVC puts links into its cache in the place of files."""
    file, kept = store / "audio/c/2/0/0", tmp_path / "kept"
    file.rename(kept)
    file.symlink_to(kept)
    assert write_again(store, FeatureStore(store).rows(), [*range(120)]) == set()
    assert not file.is_symlink()
    assert kept.is_file()
    assert LocalFolder(store).files().keys() == {*FeatureStore(store).manifest, "zarr.json"}
