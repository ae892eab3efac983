"""Whose a half-written file is, and when nobody will end it."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from samples import make_features, write_sample

from palm_cache.errors import OutputError
from palm_cache.store.atomic import replacing
from palm_cache.store.cache import Cache
from palm_cache.store.features import FeatureStore
from palm_cache.store.places import folder, local


def partial_of(where: Path, writer: str, seconds_ago: float = 0) -> str:
    """Write what a writer would leave of ``x``; return its name."""
    file = where / f".x.{writer}.{0:08x}.partial"
    file.write_text("?")
    os.utime(file, (time.time() - seconds_ago,) * 2)
    return file.name


DEAD = 2**22 + 1
"""More than any process's number."""


def left_in(where: Path) -> list[str]:
    return folder(where).left_behind("x".__eq__)


@pytest.mark.parametrize("fact", [0, 1])
def test_a_process_of_another_container_or_boot_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: int
) -> None:
    """A container on its host's network bears its host's name, and numbers processes from 1."""
    facts = [tmp_path / "boot", tmp_path / "namespace"]
    for file in facts:
        file.write_text("here")
    monkeypatch.setattr(local, "MACHINE_FACTS", tuple(map(str, facts)))
    local._machine.cache_clear()
    writer = f"{local.this_writer().partition('-')[0]}-{DEAD}"
    name = partial_of(tmp_path, writer)
    assert left_in(tmp_path) == [name]
    facts[fact].write_text("there")
    local._machine.cache_clear()
    assert left_in(tmp_path) == []
    local._machine.cache_clear()


def test_what_nobody_has_written_to_for_a_day_is_left_whoever_bears_its_writers_number_now(
    tmp_path: Path,
) -> None:
    partial_of(tmp_path, local.this_writer())
    assert left_in(tmp_path) == []
    old = partial_of(tmp_path, local.this_writer(), seconds_ago=90_000)
    assert left_in(tmp_path) == [old]
    (tmp_path / old).unlink()
    work = tmp_path / f".x.{1:08x}-1.{0:08x}.partial"
    (work / "store").mkdir(parents=True)
    os.utime(work, (0, 0))
    assert left_in(tmp_path) == []  # something is being written in it
    os.utime(work / "store", (0, 0))
    assert left_in(tmp_path) == [work.name]


def test_a_number_that_no_process_can_have_stops_nobody(tmp_path: Path) -> None:
    machine, _, _ = local.this_writer().partition("-")
    name = partial_of(tmp_path, f"{machine}-{10**30}")
    assert left_in(tmp_path) == [name]


@pytest.mark.parametrize("what", ["left_behind", "remove"])
def test_what_may_not_be_looked_for_or_removed_stops_no_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """In a folder that several users share, one may not list it, or not remove another's files."""

    def refuse(*_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    machine, _, _ = local.this_writer().partition("-")
    partial_of(tmp_path, f"{machine}-{DEAD}")
    monkeypatch.setattr(local.LocalFolder, what, refuse)
    with replacing(tmp_path / "x") as file:
        file.write_text("whole")
    assert (tmp_path / "x").read_text() == "whole"
    Cache(tmp_path / "cache", "audio", {}, (2,)).merge()


def test_an_old_store_is_called_as_what_is_cleared_from_the_moment_it_makes_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_sample(tmp_path / "s.zarr", make_features())
    with monkeypatch.context() as killed:
        killed.setattr(local, "_keep_others", lambda *_: None)
        write_sample(store, make_features(seed=1))
    (left,) = {path.name for path in tmp_path.iterdir()} - {"s.zarr"}
    assert local._PARTIAL.fullmatch(left)


def test_where_the_new_store_finds_no_room_in_the_folder_the_old_one_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_sample(tmp_path / "s.zarr", make_features())
    before = FeatureStore(store).header.id
    rename = Path.rename

    def refuse(old: Path, new: Path) -> Path:
        if old.name == "store":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(old, new)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="no space left on device"):
        write_sample(store, make_features(seed=1))
    assert FeatureStore(store).header.id == before
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_of_an_old_store_what_is_not_removed_yet_is_called_as_what_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_sample(tmp_path / "s.zarr", make_features())
    (store / "notes.txt").write_text("mine")
    with monkeypatch.context() as killed:
        for what in (local.shutil, "rmtree"), (local.LocalFolder, "remove"):
            killed.setattr(*what, lambda *_, **__: None)
        write_sample(store, make_features(seed=1))
    left = {path.name for path in tmp_path.iterdir()} - {"s.zarr"}
    assert any((tmp_path / name / "zarr.json").is_file() for name in left)
    assert all(local._PARTIAL.fullmatch(name) for name in left)
    assert (store / "notes.txt").read_text() == "mine"
