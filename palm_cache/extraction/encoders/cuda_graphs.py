"""What a GPU does for a batch, recorded once and from then on started by one call: CUDA graphs.

A forward of CLAP is hundreds of kernels. Launched one by one from Python, each of them may have to wait for
Python's lock, which the threads that read files take too; then the GPU waits for both. Batches of one shape
make the same launches every time, so they are recorded and started as one. The kernels are the same, and so
are the numbers.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from palm_cache.extraction.encoders.base import Encoder

RECORD_AFTER = 2
"""Batches of a shape that are launched kernel by kernel first: on the first calls libraries choose algorithms
and compilers compile, and a few batches are not worth a recording."""

RECORDING = threading.Lock()
"""Held by who records, and by who waits for the whole GPU, which CUDA forbids while anything is recorded."""


def can_record(encoder: Encoder) -> bool:
    """Tell whether an encoder's batches have one shape and go to an NVIDIA GPU."""
    own_way = type(encoder).embed_audio is not Encoder.embed_audio
    varying = encoder.window.padding == "nan" or not encoder.one_shape
    return encoder.device.type == "cuda" and not own_way and not varying


@dataclass(frozen=True, slots=True)
class _Recording:
    """The launches for batches of one shape, and where they read and write."""

    graph: torch.cuda.CUDAGraph
    waveforms: Tensor
    vectors: Tensor


class GraphedEncoder:
    """``embed_audio`` of an encoder for one thread, within whose stream it is called."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._met: Counter[tuple[int, ...]] = Counter()
        self._recordings: dict[tuple[int, ...], _Recording | None] = {}
        """By shape of the batch; ``None``: what the encoder does cannot be recorded."""

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor) -> Tensor:
        """Embed as :meth:`Encoder.embed_audio` does."""
        shape = tuple(waveforms.shape)
        self._met[shape] += 1
        if self._met[shape] > RECORD_AFTER and shape not in self._recordings:
            with RECORDING:
                self._recordings[shape] = self._record(waveforms)
        recording = self._recordings.get(shape)
        if recording is None:
            return self._encoder.embed_audio(waveforms)
        recording.waveforms.copy_(waveforms, non_blocking=True)
        recording.graph.replay()
        return recording.vectors.cpu()

    def _record(self, waveforms: Tensor) -> _Recording | None:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self._encoder.device)
        try:
            own = waveforms.to(self._encoder.device)
            with (
                self._encoder.engine.products(),
                # Other threads go on launching, each in its own stream.
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                vectors = self._encoder.embed_windows(own).float()
        except RuntimeError:  # it waits for the GPU halfway, or memory does not hold a second set of buffers
            return None
        return _Recording(graph, own, vectors)
