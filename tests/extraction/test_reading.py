from __future__ import annotations

import os
import threading
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
from palm_cache.extraction.audio import content_hash
from palm_cache.extraction.datasets.palm_layout import read as read_table
from palm_cache.extraction.encoders.base import Window
from palm_cache.extraction.encoders.mini import MiniEncoder
from palm_cache.extraction.reading import PIECE_STRETCHES, Cut, Piece, read_ahead, read_pieces
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip

RATE = 8_000
CROP = Cut(RATE, Window(samples=4_000, most=2, padding="tile"), views=1)
MEAN = Cut(RATE, replace(CROP.window, long="mean"), views=1)


def clip_of(folder: Path, seconds: float, rate: int = RATE) -> Clip:
    write_tone(folder / "clip.wav", 440, seconds=seconds, rate=rate)
    return Clip(folder / "clip.wav", "clip.wav", 0)


def test_a_clip_is_one_piece_and_its_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []

    def noted(file):  # type: ignore[no-untyped-def]
        files.append(file)
        return content_hash(file)

    monkeypatch.setattr(reading, "content_hash", noted)
    piece = next(read_pieces(clip_of(tmp_path, 0.7), CROP))
    assert piece.last
    assert [(view, tuple(windows.shape)) for view, windows in piece.windows] == [(0, (2, 4_000))]
    assert [file.closed for file in files] == [True]


@pytest.mark.parametrize("seconds", [0.2, 1.0, 1.01, 7.3])
def test_a_mean_covers_all_of_a_clip_evenly(tmp_path: Path, seconds: float) -> None:
    clip = clip_of(tmp_path, seconds)
    pieces = list(read_pieces(clip, MEAN))
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(len(piece.windows) for piece in pieces) <= PIECE_STRETCHES
    stretches = [windows for piece in pieces for _, windows in piece.windows]
    whole, _ = soundfile.read(clip.file, dtype="float32")
    count = max(1, -(-len(whole) // 8_000))
    assert len(stretches) == count
    for start, windows in zip(np.linspace(0, max(0, len(whole) - 8_000), count), stretches, strict=True):
        expected = whole[round(start) : round(start) + 8_000]
        if len(expected) >= 4_000:
            np.testing.assert_array_equal(windows[0], expected[:4_000])
            np.testing.assert_array_equal(windows[-1], expected[-4_000:])


def test_an_hour_is_read_no_further_ahead_than_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, cut_out = clip_of(tmp_path, 60), [0]
    inner = reading.cut_windows

    def counted(waveform, window):  # type: ignore[no-untyped-def]
        cut_out[0] += 1
        return inner(waveform, window)

    monkeypatch.setattr(reading, "cut_windows", counted)
    with ThreadPoolExecutor(2) as readers:
        (pieces,) = read_ahead(readers, [read_pieces(clip, MEAN)], depth=9)
        next(pieces)
        threading.Event().wait(0.3)  # time to read more, if anything would
        assert PIECE_STRETCHES <= cut_out[0] <= 2 * PIECE_STRETCHES
        assert sum(len(piece.windows) for piece in pieces) == 60 - PIECE_STRETCHES


def test_clips_come_in_their_order_whichever_is_read_first() -> None:
    first_may_end = threading.Event()

    def slow_first():  # type: ignore[no-untyped-def]
        assert first_may_end.wait(10)
        yield Piece("first")

    def quick_second():  # type: ignore[no-untyped-def]
        first_may_end.set()
        yield Piece("second", last=False)
        yield Piece("second's end")

    with ThreadPoolExecutor(2) as readers:
        clips = read_ahead(readers, [slow_first(), quick_second()], depth=2)
        names = [[piece.content_sha256 for piece in clip] for clip in clips]
    assert names == [["first"], ["second", "second's end"]]


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
        *_, piece = read_pieces(clip, cut)
        assert (piece.content_sha256, piece.windows) == ("", ())
        assert piece.error == "changed while it was read; run the same command again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_palm_folder(tmp_path / "Tones")


def test_a_clip_that_goes_or_changes_after_planning_is_taken_as_it_is_when_read(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, plan = SpectrumEncoder(), stage_one.find_doubts
    monkeypatch.setattr(stage_one, "load_encoder", lambda spec, **options: encoder)
    gone, replaced = folder / "audios" / "train_0_1.wav", folder / "audios" / "train_0_2.wav"

    def plan_and_change(*arguments):  # type: ignore[no-untyped-def]
        todo = plan(*arguments)
        gone.unlink()
        write_tone(folder / "other.wav", 900, seconds=1)
        (folder / "other.wav").replace(replaced)
        return todo

    with monkeypatch.context() as patch:
        patch.setattr(stage_one, "find_doubts", plan_and_change)
        done = stage_one.extract(read_table(folder), "mini", out, ExtractParams())
    assert done.failures == (("audios/train_0_1.wav", "no such file"),)
    store = FeatureStore(out)
    with replaced.open("rb") as file:
        assert store.hashes_and_errors(0)[0][1:3] == ["", content_hash(file)]
    # Nothing more to do for either; a fresh store of the folder as it is now is the same.
    again = stage_one.extract(read_table(folder), "mini", out, ExtractParams())
    assert again.embedded == 0
    fresh = stage_one.extract(read_table(folder), "mini", out.with_name("fresh.zarr"), ExtractParams())
    np.testing.assert_array_equal(store.read_chunk(0), FeatureStore(fresh.store).read_chunk(0))


def test_mean_embeddings_are_those_of_the_naive_mean(folder: Path, out: Path) -> None:
    rate, window = 16_000, 12 * 16_000
    write_tone(folder / "audios" / "train_0_0.wav", 300, seconds=40.3, seed=5)
    stage_one.extract(read_table(folder), "mini", out, ExtractParams(long="mean"))
    store = FeatureStore(out)
    whole = torch.from_numpy(soundfile.read(folder / "audios" / "train_0_0.wav", dtype="float32")[0])
    starts = [round(place) for place in np.linspace(0, len(whole) - window, 4)]
    assert (4 - 1) * window < 40.3 * rate <= 4 * window
    mini = MiniEncoder.load()
    six = [
        torch.stack([whole[start + 2 * rate * place :][: 2 * rate] for place in range(6)]) for start in starts
    ]
    naive = torch.stack([mini.embed_audio(windows[None])[0] for windows in six]).mean(dim=0)
    np.testing.assert_allclose(store.read_chunk(0)[0, 0], naive, atol=1e-6)
    assert store.header.view_policy == "one view: the mean over evenly spaced stretches that cover the clip"


def test_short_clips_are_the_same_however_long_ones_are_treated(folder: Path, out: Path) -> None:
    stage_one.extract(read_table(folder), "mini", out, ExtractParams(long="mean"))
    crop = out.with_name("crop.zarr")
    stage_one.extract(read_table(folder), "mini", crop, ExtractParams())
    np.testing.assert_array_equal(FeatureStore(out).read_chunk(0), FeatureStore(crop).read_chunk(0))


def test_a_store_of_the_other_policy_is_stale(folder: Path, out: Path) -> None:
    stage_one.extract(read_table(folder), "mini", out, ExtractParams())
    with pytest.raises(
        StaleStoreError, match=r"another policy for long clips \(view 0: centre crop; .* now one"
    ):
        stage_one.extract(read_table(folder), "mini", out, ExtractParams(long="mean"))
    fingerprint = FeatureStore(out).header.fingerprint
    rebuilt = ExtractParams(long="mean", on_stale="rebuild")
    stage_one.extract(read_table(folder), "mini", out, rebuilt)
    assert FeatureStore(out).header.fingerprint != fingerprint


def test_a_mean_has_one_view() -> None:
    with pytest.raises(ParameterError, match="a mean covers the whole clip"):
        ExtractParams(long="mean", views=2)
