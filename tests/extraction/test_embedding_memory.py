from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from outcomes import SOON, assert_same_bits, run, vectors
from samples import write_tone
from spectrum import SpectrumEncoder
from torch import Tensor

from palm_cache.errors import EncoderError
from palm_cache.extraction import reading
from palm_cache.extraction.embedding import Embedder
from palm_cache.params import Recipe
from palm_cache.types import Clip


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
