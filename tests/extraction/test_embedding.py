from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from samples import write_tone
from spectrum import SpectrumEncoder
from torch import Tensor

from palm_cache.errors import AudioError, EncoderError
from palm_cache.extraction import embedding, reading, work
from palm_cache.extraction.audio.waveforms import content_hash, cut_windows, open_regular, read_views
from palm_cache.extraction.embedding import Embedder, Outcome
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.cuda_graphs import RECORDING
from palm_cache.extraction.encoders.mini import MiniEncoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.work import Work, audio_cache
from palm_cache.params import Recipe
from palm_cache.types import Clip

SOON = 120.0
"""Seconds in which a thread that can go on has gone on."""


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many threads as torch may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Thirty clips of one to six windows of ``mini``; one of them cannot be read."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(30):
        write_tone(folder / f"{number}.wav", 200 + 30 * number, seconds=1 + number % 7 * 2, seed=number)
    (folder / "11.wav").write_bytes(b"<html>")
    return [Clip(folder / f"{number}.wav", f"{number}.wav", 0) for number in range(30)]


def run(
    encoder: Encoder, clips: Sequence[Clip], *, batch_size: int = 0, take: Callable[[Outcome], object] = id
) -> dict[int, Outcome]:
    """Embed clips one time each and return their outcomes by row."""
    found: dict[int, Outcome] = {}
    with Embedder(encoder, Recipe(), batch_size) as embedder:
        for outcome in embedder.embed(list(enumerate(clips))):
            assert outcome.row not in found
            found[outcome.row] = outcome
            take(outcome)
    return found


def vectors(found: dict[int, Outcome]) -> dict[int, np.ndarray]:
    return {row: one.vectors for row, one in found.items() if one.vectors is not None}


def assert_same_bits(one: dict[int, Outcome], other: dict[int, Outcome]) -> None:
    assert vectors(one).keys() == vectors(other).keys()
    for row, made in vectors(one).items():
        assert np.array_equal(made, other[row].vectors), row  # type: ignore[arg-type]


def hash_of(clip: Clip) -> str:
    with clip.file.open("rb") as file:
        return content_hash(file)


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


def test_memory_does_not_grow_with_the_dataset(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the encoder takes, only so many clips are held."""
    clips = []
    for number in range(300):
        write_tone(tmp_path / f"{number}.wav", 440, seconds=0.2, seed=number)
        clips.append(Clip(tmp_path / f"{number}.wav", f"{number}.wav", 0))
    read, ahead, inner = [0], threading.Event(), reading.read_views
    # A batch with the worker, one waiting for it, one being filled, and the steps of the reader.
    most = 3 * 4 + 5 * reading.STEP_FILES

    def counted(file, **options):  # type: ignore[no-untyped-def]
        read[0] += 1
        if read[0] >= 12:
            ahead.set()
        return inner(file, **options)

    class Slow(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            if not self.embedded:
                assert ahead.wait(SOON)
                threading.Event().wait(0.5)  # time to read more, if anything would
                assert read[0] <= most
            return super().embed_audio(waveforms)

    monkeypatch.setattr(reading, "read_views", counted)
    run(Slow(), clips, batch_size=4)
    assert read[0] == 300


def test_nothing_is_read_while_nobody_takes_what_is_done(tmp_path: Path, one_thread: None) -> None:
    """A slow disk for the cache is waited for."""
    clips = []
    for number in range(200):
        write_tone(tmp_path / f"{number}.wav", 440, seconds=0.2, seed=number)
        clips.append(Clip(tmp_path / f"{number}.wav", f"{number}.wav", 0))
    encoder = SpectrumEncoder()
    with Embedder(encoder, batch_size=4) as embedder:
        outcomes = embedder.embed(list(enumerate(clips)))
        next(outcomes)
        threading.Event().wait(0.5)  # time to embed more, if anything would
        assert encoder.embedded <= 4 * 4
        assert sum(1 for _ in outcomes) == 199


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


def out_of_cuda() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def out_of_cpu() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def out_of_this_machine() -> Exception:
    """What torch says when it really cannot have the memory that it asks for."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    return caught.value


class Small(SpectrumEncoder):
    """Memory holds ``room`` clips."""

    def __init__(self, room: int, failure: Callable[[], Exception]) -> None:
        super().__init__()
        self.room, self.failure = room, failure

    def embed_audio(self, waveforms: Tensor) -> Tensor:
        if len(waveforms) > self.room:
            raise self.failure()
        return super().embed_audio(waveforms)


@pytest.mark.parametrize("failure", [out_of_cuda, out_of_cpu, out_of_this_machine, MemoryError])
def test_a_batch_that_memory_does_not_hold_is_halved(
    clips: list[Clip], one_thread: None, failure: Callable[[], Exception]
) -> None:
    small = Small(3, failure)
    with Embedder(small, batch_size=8) as embedder:
        found = {one.row: one for one in embedder.embed(list(enumerate(clips)))}
    assert set(small.batches) == {2}  # 8 and 4 were too many
    expected = run(SpectrumEncoder(), clips, batch_size=2)
    assert_same_bits(found, expected)
    assert embedder.notes == [
        "out of memory on cpu with 8 clips at once; went on with 4 (next time: `batch_size` 4)",
        "out of memory on cpu with 4 clips at once; went on with 2 (next time: `batch_size` 2)",
    ]


def test_a_single_clip_that_memory_does_not_hold_is_said(clips: list[Clip], threads: int) -> None:
    with pytest.raises(EncoderError, match="out of memory on cpu with a single clip; free some, or use"):
        run(Small(0, out_of_cuda), clips)


def test_a_clip_of_many_stretches_is_embedded_piece_by_piece(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a recording of any length only so much is held: what was cut out and is not embedded yet."""
    write_tone(tmp_path / "long.wav", 440, seconds=120, rate=8_000)
    encoder, cut_out, held, inner = SpectrumEncoder(), [0], [], reading.slide

    def counted(*file, **options):  # type: ignore[no-untyped-def]
        for window in inner(*file, **options):
            cut_out[0] += 1
            held.append(cut_out[0] - encoder.embedded)
            yield window

    monkeypatch.setattr(reading, "slide", counted)
    with Embedder(encoder, Recipe(long="mean"), 4) as embedder:
        (found,) = embedder.embed([(0, Clip(tmp_path / "long.wav", "long.wav", 0))])
    assert found.vectors is not None
    assert found.vectors.shape == (1, 12)
    assert cut_out == [120]
    # Three steps of the reader, a batch in work, one waiting, one being filled.
    assert max(held) <= 3 * reading.STEP_STRETCHES + 3 * 4


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


def test_a_batch_waits_for_memory_that_another_holds(clips: list[Clip]) -> None:
    """Batches that go in one at a time are not made smaller because two at once did not."""

    class Crowded(SpectrumEncoder):
        """Memory holds one batch; the first two meet there."""

        def __init__(self) -> None:
            super().__init__()
            self.lock, self.inside, self.calls, self.refused = threading.Lock(), 0, 0, 0
            self.met = threading.Event()

        def embed_audio(self, waveforms: Tensor) -> Tensor:
            with self.lock:
                self.inside, self.calls = self.inside + 1, self.calls + 1
                first, crowded = self.calls == 1, self.inside > 1
            try:
                if crowded:
                    self.refused += 1
                    self.met.set()
                    raise out_of_cuda()
                if first:
                    assert self.met.wait(SOON)
                return super().embed_audio(waveforms)
            finally:
                with self.lock:
                    self.inside -= 1

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        crowded = Crowded()
        with Embedder(crowded, Recipe(), 4) as embedder:
            found = {one.row: one for one in embedder.embed(list(enumerate(clips)))}
            assert embedder.notes == []
    finally:
        torch.set_num_threads(before)
    assert crowded.refused
    assert len(vectors(found)) == 29


def test_what_another_process_embeds_meanwhile_is_not_embedded_again(
    clips: list[Clip], one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for right before a batch is embedded, not only when a file is read."""
    monkeypatch.setattr(work, "LOOK_SECONDS", 0.0)
    encoder = SpectrumEncoder()
    mine, theirs = (audio_cache(tmp_path, encoder, Recipe()) for _ in range(2))
    keys = np.array([list(bytes.fromhex(hash_of(clip))) for clip in clips[:10]], np.uint8)

    def begin() -> None:  # all has been read by then, nothing embedded
        theirs.add(keys[1:], np.ones((9, *theirs.shape), np.float32))

    with Embedder(encoder, Recipe(), 2) as embedder:
        done = list(Work(embedder, mine, begin).embed(list(enumerate(clips[:10]))))
    assert sorted((one.row, one.how) for one in done) == [
        (0, "embedded"),
        *((row, "known") for row in range(1, 10)),
    ]


def test_what_is_in_the_cache_is_in_no_other_memory(clips: list[Clip], tmp_path: Path) -> None:
    encoder = SpectrumEncoder()
    with Embedder(encoder, Recipe(), 2) as embedder:
        done = Work(embedder, audio_cache(tmp_path, encoder, Recipe()))
        reports = list(done.embed(list(enumerate([*clips, *clips]))))
    assert [report.how for report in reports].count("embedded") == 29
    assert not done._claimed


def test_files_that_are_only_read_begin_nothing(clips: list[Clip], one_thread: None, tmp_path: Path) -> None:
    encoder, begun = SpectrumEncoder(), []
    cache = audio_cache(tmp_path, encoder, Recipe())
    with Embedder(encoder) as embedder:
        first = list(Work(embedder, cache, lambda: begun.append(1)).embed([(0, clips[0])]))
        again = list(Work(embedder, cache, lambda: begun.append(2)).embed([(0, clips[0])]))
    assert [one.how for one in (*first, *again)] == ["embedded", "known"]
    assert begun == [1]


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
