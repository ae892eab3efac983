from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from samples import assert_same, flip_bit, read_arrays
from spectrum import Run, SpectrumEncoder

from palm_cache.errors import OutputError
from palm_cache.extraction import run as running
from palm_cache.extraction import work
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import extract
from palm_cache.extraction.run import RunningExtraction
from palm_cache.store import cache as caching
from palm_cache.store.features import FeatureStore
from palm_cache.store.places import local

pytestmark = pytest.mark.usefixtures("small_chunks")


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:10])


def lose_content(file: Path) -> None:
    """As a file system may when the power goes: the new name is on the disk, the bytes are not."""
    file.write_bytes(b"")


@pytest.mark.parametrize(
    "file", ["audio/c/1/0/0", "text/c/0/0/0", "label/c/0", "zarr.json", "audio/zarr.json"]
)
@pytest.mark.parametrize("damage", [flip_bit, cut_short, lose_content, Path.unlink])
def test_a_damaged_store_is_made_anew_from_the_cache(
    run: Run, out: Path, file: str, damage: Callable[[Path], None]
) -> None:
    run()
    whole = read_arrays(out)
    damage(out / file)
    if file == "zarr.json" and damage is not flip_bit:
        with pytest.raises(OutputError, match=r"looks like a feature store that has lost its zarr\.json"):
            run()
        return
    done = run()
    assert done.embedded == 0
    assert_same(read_arrays(out), whole)
    assert FeatureStore(out).problems() == []
    assert run().notes == ()


@pytest.mark.parametrize("where", [0.3, 0.95])
def test_of_a_damaged_cache_what_was_lost_is_embedded_again(
    run: Run, out: Path, cache: Path, where: float
) -> None:
    run()
    whole = read_arrays(out)
    (segment,) = cache.glob("audio-*/*.safetensors")
    content = bytearray(segment.read_bytes())
    content[int(where * len(content))] ^= 1
    segment.write_bytes(content)
    shutil.rmtree(out)
    assert run().embedded > 0
    assert_same(read_arrays(out), whole)
    assert run().embedded == 0


def test_however_many_segments_are_damaged_one_run_makes_all_anew(
    run: Run, out: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "SMALL_BYTES", 0)  # nothing is merged
    run(batch_size=1)
    whole = read_arrays(out)
    segments = list(cache.glob("audio-*/*.safetensors"))
    assert len(segments) > 4
    for segment in segments:
        flip_bit(segment, segment.stat().st_size - 12)  # a value: behind it is a checksum of 4 bytes
    shutil.rmtree(out)
    assert run(batch_size=1).embedded == 18
    assert_same(read_arrays(out), whole)


@pytest.mark.parametrize("jobs", [1, 2])
def test_of_a_damaged_cache_that_is_another_users_what_was_lost_is_embedded_again(
    run: Run, out: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """In a folder where each may remove their own files alone; workers look at it afresh."""
    monkeypatch.setattr(running, "embed_elsewhere", lambda worker, clips, _: [worker.embed(clips)])
    run()
    whole = read_arrays(out)
    theirs = {file.name for file in cache.glob("audio-*/*.safetensors")}
    for segment in cache.glob("audio-*/*.safetensors"):
        flip_bit(segment, segment.stat().st_size - 12)  # a value: behind it is a checksum of 4 bytes
    shutil.rmtree(out)
    remove = local.LocalFolder.remove

    def refuse(self: local.LocalFolder, names: Collection[str], *, itself: bool = False) -> None:
        if not theirs.isdisjoint(names):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        remove(self, names, itself=itself)

    monkeypatch.setattr(local.LocalFolder, "remove", refuse)
    assert run(jobs=jobs).embedded == 18
    assert_same(read_arrays(out), whole)
    work.forget()


def test_of_damage_in_what_is_known_of_prompts_they_are_embedded_again(
    run: Run, out: Path, cache: Path
) -> None:
    run()
    before = FeatureStore(out).read().text
    (segment,) = (file for folder in cache.glob("text-*") for file in folder.glob("*.safetensors"))
    flip_bit(segment, segment.stat().st_size - 12)  # a value: behind it is a checksum of 4 bytes
    shutil.rmtree(out)
    assert run().embedded == 0
    assert torch.equal(FeatureStore(out).read().text, before)


def test_what_is_removed_while_it_is_written_is_embedded_twice_and_counts_once(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``cache prune`` did, or ``rm -r``."""
    embed, removed = RunningExtraction._embed, []

    def embed_and_lose(self: RunningExtraction, *given: object, **options: object) -> None:
        embed(self, *given, **options)  # type: ignore[arg-type]
        if not removed:
            shutil.rmtree(cache)
            removed.append(cache)

    monkeypatch.setattr(RunningExtraction, "_embed", embed_and_lose)
    done = run()
    assert removed
    assert (done.n_clips, done.embedded, done.failures) == (18, 18, ())


def test_a_store_that_is_lost_is_made_anew_without_embedding(run: Run, out: Path) -> None:
    run()
    whole = read_arrays(out)
    shutil.rmtree(out)
    assert run().embedded == 0
    assert_same(read_arrays(out), whole)


def test_a_full_disk_is_said_and_what_is_in_the_cache_stays(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacing, calls = local.LocalFolder.replacing, itertools.count()

    def full(self: local.LocalFolder, name: str) -> AbstractContextManager[Path]:
        if name.endswith(".safetensors") and next(calls) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replacing(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(local.LocalFolder, "replacing", full)
        with pytest.raises(OutputError, match="no space left on device; free some space, then try again"):
            run(batch_size=4)
    assert 0 < run(batch_size=4).embedded < 18


def test_a_place_that_cannot_be_written_is_named(
    folder: Path, tmp_path: Path, encoder: SpectrumEncoder
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write: .*choose another folder with "):
        extract(read(folder), "mini", tmp_path / "file" / "mini.zarr")


@pytest.mark.parametrize("foreign", ["thesis.tex", "audio/song.wav", ".git/config", "zarr.json"])
def test_a_folder_that_is_no_store_is_never_replaced(
    run: Run, out: Path, encoder: SpectrumEncoder, foreign: str
) -> None:
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).write_text("mine")
    for on_stale in ("refuse", "rebuild"):
        with pytest.raises(OutputError, match=r"there is something else here \(.*\), not a feature store"):
            run(on_stale=on_stale)
    assert (out / foreign).read_text() == "mine"
    assert encoder.embedded == 0  # said before the work
