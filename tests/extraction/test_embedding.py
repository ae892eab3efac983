from __future__ import annotations

import itertools
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from outcomes import SOON, hash_of, run, vectors
from spectrum import SpectrumEncoder
from torch import Tensor

from palm_cache.errors import AudioError
from palm_cache.extraction import embedding, reading
from palm_cache.extraction.audio.waveforms import content_hash, cut_windows, open_regular, read_views
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.cuda_graphs import RECORDING
from palm_cache.extraction.encoders.mini import MiniEncoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.params import Recipe
from palm_cache.types import Clip


def one_after_the_other(encoder: Encoder, clips: list[Clip], views: int, batch: int) -> dict[int, np.ndarray]:
    """What the plainest loop gives that reads, and embeds every stretch in a batch of nothing but itself."""
    rows = {}
    for row, clip in enumerate(clips):
        try:
            with open_regular(clip.file) as file:
                sha = content_hash(file)
                waveforms = read_views(
                    file, sample_rate=16_000, samples=192_000, views=views, content_sha256=sha
                )
        except AudioError:
            continue
        windows = [cut_windows(waveform, encoder.window) for waveform in waveforms]
        rows[row] = torch.stack([encoder.embed_audio(torch.stack([one] * batch))[0] for one in windows])
    return {row: made.numpy() for row, made in rows.items()}


@pytest.mark.parametrize(("views", "batch"), [(1, 0), (2, 3)])
def test_overlapped_work_gives_the_bits_of_work_in_turn_whatever_is_in_a_batch(
    clips: list[Clip], threads: int, views: int, batch: int
) -> None:
    encoder = load_encoder("mini", device="cpu")
    assert isinstance(encoder, MiniEncoder)
    with Embedder(encoder, Recipe(views=views), batch) as embedder:
        found = {one.row: one for one in embedder.embed(list(enumerate(clips)))}
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    expected = one_after_the_other(encoder, clips, views, batch or 4)
    assert sorted(found) == list(range(30))
    assert vectors(found).keys() == expected.keys()
    for row, made in vectors(found).items():
        assert np.array_equal(made, expected[row]), row
    assert [row for row, one in found.items() if one.error] == [11]
    assert found[11].error == "cannot be decoded: format not recognised"
    assert found[11].lasting


def test_every_batch_has_the_same_shape_and_companions_change_nothing(
    clips: list[Clip], one_thread: None
) -> None:
    encoder = SpectrumEncoder()
    whole = run(encoder, clips, batch_size=4)
    assert set(encoder.batches) == {4}  # the last ones too: padded by repetition
    few = [clips[row] for row in (29, 3, 17)]
    alone = run(encoder, few, batch_size=4)
    for place, row in enumerate((29, 3, 17)):
        assert np.array_equal(alone[place].vectors, whole[row].vectors)  # type: ignore[arg-type]


def test_what_is_known_is_hashed_only(clips: list[Clip], one_thread: None) -> None:
    encoder, known = SpectrumEncoder(), {bytes.fromhex(hash_of(clips[row])) for row in range(20)}
    with Embedder(encoder) as embedder:
        found = {one.row: one for one in embedder.embed(list(enumerate(clips)), lambda key: key not in known)}
    assert sorted(vectors(found)) == list(range(20, 30))
    assert all(found[row].content in known and not found[row].error for row in range(20))


def test_outcomes_come_in_about_their_order(clips: list[Clip], one_thread: None) -> None:
    order: list[int] = []
    run(SpectrumEncoder(), clips, batch_size=2, take=lambda one: order.append(one.row))
    assert all(abs(place - row) <= 16 for place, row in enumerate(order))


@pytest.mark.usefixtures("no_thread_left")
def test_ctrl_c_gives_what_is_in_work(clips: list[Clip], one_thread: None) -> None:
    class Interrupted(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            embeddings = super().embed_audio(waveforms)
            if len(self.batches) == 3:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
                time.sleep(0.5)  # the main thread, which waits for this batch, has heard it
            return embeddings

    encoder, rows = Interrupted(), set()
    with pytest.raises(KeyboardInterrupt):
        run(encoder, clips, batch_size=1, take=lambda one: rows.add(one.row))
    assert len(rows) >= 3
    assert len(rows - {11}) == len(encoder.batches)  # nothing that was embedded is lost


def test_the_next_clips_are_read_while_a_batch_is_embedded(
    clips: list[Clip], one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_further, read = threading.Event(), reading.read_views
    further = hash_of(clips[5])  # clips 0 to 3 are in the first batch

    def watched(file, **options):  # type: ignore[no-untyped-def]
        if options["content_sha256"] == further:
            read_further.set()
        return read(file, **options)

    class Patient(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            assert read_further.wait(SOON)
            return super().embed_audio(waveforms)

    monkeypatch.setattr(reading, "read_views", watched)
    run(Patient(), clips)


def test_outcomes_are_taken_while_the_next_batch_is_embedded(
    clips: list[Clip], one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding_goes_on, second_waits, waits = threading.Event(), threading.Event(), []
    numbers, submit = itertools.count(1), Embedder._submit

    class Telling(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            # However slow the disk is, what the first batch gives is not taken before the second is there.
            assert second_waits.wait(SOON)
            if self.embedded:
                embedding_goes_on.set()
            return super().embed_audio(waveforms)

    def told(embedder, batch):  # type: ignore[no-untyped-def]
        submitted = submit(embedder, batch)
        if next(numbers) == 2:
            second_waits.set()
        return submitted

    monkeypatch.setattr(Embedder, "_submit", told)
    run(Telling(), clips, take=lambda one: waits.append(embedding_goes_on.wait(SOON)))
    assert waits == [True] * 30


@pytest.mark.usefixtures("no_thread_left")
def test_what_goes_wrong_in_a_reader_comes_out_as_it_is(
    clips: list[Clip], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, inner, broken = ZeroDivisionError("a defect"), reading.read_views, hash_of(clips[12])

    def fail(file, **options):  # type: ignore[no-untyped-def]
        if options["content_sha256"] == broken:
            raise fault
        return inner(file, **options)

    monkeypatch.setattr(reading, "read_views", fail)
    with pytest.raises(ZeroDivisionError) as caught:
        run(SpectrumEncoder(), clips)
    assert caught.value is fault


@pytest.mark.usefixtures("no_thread_left")
def test_what_goes_wrong_in_the_encoder_comes_out_as_it_is(clips: list[Clip], threads: int) -> None:
    fault = RuntimeError("shapes do not match")

    class Broken(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            raise fault

    with pytest.raises(RuntimeError) as caught:
        run(Broken(), clips)
    assert caught.value is fault
    assert "raised this, given a batch of" in caught.value.__notes__[0]


@pytest.mark.usefixtures("no_thread_left")
def test_what_goes_wrong_before_the_encoder_is_not_laid_to_its_charge(
    clips: list[Clip], one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(embedding, "fill_windows", fail)
    with pytest.raises(ZeroDivisionError) as caught:
        run(SpectrumEncoder(), clips)
    assert not hasattr(caught.value, "__notes__")


def test_a_vector_that_is_not_finite_is_a_failure_of_its_clip_alone(
    clips: list[Clip], one_thread: None
) -> None:
    spoilt = run(SpectrumEncoder(), clips)[5].vectors
    assert spoilt is not None

    class Spoiling(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            embeddings = super().embed_audio(waveforms).clone()
            embeddings[(embeddings == torch.from_numpy(spoilt)).all(dim=1)] = torch.nan
            return embeddings

    found = run(Spoiling(), clips)
    errors = {row: one.error for row, one in found.items() if one.error and row != 11}
    assert errors == {5: "the encoder returned NaN or infinity"}
    assert found[5].vectors is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_workers_of_a_gpu_have_streams_of_their_own_as_long_as_the_embedder_is_open() -> None:
    seen: list[tuple[str, int]] = []
    ready = threading.Barrier(2, timeout=SOON)

    def note(_: int) -> None:
        ready.wait()
        seen.append((threading.current_thread().name, torch.cuda.current_stream().cuda_stream))

    with Embedder(load_encoder("mini", device="cuda")) as embedder:
        for _ in range(2):
            embedder.on_workers(note, [0, 1])
    streams = dict(seen)
    assert len(set(streams.values())) == len(streams) == 2
    assert torch.cuda.default_stream().cuda_stream not in streams.values()
    assert set(seen) == set(streams.items())


def test_a_worker_that_begins_waits_for_a_recording_before_it_waits_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = []
    encoder = SimpleNamespace(device=torch.device("cuda"), embed_audio=None)
    monkeypatch.setattr(embedding, "can_record", lambda encoder: False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(RECORDING.locked()))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    embedder = SimpleNamespace(encoder=encoder, _own=threading.local())
    Embedder._begin_worker(embedder, torch.get_num_threads())  # type: ignore[arg-type]
    assert waited == [True]
