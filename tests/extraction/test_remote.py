"""Extraction from and into S3, spoken to a server on this machine."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import assert_same, parted, read_arrays, upload, write_tone
from spectrum import SpectrumEncoder
from upath import UPath

from palm_cache.errors import OutputError, PlaceError, StoreError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import Extraction, Extractor, extract
from palm_cache.store.features import FeatureStore
from palm_cache.store.places import folder as folder_at
from palm_cache.store.places import place
from palm_cache.store.places.remote import RemoteFolder

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def away(bucket: str) -> UPath:
    """The place of a store in a bucket."""
    found = place(f"{bucket}/features/Tones/mini.zarr")
    assert isinstance(found, UPath)
    return found


@pytest.fixture
def run(folder: Path, away: UPath, encoder: SpectrumEncoder) -> Callable[..., Extraction]:
    """Extract the folder as it is now into the bucket, cache and all."""

    def extract_folder(**params: object) -> Extraction:
        return extract(read(folder), "mini", away, *parted(**params), cache=away.parent.parent / ".cache")

    return extract_folder


@pytest.fixture
def whole(folder: Path, tmp_path: Path, encoder: SpectrumEncoder) -> dict[str, np.ndarray]:
    """What a store of the folder on this machine holds."""
    extract(read(folder), "mini", tmp_path / "whole" / "whole.zarr")
    return read_arrays(tmp_path / "whole" / "whole.zarr")


def fetched(store: UPath, tmp_path: Path) -> dict[str, np.ndarray]:
    """What plain zarr reads of the files in the bucket."""
    local, source = tmp_path / "fetched.zarr", folder_at(store)
    shutil.rmtree(local, ignore_errors=True)
    for name in source.files():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        source.fetch(name, local / name)
    return read_arrays(local)


def test_a_store_in_a_bucket_is_the_one_on_a_disk(
    run: Callable[..., Extraction], away: UPath, whole: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert run().embedded == 18
    assert_same(fetched(away, tmp_path), whole)
    assert FeatureStore(away).problems() == []
    assert FeatureStore(away).read().digest == FeatureStore(tmp_path / "whole" / "whole.zarr").read().digest
    assert run().embedded == 0


def test_any_file_system_of_fsspec_will_do(folder: Path, encoder: SpectrumEncoder, tmp_path: Path) -> None:
    elsewhere = place(f"memory://{tmp_path.name}/mini.zarr")
    assert extract(read(folder), "mini", elsewhere).embedded == 18
    (folder / "audios" / "train_0_0.wav").unlink()
    write_tone(folder / "audios" / "more.wav", 500)
    table = folder / "train.csv"
    table.write_text(table.read_text().replace("train_0_0", "more"))
    assert extract(read(folder), "mini", elsewhere).embedded == 1
    assert FeatureStore(elsewhere).problems() == []


def test_stretches_of_sounds_far_away_are_held_against_their_lengths(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 500)
    there = UPath(f"memory://{tmp_path.name}/stretches")
    (there / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    (there / "labels.csv").write_text("path,start,end,label\na.wav,0,0.1,x\na.wav,0.1,9,y\n")
    table = read_dataset(str(there))
    assert [clip.end for clip in table.clips] == [0.1, None]


def test_audio_in_a_bucket_is_read_like_audio_on_a_disk(
    bucket: str, folder: Path, out: Path, encoder: SpectrumEncoder, whole: dict[str, np.ndarray]
) -> None:
    upload(folder, f"{bucket}/Tones")
    table = read_dataset(f"{bucket}/Tones")
    assert table.dataset == "Tones"
    extract(table, "mini", out)
    assert_same(read_arrays(out), whole)
    for name in ("train_0_0", "train_0_1"):
        (UPath(f"{bucket}/Tones/audios") / f"{name}.wav").unlink()
    UPath(f"{bucket}/Tones/audios/train_0_1.wav").write_bytes(b"")
    assert extract(table, "mini", out, *parted(prune=True)).failures == (
        ("audios/train_0_0.wav", "no such file", ""),
        ("audios/train_0_1.wav", "the file is empty", ""),
    )


def count_requests(monkeypatch: pytest.MonkeyPatch, below: str) -> Counter[str]:
    """Count what S3 is asked for below a folder of a bucket, by operation."""
    from s3fs import S3FileSystem

    asked: Counter[str] = Counter()
    call = S3FileSystem._call_s3

    async def count(self: S3FileSystem, method: str, *given: object, **options: object) -> object:
        if str(options.get("Key", options.get("Prefix", ""))).startswith(below):
            asked[method] += 1
        return await call(self, method, *given, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", count)
    return asked


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what S3 is asked for."""
    return count_requests(monkeypatch, "")


@pytest.fixture
def audio_requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what S3 is asked for of the audio."""
    return count_requests(monkeypatch, "Tones")


def test_with_nothing_to_do_no_audio_is_fetched_and_requests_are_few(
    bucket: str,
    folder: Path,
    away: UPath,
    encoder: SpectrumEncoder,
    requests: Counter[str],
    audio_requests: Counter[str],
) -> None:
    upload(folder, f"{bucket}/Tones")
    table = read_dataset(f"{bucket}/Tones")

    def again(**params: object) -> Extraction:
        requests.clear()
        audio_requests.clear()
        return extract(table, "mini", away, *parted(**params), cache=place(f"{bucket}/cache"))

    assert again().embedded == 18
    # One for the size, which says what tells the file's next state, one for the bytes: no listing.
    assert audio_requests == {"head_object": 18, "get_object": 18}
    assert again().embedded == 0
    # Two small files of the store and a segment of each kind, once each; a listing of the store, of the
    # audio and of each kind. None is audio, and only large segments make it more for a million clips.
    assert requests == {"get_object": 5, "list_objects_v2": 5}
    assert again(check="content").embedded == 0
    assert audio_requests == {"head_object": 18, "get_object": 18}


def test_writing_a_segment_is_one_request(
    run: Callable[..., Extraction], requests: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from palm_cache.store.cache import Cache

    add, puts = Cache.add, []

    def count(self: Cache, *given: object, **options: object) -> None:
        before = requests.copy()
        add(self, *given, **options)  # type: ignore[arg-type]
        puts.append((requests - before).total())

    monkeypatch.setattr(Cache, "add", count)
    run(batch_size=2)
    # The first of a kind also says what the folder is for.
    assert puts.count(2) <= 3
    assert puts.count(1) > 3
    assert set(puts) <= {0, 1, 2}


def test_an_interrupted_extraction_into_a_bucket_loses_nothing_that_was_embedded(
    run: Callable[..., Extraction],
    away: UPath,
    whole: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed, calls = SpectrumEncoder.embed_audio, itertools.count()

    def stop(self: SpectrumEncoder, waveforms):  # type: ignore[no-untyped-def]
        if next(calls) >= 2:
            raise KeyboardInterrupt
        return embed(self, waveforms)

    with monkeypatch.context() as patch:
        patch.setattr(SpectrumEncoder, "embed_audio", stop)
        with pytest.raises(KeyboardInterrupt):
            run(batch_size=4)
    with pytest.raises(StoreError, match="no feature store here"):
        FeatureStore(away)
    assert run(batch_size=4).embedded == 10
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
    with Extractor("mini", *parted()) as extractor:
        assert extractor.plan(read(folder), away, away.parent.parent / ".cache").to_embed == 1
    assert run().embedded == 1
    extract(read(folder), "mini", tmp_path / "again" / "again.zarr")
    assert_same(fetched(away, tmp_path), read_arrays(tmp_path / "again" / "again.zarr"))


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_replacement_that_is_killed_shows_no_mixture_and_is_finished_by_the_next_run(
    run: Callable[..., Extraction],
    away: UPath,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
) -> None:
    run()
    add_a_clip(folder)
    put, calls = RemoteFolder._put, itertools.count()

    def die(self: RemoteFolder, built: Path, names: list[str]) -> None:
        if next(calls) == moment:
            raise KeyboardInterrupt
        put(self, built, names)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "_put", die)
        patch.setattr("palm_cache.store.places.remote.FILES_AT_ONCE", 10)
        with pytest.raises(KeyboardInterrupt):
            run()
    with pytest.raises(StoreError, match="no feature store here"):
        FeatureStore(away)
    assert run().embedded == 0
    extract(read(folder), "mini", tmp_path / "again" / "again.zarr")
    assert_same(fetched(away, tmp_path), read_arrays(tmp_path / "again" / "again.zarr"))


@pytest.mark.parametrize("foreign", ["thesis/chapter.tex", "audio/song.wav", "text/notes.txt"])
def test_what_is_not_a_store_is_never_removed(
    run: Callable[..., Extraction], away: UPath, foreign: str
) -> None:
    (away / foreign).write_text("mine")
    for on_stale in ("refuse", "rebuild"):
        with pytest.raises(OutputError, match=r"there is something else here \(.*\), not a feature store"):
            run(on_stale=on_stale)
    assert (away / foreign).read_text() == "mine"


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
    with pytest.raises((OutputError, PlaceError), match=f"mini.zarr: cannot be reached: {reason}"):
        extract(read(folder), "mini", unreachable, *parted(on_stale="rebuild"))
    with pytest.raises(PlaceError, match=f"Tones: cannot be reached: {reason}"):
        read_dataset(str(away.parent))
    assert encoder.embedded == 0


def test_a_bucket_that_does_not_exist_is_named(folder: Path, bucket: str, encoder: SpectrumEncoder) -> None:
    with pytest.raises(
        PlaceError, match=r"s3://no-such-bucket/.*: cannot be reached: .*bucket does not exist"
    ):
        extract(read(folder), "mini", place("s3://no-such-bucket/x.zarr"))


def test_a_connection_that_is_lost_stops_the_run_and_records_no_failure(
    bucket: str, folder: Path, out: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(folder, f"{bucket}/Tones")
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
            extract(table, "mini", out, *parted(batch_size=1))
    assert not out.exists()
    done = extract(table, "mini", out)
    assert done.failures == ()
    assert 0 < done.embedded < 18
