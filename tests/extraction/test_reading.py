from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from samples import write_palm_folder, write_tone
from spectrum import SpectrumEncoder

from palm_cache.errors import ParameterError, StaleStoreError
from palm_cache.extraction import extract as stage_one
from palm_cache.extraction import reading
from palm_cache.extraction.audio.waveforms import content_hash
from palm_cache.extraction.datasets.palm_layout import read as read_table
from palm_cache.extraction.encoders.base import Window
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.reading import STEP_FILES, STEP_STRETCHES, CuttingRule, read_clips, read_file
from palm_cache.params import Recipe, Resources
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip

RATE = 8_000
CROP = CuttingRule(RATE, Window(samples=4_000, max_windows=2, padding="tile"), views=1, long="crop")
MEAN = replace(CROP, long="mean")


def clip_of(folder: Path, seconds: float, rate: int = RATE) -> Clip:
    write_tone(folder / "clip.wav", 440, seconds=seconds, rate=rate)
    return Clip(folder / "clip.wav", "clip.wav", 0)


def test_a_clip_is_one_piece_and_its_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []

    def noted(file):  # type: ignore[no-untyped-def]
        files.append(file)
        return content_hash(file)

    monkeypatch.setattr(reading, "content_hash", noted)
    (piece,) = read_file([(5, clip_of(tmp_path, 0.7))], CROP)
    assert (piece.row, piece.last, piece.error) == (5, True, "")
    assert [tuple(waveform.shape) for waveform in piece.stretches] == [(5_600,)]
    assert [file.closed for file in files] == [True]


@pytest.mark.parametrize(("quick", "decoded", "at_once"), [(60.0, True, 1), (60.0, False, 2), (0.0, True, 2)])
def test_quick_files_are_read_by_one_thread_at_a_time_others_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: float, decoded: bool, at_once: int
) -> None:
    monkeypatch.setattr(reading, "QUICK_SECONDS", quick)
    content = clip_of(tmp_path, 0.1).file.read_bytes()
    clips, row_of = [], {}
    for row in range(8 * STEP_FILES):
        file = tmp_path / f"{row}.wav"
        file.write_bytes(content[:-2] + row.to_bytes(2, "little"))
        clips.append((row, Clip(file, file.name, 0)))
        row_of[hashlib.sha256(file.read_bytes()).digest()] = row
    inside, most = [], [0]

    def wanted(key: bytes) -> bool:
        if row_of[key] >= 2 * STEP_FILES:  # the first steps begin before anything is known
            inside.append(threading.get_ident())
            time.sleep(0.002)
            most.append(len(set(inside)))
            inside.remove(threading.get_ident())
        return decoded

    with ThreadPoolExecutor(2) as readers:
        pieces = read_clips(clips, CROP, wanted, readers=readers, n_readers=2, ahead=1)
        assert [piece.row for piece in pieces] == [row for row, _ in clips]
    assert max(most) == at_once


@pytest.mark.parametrize("seconds", [0.2, 1.0, 1.01, 7.3])
def test_a_mean_covers_all_of_a_clip_evenly(tmp_path: Path, seconds: float) -> None:
    clip = clip_of(tmp_path, seconds)
    pieces = list(read_file([(0, clip)], MEAN))
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(len(piece.stretches) for piece in pieces) <= STEP_STRETCHES
    stretches = [waveform for piece in pieces for waveform in piece.stretches]
    whole, _ = soundfile.read(clip.file, dtype="float32")
    count = max(1, -(-len(whole) // 8_000))
    assert len(stretches) == count
    for start, waveform in zip(np.linspace(0, max(0, len(whole) - 8_000), count), stretches, strict=True):
        np.testing.assert_array_equal(waveform, whole[round(start) : round(start) + 8_000])


def test_an_hour_is_read_no_further_ahead_than_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, cut_out = clip_of(tmp_path, 60), [0]
    inner = reading.slide

    def counted(*file, **options):  # type: ignore[no-untyped-def]
        for window in inner(*file, **options):
            cut_out[0] += 1
            yield window

    monkeypatch.setattr(reading, "slide", counted)
    with ThreadPoolExecutor(2) as readers:
        pieces = read_clips([(0, clip)], MEAN, readers=readers, n_readers=2, ahead=9)
        next(pieces)
        threading.Event().wait(0.3)  # time to read more, if anything would
        assert STEP_STRETCHES <= cut_out[0] <= 2 * STEP_STRETCHES
        assert sum(len(piece.stretches) for piece in pieces) == 60 - STEP_STRETCHES


def test_clips_come_in_their_order_whichever_is_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [(row, clip_of(tmp_path / str(row), 0.2 + 0.1 * row)) for row in range(2 * STEP_FILES)]
    later_was_read, inner = threading.Event(), reading.read_file

    def watched(clips, cut, wanted=None):  # type: ignore[no-untyped-def]
        if clips[0][0] == 0:
            assert later_was_read.wait(10)
        yield from inner(clips, cut, wanted)
        if clips[0][0] > 0:
            later_was_read.set()

    monkeypatch.setattr(reading, "read_file", watched)
    with ThreadPoolExecutor(2) as readers:
        pieces = list(read_clips(clips, CROP, readers=readers, n_readers=2, ahead=1))
    assert [piece.row for piece in pieces] == list(range(2 * STEP_FILES))


def test_clips_of_one_file_are_read_from_one_opening_and_each_has_a_key_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counted(file):  # type: ignore[no-untyped-def]
        hashed.append(content_hash(file))
        return hashed[-1]

    monkeypatch.setattr(reading, "content_hash", counted)
    whole = clip_of(tmp_path, 3)
    stretches = [replace(whole, start=start, end=start + 0.5) for start in (0.0, 0.5, 1.0)]
    clips = list(enumerate([whole, *stretches]))
    with ThreadPoolExecutor(1) as readers:
        pieces = list(read_clips(clips, CROP, readers=readers, n_readers=1, ahead=1))
    assert len(hashed) == 1
    assert {piece.content.hex() for piece in pieces} == {hashed[0]}
    assert pieces[0].key.hex() == hashed[0]
    assert len({piece.key for piece in pieces}) == 4
    sound, _ = soundfile.read(whole.file, dtype="float32")
    np.testing.assert_array_equal(pieces[2].stretches[0], sound[4_000:8_000])


def test_what_is_not_wanted_is_hashed_and_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(reading, "read_views")
    clip = clip_of(tmp_path, 0.7)
    (piece,) = read_file([(0, clip)], CROP, lambda key: False)
    with clip.file.open("rb") as file:
        assert piece.content.hex() == content_hash(file)
    assert (piece.wanted, piece.stretches, piece.error) == (False, (), "")


def test_an_error_of_the_content_lasts_and_one_of_the_disk_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.wav").write_bytes(b"<html>")
    page, absent = (Clip(tmp_path / name, name, 0) for name in ("page.wav", "absent.wav"))
    (of_content,) = read_file([(0, page)], CROP)
    assert (of_content.error, of_content.lasting) == ("cannot be decoded: format not recognised", True)
    assert of_content.content
    (not_there,) = read_file([(0, absent)], CROP)
    assert (not_there.error, not_there.lasting, not_there.content) == ("no such file", False, b"")

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading, "read_views", fail)
    (of_disk,) = read_file([(0, clip_of(tmp_path, 0.7))], CROP)
    assert (of_disk.error, of_disk.lasting) == ("cannot be read: input/output error", False)


def test_a_clip_that_is_written_to_while_it_is_read_is_an_error_and_read_again_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_and_disturb(file):  # type: ignore[no-untyped-def]
        sha = content_hash(file)
        write_tone(clip.file, 200, seconds=0.7, rate=RATE)
        os.utime(clip.file, ns=(1, 1))  # whatever the clock says
        return sha

    monkeypatch.setattr(reading, "content_hash", hash_and_disturb)
    for cut in (CROP, MEAN):
        clip = clip_of(tmp_path, 0.7)
        *_, piece = read_file([(0, clip)], cut)
        assert (piece.content, piece.stretches, piece.lasting) == (b"", (), False)
        assert piece.error == "changed while it was read; run the same command again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_palm_folder(tmp_path / "Tones")


def test_a_clip_that_goes_or_changes_after_planning_is_taken_as_it_is_when_read(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, survey = SpectrumEncoder(), stage_one.KnownFiles.of
    monkeypatch.setattr(stage_one, "load_encoder", lambda *_, **options: encoder)
    gone, replaced = folder / "audios" / "train_0_1.wav", folder / "audios" / "train_0_2.wav"

    def look_and_change(*arguments):  # type: ignore[no-untyped-def]
        found = survey(*arguments)
        gone.unlink()
        write_tone(folder / "other.wav", 900, seconds=1)
        (folder / "other.wav").replace(replaced)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(stage_one.KnownFiles, "of", look_and_change)
        done = stage_one.extract(read_table(folder), "mini", out)
    assert done.failures == (("audios/train_0_1.wav", "no such file", ""),)
    store = FeatureStore(out)
    with replaced.open("rb") as file:
        assert store.content_hashes()[1:3] == ["", content_hash(file)]
    # Nothing more to do for either; a fresh store of the folder as it is now is the same.
    embedded = encoder.embedded
    again = stage_one.extract(read_table(folder), "mini", out)
    assert (again.embedded, encoder.embedded) == (0, embedded)
    fresh = stage_one.extract(
        read_table(folder), "mini", out.with_name("fresh.zarr"), cache=folder.parent / "another cache"
    )
    assert fresh.embedded == 11
    np.testing.assert_array_equal(store.audio(), FeatureStore(fresh.store).audio())


def test_mean_embeddings_are_those_of_the_naive_mean(folder: Path, out: Path) -> None:
    rate, window = 16_000, 12 * 16_000
    write_tone(folder / "audios" / "train_0_0.wav", 300, seconds=40.3, seed=5)
    stage_one.extract(read_table(folder), "mini", out, Recipe(long="mean"))
    store = FeatureStore(out)
    whole = torch.from_numpy(soundfile.read(folder / "audios" / "train_0_0.wav", dtype="float32")[0])
    starts = [round(place) for place in np.linspace(0, len(whole) - window, 4)]
    assert (4 - 1) * window < 40.3 * rate <= 4 * window
    mini = load_encoder("mini", device="cpu")
    six = [
        torch.stack([whole[start + 2 * rate * place :][: 2 * rate] for place in range(6)]) for start in starts
    ]
    naive = torch.stack([mini.embed_audio(windows[None])[0] for windows in six]).mean(dim=0)
    np.testing.assert_allclose(store.audio()[0, 0], naive, atol=1e-6)
    assert store.header.recipe["long"] == "mean"


def test_short_clips_are_the_same_however_long_ones_are_treated(folder: Path, out: Path) -> None:
    stage_one.extract(read_table(folder), "mini", out, Recipe(long="mean"))
    crop = out.with_name("crop.zarr")
    stage_one.extract(read_table(folder), "mini", crop)
    np.testing.assert_array_equal(FeatureStore(out).audio(), FeatureStore(crop).audio())


def test_a_store_of_the_other_policy_is_stale(folder: Path, out: Path) -> None:
    stage_one.extract(read_table(folder), "mini", out)
    with pytest.raises(StaleStoreError, match=r"mini\.zarr is stale: long crop, now mean; make it anew with"):
        stage_one.extract(read_table(folder), "mini", out, Recipe(long="mean"))
    fingerprint = FeatureStore(out).header.fingerprint
    anew = Resources(on_stale="rebuild")
    stage_one.extract(read_table(folder), "mini", out, Recipe(long="mean"), anew)
    assert FeatureStore(out).header.fingerprint != fingerprint


def test_a_mean_has_one_view() -> None:
    with pytest.raises(ParameterError, match="a mean covers the whole clip"):
        Recipe(long="mean", views=2)
