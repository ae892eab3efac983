from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from palm_cache.extraction.batches import ChunkJob, FinishedChunk
from palm_cache.extraction.lanes import embed_jobs
from samples import write_tone
from spectrum import SpectrumEncoder
from torch import Tensor

from palm_cache.errors import AudioError, EncoderError
from palm_cache.extraction import lanes, reading
from palm_cache.extraction.audio import content_hash, cut_windows, open_regular, read_views
from palm_cache.extraction.encoders.mini import MiniEncoder
from palm_cache.params import ExtractParams
from palm_cache.types import Clip

CHUNK = 8
SOON = 10.0
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


def run(encoder: object, clips: list[Clip], **options: object) -> list[FinishedChunk]:
    """Embed clips in chunks of eight and return what would be written."""
    views = options.pop("views", 1)
    write = options.pop("write", lambda chunk: chunk)
    encoders = encoder if isinstance(encoder, list) else [encoder]
    return embed_jobs(  # type: ignore[return-value]
        encoders,
        list(range(-(-len(clips) // CHUNK))),
        lambda number: ChunkJob(number, clips[CHUNK * number : CHUNK * (number + 1)]),
        views,  # type: ignore[arg-type]
        ExtractParams(**options),  # type: ignore[arg-type]
        write=write,  # type: ignore[arg-type]
    )


def hash_of(clip: Clip) -> str:
    with clip.file.open("rb") as file:
        return content_hash(file)


def one_after_the_other(encoder: MiniEncoder, clips: list[Clip], views: int, batch: int) -> np.ndarray:
    """What the plainest loop gives that reads, fills batches and embeds in turn, on one thread."""
    rows = np.zeros((len(clips), views, encoder.dim), np.float32)
    for start in range(0, len(clips), CHUNK):
        alike: dict[int, list[tuple[int, int, Tensor]]] = {}
        for row in range(start, min(start + CHUNK, len(clips))):
            try:
                with open_regular(clips[row].file) as file:
                    sha = content_hash(file)
                    waveforms = read_views(
                        file, sample_rate=16_000, samples=192_000, views=views, content_sha256=sha
                    )
            except AudioError:
                continue
            for view, waveform in enumerate(waveforms):
                windows = cut_windows(waveform, encoder.window)
                alike.setdefault(len(windows), []).append((row, view, windows))
        for group in alike.values():
            for first in range(0, len(group), batch):
                part = group[first : first + batch]
                embeddings = encoder.embed_audio(torch.stack([windows for _, _, windows in part]))
                for (row, view, _), embedding in zip(part, embeddings, strict=True):
                    rows[row, view] = embedding.numpy()
    return rows


@pytest.mark.parametrize(("views", "batch"), [(1, 0), (2, 3)])
def test_overlapped_work_gives_the_bits_of_work_in_turn(
    clips: list[Clip], threads: int, views: int, batch: int
) -> None:
    encoder = MiniEncoder.load()
    chunks = run(encoder, clips, views=views, batch_size=batch)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    expected = one_after_the_other(encoder, clips, views, batch or 4)
    assert [chunk.number for chunk in chunks] == [0, 1, 2, 3]
    assert np.array_equal(np.concatenate([chunk.audio for chunk in chunks]), expected)
    errors = [error for chunk in chunks for error in chunk.errors]
    assert [row for row, error in enumerate(errors) if error] == [11]


def test_ctrl_c_finishes_the_chunk_in_work_and_a_second_one_nothing(
    clips: list[Clip], one_thread: None
) -> None:
    class Interrupted(SpectrumEncoder):
        def __init__(self, calls: set[int]) -> None:
            super().__init__()
            self.calls = calls

        def embed_audio(self, waveforms: Tensor) -> Tensor:
            embeddings = super().embed_audio(waveforms)
            if len(self.batches) in self.calls:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
                time.sleep(0.5)  # the main thread has heard it by the next batch
            return embeddings

    # One at the first chunk, one at the second; two at the first.
    for calls, numbers in (({3}, [0]), ({CHUNK + 3}, [0, 1]), ({3, 5}, [])):
        written: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            run(Interrupted(calls), clips, batch_size=1, write=lambda chunk: written.append(chunk.number))  # noqa: B023
        assert written == numbers


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


def test_a_chunk_is_written_while_the_next_is_embedded(clips: list[Clip], one_thread: None) -> None:
    embedding_goes_on = threading.Event()

    class Telling(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            if self.embedded >= CHUNK:
                embedding_goes_on.set()
            return super().embed_audio(waveforms)

    def write(chunk: FinishedChunk) -> bool:
        return embedding_goes_on.wait(SOON)

    assert run(Telling(), clips, write=write) == [True] * 4


def test_memory_does_not_grow_with_the_dataset(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the encoder takes, only so many clips are held."""
    write_tone(tmp_path / "tone.wav", 440, seconds=0.2)
    clips = [Clip(tmp_path / "tone.wav", "tone.wav", 0)] * 100
    read, ahead, inner = [0], threading.Event(), reading.read_views
    # One batch with the worker, twice as many clips read ahead, and one more that a reader has begun.
    most = 4 + 2 * 4 + 2

    def counted(file, **options):  # type: ignore[no-untyped-def]
        read[0] += 1
        if read[0] >= most - 2:
            ahead.set()
        return inner(file, **options)

    class Slow(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            if not self.embedded:
                assert ahead.wait(SOON)
                threading.Event().wait(0.2)  # time to read more, if anything would
                assert read[0] <= most
            return super().embed_audio(waveforms)

    monkeypatch.setattr(reading, "read_views", counted)
    run(Slow(), clips, batch_size=4)
    assert read[0] == 100


def test_a_slow_disk_is_waited_for(tmp_path: Path, one_thread: None) -> None:
    write_tone(tmp_path / "tone.wav", 440, seconds=0.2)
    clips = [Clip(tmp_path / "tone.wav", "tone.wav", 0)] * (12 * CHUNK)
    encoder, written, ahead = SpectrumEncoder(), 0, []

    def write(chunk: FinishedChunk) -> None:
        nonlocal written
        threading.Event().wait(0.05)
        written += 1
        ahead.append(encoder.embedded // CHUNK - written)

    run(encoder, clips, write=write)
    assert written == 12
    assert 1 <= max(ahead) <= lanes.MOST_UNWRITTEN + 2


def test_what_goes_wrong_in_a_reader_comes_out_as_it_is(
    clips: list[Clip], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, inner, broken = ZeroDivisionError("a defect"), reading.read_views, hash_of(clips[12])

    def fail(file, **options):  # type: ignore[no-untyped-def]
        if options["content_sha256"] == broken:
            raise fault
        return inner(file, **options)

    monkeypatch.setattr(reading, "read_views", fail)
    written: list[int] = []
    with pytest.raises(ZeroDivisionError) as caught:
        run(SpectrumEncoder(), clips, write=lambda chunk: written.append(chunk.number))
    assert caught.value is fault
    assert written == [0]  # what was finished is kept
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("reader", "worker"))]


def test_what_goes_wrong_in_the_encoder_comes_out_as_it_is(clips: list[Clip], threads: int) -> None:
    fault = RuntimeError("shapes do not match")

    class Broken(SpectrumEncoder):
        def embed_audio(self, waveforms: Tensor) -> Tensor:
            raise fault

    with pytest.raises(RuntimeError) as caught:
        run(Broken(), clips)
    assert caught.value is fault


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
    chunks = run(small, clips, batch_size=8)
    assert max(small.batches) == 2  # 8 and 4 were too many
    expected = run(SpectrumEncoder(), clips, batch_size=8)
    for chunk, other in zip(chunks, expected, strict=True):
        np.testing.assert_allclose(chunk.audio, other.audio, atol=1e-5)
    notes = [note for chunk in chunks for note in chunk.notes]
    assert notes == [
        "out of memory on cpu with 8 clips at once; went on with 4 (next time: --batch-size 4)",
        "out of memory on cpu with 4 clips at once; went on with 2 (next time: --batch-size 2)",
    ]


def test_a_single_clip_that_memory_does_not_hold_is_said(clips: list[Clip], threads: int) -> None:
    with pytest.raises(EncoderError, match="out of memory on cpu with a single clip; free some, or use"):
        run(Small(0, out_of_cuda), clips)


def test_several_devices_share_the_chunks_by_their_numbers(clips: list[Clip], threads: int) -> None:
    """So that a run that is resumed gives every chunk to the device that it would have had."""
    encoders = [SpectrumEncoder(), SpectrumEncoder()]
    chunks = run(encoders, clips)
    assert sorted(chunk.number for chunk in chunks) == [0, 1, 2, 3]
    assert [encoder.embedded for encoder in encoders] == [16, 13]  # clip 11 cannot be read
    alone = {chunk.number: chunk.audio for chunk in run(SpectrumEncoder(), clips)}
    for chunk in chunks:
        assert np.array_equal(chunk.audio, alone[chunk.number])
