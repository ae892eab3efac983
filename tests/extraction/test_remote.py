"""Extraction from and into S3, spoken to a server on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import assert_same, read_arrays, write_tone
from spectrum import SpectrumEncoder
from upath import UPath

from palm_cache.errors import OutputError, PlaceError, StoreError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import Extraction, dry_run, extract
from palm_cache.params import ExtractParams
from palm_cache.store import locks, trees
from palm_cache.store.features import FeatureStore
from palm_cache.store.places import copy_files, files_below, place

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def away(bucket: str) -> UPath:
    """The place of a store in a bucket."""
    found = place(f"{bucket}/features/Tones/mini.zarr")
    assert isinstance(found, UPath)
    return found


@pytest.fixture
def run(folder: Path, away: UPath, encoder: SpectrumEncoder) -> Callable[..., Extraction]:
    """Extract the folder as it is now into the bucket."""

    def extract_folder(**params: object) -> Extraction:
        return extract(read(folder), "mini", away, ExtractParams(**params))  # type: ignore[arg-type]

    return extract_folder


@pytest.fixture
def whole(folder: Path, tmp_path: Path, encoder: SpectrumEncoder) -> dict[str, np.ndarray]:
    """What a store of the folder on this machine holds."""
    extract(read(folder), "mini", tmp_path / "whole.zarr", ExtractParams())
    return read_arrays(tmp_path / "whole.zarr")


def fetched(store: UPath, tmp_path: Path) -> dict[str, np.ndarray]:
    """What plain zarr reads of the files in the bucket."""
    local = tmp_path / "fetched.zarr"
    shutil.rmtree(local, ignore_errors=True)
    copy_files(store, local, files_below(store))
    return read_arrays(local)


def top(store: UPath) -> list[str]:
    return sorted(path.name for path in store.parent.iterdir())


def test_a_store_in_a_bucket_is_the_one_on_a_disk(
    run: Callable[..., Extraction], away: UPath, whole: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert run().embedded == 18
    assert_same(fetched(away, tmp_path), whole)
    assert top(away) == ["mini.zarr"]  # no lock, no leftovers
    assert FeatureStore(away).problems() == []
    assert FeatureStore(away).read().digest == FeatureStore(tmp_path / "whole.zarr").read().digest
    assert run().embedded == 0


def test_any_file_system_of_fsspec_will_do(folder: Path, encoder: SpectrumEncoder, tmp_path: Path) -> None:
    elsewhere = place(f"memory://{tmp_path.name}/mini.zarr")
    assert extract(read(folder), "mini", elsewhere, ExtractParams()).embedded == 18
    (folder / "audios" / "train_0_0.wav").unlink()
    write_tone(folder / "audios" / "more.wav", 500)
    table = folder / "train.csv"
    table.write_text(table.read_text().replace("train_0_0", "more"))
    assert extract(read(folder), "mini", elsewhere, ExtractParams()).embedded == 1
    assert FeatureStore(elsewhere).problems() == []


def test_audio_in_a_bucket_is_read_like_audio_on_a_disk(
    bucket: str, folder: Path, out: Path, encoder: SpectrumEncoder, whole: dict[str, np.ndarray]
) -> None:
    copy_files(folder, UPath(f"{bucket}/Tones"), files_below(folder))
    table = read_dataset(f"{bucket}/Tones")
    assert table.dataset == "Tones"
    extract(table, "mini", out, ExtractParams())
    assert_same(read_arrays(out), whole)
    for name in ("train_0_0", "train_0_1"):
        (UPath(f"{bucket}/Tones/audios") / f"{name}.wav").unlink()
    UPath(f"{bucket}/Tones/audios/train_0_1.wav").write_bytes(b"")
    assert extract(table, "mini", out, ExtractParams()).failures == (
        ("audios/train_0_0.wav", "no such file"),
        ("audios/train_0_1.wav", "the file is empty"),
    )


def test_an_interrupted_extraction_into_a_bucket_goes_on_where_it_stopped(
    run: Callable[..., Extraction],
    away: UPath,
    whole: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = FeatureStore.write_chunk

    def stop_at_chunk_2(self: FeatureStore, chunk: int, *rest: object) -> None:
        if chunk == 2:
            raise KeyboardInterrupt
        commit(self, chunk, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "write_chunk", stop_at_chunk_2)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert FeatureStore(away).committed() == {0, 1}
    with pytest.raises(StoreError, match="3 of 5 chunks are not extracted yet"):
        FeatureStore(away).read()
    (away / "audio" / "c" / "1" / "0" / "0").write_bytes(b"damaged")
    assert run().embedded == 14
    assert_same(fetched(away, tmp_path), whole)


def add_a_clip(folder: Path) -> None:
    write_tone(folder / "audios" / "more.wav", 500)
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([lines[0], "audios/more.wav,low tone", *lines[1:]]))


def test_a_changed_dataset_replaces_the_store_and_keeps_what_is_known(
    run: Callable[..., Extraction], away: UPath, folder: Path, tmp_path: Path, encoder: SpectrumEncoder
) -> None:
    run()
    add_a_clip(folder)
    planned = dry_run(read(folder), "mini", away, ExtractParams())
    assert planned.to_embed == 1
    assert run().embedded == 1
    assert top(away) == ["mini.zarr"]
    extract(read(folder), "mini", tmp_path / "again.zarr", ExtractParams())
    assert_same(fetched(away, tmp_path), read_arrays(tmp_path / "again.zarr"))


@pytest.mark.parametrize("moment", ["removed", "half copied", "copied"])
def test_a_replacement_that_is_killed_shows_no_mixture_and_is_finished_by_the_next_run(
    run: Callable[..., Extraction],
    away: UPath,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    run()
    add_a_clip(folder)
    copied = 0

    def die(source: object, target: object, names: list[str]) -> None:
        nonlocal copied
        if target == away:
            if moment == "removed" or (moment == "half copied" and copied):
                raise KeyboardInterrupt
            copied += 1
        copy_files(source, target, names)  # type: ignore[arg-type]
        if target == away and names == [trees.ROOT]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trees, "copy_files", die)
        patch.setattr(trees, "FILES_AT_ONCE", 10)
        with pytest.raises(KeyboardInterrupt):
            run()
    if moment == "copied":
        assert FeatureStore(away).read().audio.shape == (19, 1, 12)
    else:
        with pytest.raises(StoreError, match="no feature store here"):
            FeatureStore(away)
    assert run().embedded == 0
    extract(read(folder), "mini", tmp_path / "again.zarr", ExtractParams())
    assert_same(fetched(away, tmp_path), read_arrays(tmp_path / "again.zarr"))


def test_a_run_on_another_machine_sends_this_one_away_until_somebody_unlocks(
    run: Callable[..., Extraction], away: UPath, encoder: SpectrumEncoder
) -> None:
    mark = locks.lock_file(away)
    mark.write_text(json.dumps({"token": "theirs", "host": "node7", "since": "2026-01-01T00:00:00+00:00"}))
    with pytest.raises(
        StoreError,
        match="another extraction is writing to this store, on node7 since 2026-01-01T00:00:00.00:00; wait "
        f"for it to end or, if it is no more: palm-cache store unlock {away}",
    ):
        run()
    assert encoder.embedded == 0
    assert locks.unlock(away) == "node7, since 2026-01-01T00:00:00+00:00"
    assert locks.unlock(away) is None
    assert run().embedded == 18


def test_this_machine_takes_over_the_lock_of_its_own_dead_run_but_not_of_a_living_one(
    run: Callable[..., Extraction], away: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locks.locked(away, "another extraction is writing to this store"):
        left_behind = locks.lock_file(away).read_text()
        with pytest.raises(StoreError, match="is writing to this store on this machine; wait for it to end"):
            run()
    assert not locks.lock_file(away).exists()
    locks.lock_file(away).write_text(left_behind)  # killed: nobody removed it
    assert run().embedded == 18
    assert not locks.lock_file(away).exists()


def test_what_is_not_a_store_is_never_removed(run: Callable[..., Extraction], away: UPath) -> None:
    (away / "thesis" / "chapter.tex").write_text("mine")
    for on_stale in ("refuse", "rebuild"):
        with pytest.raises(OutputError, match=r"there is something else here \(thesis\)"):
            run(on_stale=on_stale)
    assert (away / "thesis" / "chapter.tex").read_text() == "mine"


CLIENTS: list[dict[object, object]] = []
"""Clients of S3 that a test began; one that is dropped complains of its open session."""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect to the endpoint URL"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "Unable to locate credentials"),
    ],
)
def test_a_place_that_cannot_be_reached_is_not_taken_for_an_absent_damaged_or_stale_store(
    away: UPath,
    folder: Path,
    encoder: SpectrumEncoder,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str | None],
    reason: str,
) -> None:
    from s3fs import S3FileSystem

    for name, value in {**change, "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    CLIENTS.append({})
    monkeypatch.setattr(S3FileSystem, "_cache", CLIENTS[-1])  # a client keeps what it began with
    unreachable = place(str(away))
    with pytest.raises(PlaceError, match=f"mini.zarr: cannot be reached: {reason}"):
        FeatureStore(unreachable)
    with pytest.raises(OutputError, match=f"mini.zarr: cannot write: {reason}"):
        extract(read(folder), "mini", unreachable, ExtractParams(on_stale="rebuild"))
    with pytest.raises(PlaceError, match=f"Tones: cannot be reached: {reason}"):
        read_dataset(str(away.parent))
    assert encoder.embedded == 0


def test_a_bucket_that_does_not_exist_is_named(folder: Path, bucket: str, encoder: SpectrumEncoder) -> None:
    with pytest.raises(
        OutputError, match=r"s3://no-such-bucket/x\.zarr: cannot write: .*bucket does not exist"
    ):
        extract(read(folder), "mini", place("s3://no-such-bucket/x.zarr"), ExtractParams())


def test_a_connection_that_is_lost_stops_the_run_and_records_no_failure(
    bucket: str, folder: Path, out: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_files(folder, UPath(f"{bucket}/Tones"), files_below(folder))
    table = read_dataset(f"{bucket}/Tones")
    opened = 0

    def lose(self: UPath, *words: object, **options: object) -> object:
        nonlocal opened
        opened += 1
        if opened > 6:
            raise TimeoutError("timed out")
        return open_file(self, *words, **options)  # type: ignore[arg-type]

    open_file = UPath.open
    with monkeypatch.context() as patch:
        patch.setattr(UPath, "open", lose)
        with pytest.raises(PlaceError, match=r"train_0_6.wav|cannot be reached: timed out"):
            extract(table, "mini", out, ExtractParams())
    assert FeatureStore(out).committed() == {0}
    assert FeatureStore(out).failures() == []
    assert extract(table, "mini", out, ExtractParams()).embedded == 14
