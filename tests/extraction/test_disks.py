"""Extraction onto disks that are full or read-only: real ones, where the system lets us mount them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from samples import assert_same, read_arrays
from spectrum import SpectrumEncoder

from palm_cache.errors import OutputError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import dry_run, extract
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore

pytestmark = pytest.mark.usefixtures("small_chunks", "encoder")

SIZE = "512k"


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place))
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space there is."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass
    assert shutil.disk_usage(disk).free == 0
    return ballast


def test_a_disk_that_fills_up_keeps_what_is_finished_and_more_space_finishes_it(
    disk: Path, folder: Path, tmp_path: Path
) -> None:
    table, out = read(folder), disk / "mini.zarr"
    extract(table, "mini", tmp_path / "whole.zarr", ExtractParams())
    whole = read_arrays(tmp_path / "whole.zarr")
    extract(table, "mini", out, ExtractParams())
    for chunk in (1, 3):
        FeatureStore(out).uncommit(chunk)
    ballast = fill(disk)
    with pytest.raises(OutputError, match="no space left on device; free some space and run the same"):
        extract(table, "mini", out, ExtractParams())
    assert FeatureStore(out).missing()
    ballast.unlink()
    extract(table, "mini", out, ExtractParams())
    assert not list(out.rglob("*.partial"))
    assert_same(read_arrays(out), whole)


def test_a_new_store_for_which_there_is_no_room_leaves_nothing_behind(
    disk: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    out = disk / "new" / "mini.zarr"
    ballast = fill(disk)
    with pytest.raises(OutputError, match="no space left on device; free some space and run the same"):
        extract(read(folder), "mini", out, ExtractParams())
    assert encoder.embedded == 0
    assert not out.exists()
    ballast.unlink()
    assert extract(read(folder), "mini", out, ExtractParams()).embedded == 18
    assert sorted(file.name for file in out.parent.iterdir()) == [".mini.zarr.lock", "mini.zarr"]


def test_a_store_on_a_read_only_disk_can_be_read_and_planned_but_not_extended(
    disk: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    out = disk / "mini.zarr"
    extract(read(folder), "mini", out, ExtractParams())
    mount("-o", "remount,ro", str(disk))
    assert FeatureStore(out).problems() == []
    assert FeatureStore(out).read().audio.shape == (18, 1, 12)
    (folder / "audios" / "train_0_0.wav").write_bytes(b"<html>")
    assert dry_run(read(folder), "mini", out, ExtractParams()).to_embed == 1
    encoder.embedded = 0
    with pytest.raises(OutputError, match="the file system is read-only: choose another folder with --out"):
        extract(read(folder), "mini", out, ExtractParams())
    assert encoder.embedded == 0


def test_a_folder_in_which_nothing_can_be_made_is_named_before_anything_is_embedded(
    disk: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    mount("-o", "remount,ro", str(disk))
    with pytest.raises(OutputError, match=r"new/mini\.zarr: cannot write: read-only file system"):
        extract(read(folder), "mini", disk / "new" / "mini.zarr", ExtractParams())
    assert encoder.embedded == 0
