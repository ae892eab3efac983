from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from samples import assert_same, flip_bit, parted, read_arrays, write_tone
from spectrum import Look, Run, SpectrumEncoder

from palm_cache.errors import AudioError, DataError, ReadingError
from palm_cache.extraction import reading, work
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import extract
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clips

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_clips_that_cannot_be_read_are_recorded_and_the_rest_goes_on(
    run: Run, out: Path, folder: Path
) -> None:
    (folder / "audios" / "train_0_0.wav").unlink()
    (folder / "audios" / "train_0_1.wav").write_bytes(b"")
    (folder / "audios" / "train_0_2.wav").write_bytes(b"<html>")
    done = run()
    assert done.failures == (
        ("audios/train_0_0.wav", "no such file", ""),
        ("audios/train_0_1.wav", "the file is empty", ""),
        ("audios/train_0_2.wav", "cannot be decoded: format not recognised", ""),
    )
    assert done.embedded == 15
    features = FeatureStore(out).read()
    assert features.usable.tolist() == [False] * 3 + [True] * 15
    assert FeatureStore(out).problems() == []
    assert run().embedded == 0


def test_a_mended_clip_is_embedded(run: Run, folder: Path) -> None:
    (folder / "audios" / "train_0_0.wav").unlink()
    (folder / "audios" / "train_0_2.wav").write_bytes(b"<html>")
    run()
    write_tone(folder / "audios" / "train_0_0.wav", 200)
    write_tone(folder / "audios" / "train_0_2.wav", 205)
    done = run()
    assert (done.embedded, done.failures) == (2, ())


def test_a_disk_that_fails_for_a_moment_leaves_no_trace(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = reading.read_views, itertools.count()

    def fail(*given: object, **options: object) -> object:
        if next(calls) == 3:
            raise ReadingError("cannot be read: Input/output error")
        return decode(*given, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_views", fail)
        done = run()
    assert [reason for _, reason, _ in done.failures] == ["cannot be read: Input/output error"]
    assert done.embedded == 17
    again = run()
    assert (again.embedded, again.failures) == (1, ())
    assert FeatureStore(out).read().usable.all()


def test_a_recorded_failure_is_tried_again_by_another_decoder_or_on_request(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "audios" / "train_0_2.wav").write_bytes(b"<html>")
    tried: list[int] = []
    decode = reading.read_views

    def count(*given: object, **options: object) -> object:
        tried.append(1)
        return decode(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "read_views", count)
    for params, times in (({}, 18), ({}, 0), ({"retry_failed": True}, 1), ({}, 0)):
        tried.clear()
        assert len(run(**params).failures) == 1
        assert len(tried) == times
    monkeypatch.setattr(work, "decoder_version", lambda: "libsndfile 9")
    tried.clear()
    assert len(run().failures) == 1
    assert len(tried) == 1


def test_on_error_fail_stops_names_the_clip_and_looks_at_recorded_failures_too(
    run: Run, look: Look, out: Path, folder: Path
) -> None:
    (folder / "audios" / "train_1_0.wav").write_bytes(b"<html>")
    message = r"audios/train_1_0\.wav: cannot be decoded: format not recognised; mend or remove the clip"
    with pytest.raises(AudioError, match=message):
        run(on_error="fail")
    assert not out.exists()
    run()
    before = FeatureStore(out).header.id
    for act in (run, look):
        with pytest.raises(AudioError, match=message):
            act(on_error="fail")
    assert FeatureStore(out).header.id == before
    (folder / "audios" / "train_1_0.wav").unlink()
    for act in (run, look):
        with pytest.raises(AudioError, match=r"audios/train_1_0\.wav: no such file; mend or remove"):
            act(on_error="fail")


def test_files_that_are_away_keep_what_is_known_of_them(run: Run, out: Path, folder: Path) -> None:
    run()
    whole = read_arrays(out)
    (folder / "audios" / "train_0_0.wav").rename(folder / "audios" / "elsewhere.wav")
    done = run()
    assert (done.embedded, done.failures) == (0, ())
    assert "1 audio file cannot be read now; earlier embeddings are kept" in done.notes[0]
    assert_same(read_arrays(out), whole)
    assert run(prune=True).failures == (("audios/train_0_0.wav", "no such file", ""),)
    assert not FeatureStore(out).read().usable[0]


def test_every_stretch_of_a_file_that_is_away_keeps_what_is_known_of_it(
    out: Path, cache: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    table = read(folder)
    first, _, *others = table.clips
    stretches = replace(first, end=0.2), replace(first, start=0.2)
    table = replace(table, clips=Clips.of((*stretches, *others)))
    extract(table, "mini", out, *parted(), cache=cache)
    whole = read_arrays(out)
    Path(str(first.file)).unlink()
    done = extract(table, "mini", out, *parted(), cache=cache)
    assert (done.embedded, done.failures) == (0, ())
    assert "1 audio file cannot be read now" in done.notes[0]
    assert_same(read_arrays(out), whole)


def test_a_damaged_store_is_made_anew_though_a_file_is_away(run: Run, out: Path, folder: Path) -> None:
    run()
    flip_bit(out / "content_sha256" / "c" / "0" / "0")
    (folder / "audios" / "train_0_0.wav").unlink()
    assert run().failures == (("audios/train_0_0.wav", "no such file", ""),)
    assert [text for text in FeatureStore(out).problems() if "zero vector" not in text] == []


def test_a_disk_that_is_away_is_an_error_and_changes_nothing(run: Run, out: Path, folder: Path) -> None:
    (folder / "audios").rename(folder.parent / "unmounted")
    with pytest.raises(
        DataError, match=r"none of its 18 audio files can be read, e\.g\. .*no such file; is the"
    ):
        run()
    assert not out.exists()
    (folder.parent / "unmounted").rename(folder / "audios")
    run()
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    (folder / "audios").rename(folder.parent / "unmounted")
    run()
    with pytest.raises(DataError, match="Nothing was changed"):
        run(prune=True)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_many_missing_files_are_said_first(run: Run, folder: Path) -> None:
    for number in range(6):
        for label in range(2):
            (folder / "audios" / f"train_{label}_{number}.wav").unlink()
    assert run().notes[0] == "12 of 18 audio files could not be read"


def test_an_encoder_that_returns_nan_is_the_clips_error(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, calls = SpectrumEncoder.embed_audio, itertools.count()

    def spoil(self: SpectrumEncoder, waveforms):  # type: ignore[no-untyped-def]
        embeddings = embed(self, waveforms).clone()
        if next(calls) == 0:  # several workers embed at the same time
            embeddings[0] = float("nan")
        return embeddings

    monkeypatch.setattr(SpectrumEncoder, "embed_audio", spoil)
    failures = run(batch_size=4).failures
    assert [reason for _, reason, _ in failures] == ["the encoder returned NaN or infinity"]
    assert FeatureStore(out).problems() == []
