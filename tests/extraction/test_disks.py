"""Extraction onto disks that are full or read-only: real ones, where the system lets us mount them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from samples import assert_same, read_arrays, write_tone
from spectrum import SpectrumEncoder

from palm_cache.errors import OutputError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import Extractor, extract
from palm_cache.params import Recipe, Resources
from palm_cache.store.cache import Cache
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


def test_a_full_disk_for_the_cache_is_said_and_more_space_finishes_the_store(
    disk: Path, folder: Path, tmp_path: Path, encoder: SpectrumEncoder
) -> None:
    table, out = read(folder), tmp_path / "mini.zarr"
    whole = extract(table, "mini", tmp_path / "whole.zarr", cache=tmp_path / "elsewhere").store
    extract(table.subset(range(5)), "mini", out, cache=disk / "cache")
    ballast = fill(disk)
    with pytest.raises(OutputError, match="no space left on device; free some space, then try again"):
        extract(table, "mini", out, cache=disk / "cache")
    assert FeatureStore(out).n_clips == 5
    assert FeatureStore(out).problems() == []
    ballast.unlink()
    assert not list(disk.rglob("*.partial"))
    assert extract(table, "mini", out, cache=disk / "cache").embedded == 13
    assert_same(read_arrays(out), read_arrays(whole))


def test_a_full_disk_for_the_store_leaves_the_store_that_was_there(
    disk: Path, folder: Path, tmp_path: Path, encoder: SpectrumEncoder
) -> None:
    table, out, cache = read(folder), disk / "stores" / "mini.zarr", tmp_path / "cache"
    extract(table.subset(range(5)), "mini", out, cache=cache)
    before = read_arrays(out)
    ballast = fill(disk)
    with pytest.raises(OutputError, match="no space left on device; free some space, then try again"):
        extract(table, "mini", out, cache=cache)
    assert_same(read_arrays(out), before)
    ballast.unlink()
    encoder.embedded = 0
    assert extract(table, "mini", out, cache=cache).embedded == 0  # what was embedded is known
    assert encoder.embedded == 0
    assert FeatureStore(out).n_clips == 18
    assert [file.name for file in out.parent.iterdir()] == ["mini.zarr"]


def test_a_new_store_for_which_there_is_no_room_leaves_nothing_behind(
    disk: Path, folder: Path, tmp_path: Path
) -> None:
    out, cache = disk / "new" / "mini.zarr", tmp_path / "cache"
    ballast = fill(disk)
    with pytest.raises(OutputError, match="no space left on device; free some space, then try again"):
        extract(read(folder), "mini", out, cache=cache)
    assert not out.exists()
    ballast.unlink()
    assert extract(read(folder), "mini", out, cache=cache).embedded == 0
    assert [file.name for file in out.parent.iterdir()] == ["mini.zarr"]


def test_a_store_on_a_read_only_disk_can_be_read_and_planned_but_not_extended(
    disk: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    out, cache = disk / "mini.zarr", disk / ".cache"
    extract(read(folder), "mini", out)
    mount("-o", "remount,ro", str(disk))
    assert FeatureStore(out).problems() == []
    assert FeatureStore(out).read().audio.shape == (18, 1, 12)
    write_tone(folder / "audios" / "train_0_0.wav", 900)
    with Extractor("mini", Recipe(), Resources()) as extractor:
        plan = extractor.plan(read(folder), out, cache)
    assert (plan.to_embed, plan.kept) == (1, 17)
    with pytest.raises(OutputError, match="read-only file system; choose another folder with "):
        extract(read(folder), "mini", out)


def cache_of_two_segments(folder: Path, cache: Path, tmp_path: Path) -> None:
    """Let a cache know a dataset, in segments that one would merge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "merge", lambda _: None)
        for number in (5, 18):
            table = read(folder).subset(range(number))
            extract(table, "mini", tmp_path / "one.zarr", cache=cache)
    assert len(list(cache.glob("audio-*/*.safetensors"))) > 1


def test_what_cannot_be_merged_stays_as_it_is(disk: Path, folder: Path, tmp_path: Path) -> None:
    """Tidying up is no reason to fail once the store is there."""
    cache = disk / "cache"
    cache_of_two_segments(folder, cache, tmp_path)
    before = sorted(cache.glob("audio-*/*"))
    fill(disk)
    assert extract(read(folder), "mini", tmp_path / "full.zarr", cache=cache).embedded == 0
    mount("-o", "remount,ro", str(disk))
    assert extract(read(folder), "mini", tmp_path / "read-only.zarr", cache=cache).embedded == 0
    assert sorted(cache.glob("audio-*/*")) == before


def test_a_cache_on_a_read_only_disk_gives_what_it_knows_as_long_as_nothing_is_new(
    disk: Path, folder: Path, tmp_path: Path, encoder: SpectrumEncoder
) -> None:
    extract(read(folder), "mini", tmp_path / "one.zarr", cache=disk / "cache")
    encoder.embedded = 0
    with Extractor("mini", Recipe(), Resources()) as extractor:
        mount("-o", "remount,ro", str(disk))
        assert extractor.plan(read(folder), tmp_path / "other.zarr", disk / "cache").to_embed == 0
    write_tone(folder / "audios" / "train_0_0.wav", 900)
    with pytest.raises(OutputError, match="read-only file system; choose another folder with cache"):
        extract(read(folder), "mini", tmp_path / "other.zarr", cache=disk / "cache")
    assert not (tmp_path / "other.zarr").exists()
