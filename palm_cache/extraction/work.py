"""What one process does of an extraction: embed clips whose content the cache does not know, and record them.

What is embedded is in the cache within seconds. So a process that is killed loses what was in flight, and
processes that work on the same clips see what the others have done.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from joblib.externals.loky import process_executor

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import decoder_version
from palm_cache.extraction.embedding import Embedder, Outcome
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.in_work import Vectors
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.params import MAX_JOBS, Recipe, Resources
from palm_cache.store.cache import Cache
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.segments import KEY_BYTES, RecordedFailure
from palm_cache.types import Clip, Place

SEGMENT_SECONDS, SEGMENT_BYTES = 2.0, 8 << 20
"""When a segment is written: what a kill can cost, and what one request of an object store should carry."""

LOOK_SECONDS = 0.2
"""How long what other processes have written on this machine may go unseen before a batch is embedded."""

SEGMENTS_KEPT = 64
"""Small segments of a process after which they are merged."""

SECONDS_ORPHANED = 0.2
"""How long a worker process may outlive the process that started it."""

Numbered = tuple[int, Clip]
"""A clip and its row."""


@dataclass(frozen=True, slots=True)
class ClipReport:
    """What became of a clip; small, so that it travels."""

    row: int
    content: bytes
    """sha256 of its file, empty where it could not be read."""
    state: bytes | None
    how: Literal["embedded", "known", "failed", "unread"]
    error: str = ""
    remarks: tuple[str, ...] = ()
    """What should be known of its sound, though it was embedded."""


def audio_cache(
    root: Place, encoder: Encoder, recipe: Recipe, *, retry: bool = False, ignored: Sequence[str] = ()
) -> Cache:
    """Open the cache of the embeddings that an encoder gives by a recipe."""
    made_by, shape = audio_recipe(encoder, recipe), (recipe.views, encoder.dim)
    return Cache(root, "audio", made_by, shape, by=decoder_version(), retry=retry, ignored=ignored)


@dataclass(slots=True)
class Work:
    """An embedder that works for a cache; several threads may use one."""

    embedder: Embedder
    cache: Cache
    begin: Callable[[], None] = lambda: None
    """Called before the first clip is embedded."""
    _claimed: set[bytes] = field(default_factory=set)
    """Keys that are in work and not yet in the cache: each is embedded once."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _looked: float = 0.0
    """When it was looked what is in the cache."""

    def embed(self, clips: Sequence[Numbered]) -> Iterator[ClipReport]:
        """Embed clips as far as the cache does not know them.

        Yields
        ------
        ClipReport
            One for every clip, when what became of it is in the cache or known.
        """

        def wanted(key: bytes) -> bool:
            if self.cache.holds(key):
                return False
            with self._lock:
                fresh = not (key in self._claimed or self.cache.holds(key))
                if fresh:
                    self._claimed.add(key)
            return fresh

        def still_wanted(key: bytes) -> bool:
            self._look()
            if self.cache.holds(key):
                self._claimed.discard(key)
                return False
            begin, self.begin = self.begin, lambda: None
            begin()
            return True

        waiting: list[Outcome] = []
        begun, bytes_waiting = time.monotonic(), 0
        try:
            for outcome in self.embedder.embed(clips, wanted, still_wanted=still_wanted):
                waiting.append(outcome)
                bytes_waiting += 0 if outcome.vectors is None else outcome.vectors.nbytes
                if bytes_waiting > SEGMENT_BYTES or time.monotonic() - begun > SEGMENT_SECONDS:
                    yield from self._record(waiting)
                    waiting, begun, bytes_waiting = [], time.monotonic(), 0
        finally:
            # Also when interrupted or out of memory: what is embedded stays.
            reports = list(self._record(waiting))
        yield from reports

    def _look(self) -> None:
        """Look what other processes have embedded, unless that was a moment ago."""
        pause = LOOK_SECONDS if self.cache.folder.is_near else SEGMENT_SECONDS
        with self._lock:
            if time.monotonic() - self._looked > pause:
                self.cache.refresh()
                self._looked = time.monotonic()

    def _record(self, outcomes: Sequence[Outcome]) -> Iterator[ClipReport]:
        """Write what became of clips into the cache."""
        recorded = [clip for clip in outcomes if clip.vectors is not None or (clip.error and clip.lasting)]
        failed = ((at, clip.error) for at, clip in enumerate(recorded) if clip.error)
        failures = {at: RecordedFailure(error, self.cache.by) for at, error in failed}
        keys = np.frombuffer(b"".join(clip.key for clip in recorded), np.uint8).reshape(-1, KEY_BYTES)
        nothing = np.zeros(self.cache.shape, np.float32)
        vectors: list[Vectors] = [nothing if clip.vectors is None else clip.vectors for clip in recorded]
        with self._lock:
            if recorded:
                self.cache.add(keys, np.stack(vectors), failures)
                self._claimed.difference_update(clip.key for clip in recorded)
            self.cache.refresh()
            if len(self.cache.small) > SEGMENTS_KEPT:
                self.cache.merge()
        for clip in outcomes:
            how: Literal["embedded", "known", "failed", "unread"] = "known"
            if clip.error:
                how = "failed" if clip.lasting else "unread"
            elif clip.vectors is not None:
                how = "embedded"
            yield ClipReport(clip.row, clip.content, clip.state, how, clip.error, self._remarks(clip))

    def _remarks(self, clip: Outcome) -> tuple[str, ...]:
        """Say what should be known of a clip's sound and of how it was cut."""
        name, cut = self.embedder.encoder.card.name, self.embedder.cut
        if not cut.crops(clip.heard.seconds):
            return clip.heard.remarks
        what = f"{cut.views} crops are" if cut.views > 1 else "its centre is"
        cropped = (
            f"longer than the {cut.window.stretch / cut.sample_rate:.3g} s that {name} hears; of each {what} "
            "embedded (`long` mean hears all, `window` cuts)"
        )
        return *clip.heard.remarks, cropped


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process needs to embed clips; small, so that it travels with every task."""

    cache: Place
    encoder: str
    """Encoder spec."""
    fingerprint: str
    """Of the recipe; a worker must come to the same."""
    recipe: Recipe
    resources: Resources
    session: str
    """Tells one extraction from the next: workers outlive an extraction and must not reuse its state."""
    damaged: tuple[str, ...] = ()
    """Segments of the cache that are known to give nothing and could not be removed."""

    @property
    def embedder_key(self) -> tuple[object, ...]:
        """What two workers have in common that may share an embedder."""
        resources = self.resources
        return self.encoder, self.fingerprint, self.recipe, resources.devices, resources.batch_size

    def embed(self, clips: Sequence[Numbered]) -> tuple[list[ClipReport], list[str]]:
        """Embed clips in this process; also return what the user should know."""
        with _working(self) as work:
            reports = list(work.embed(clips))
            notes, work.embedder.notes = work.embedder.notes, []
        return reports, notes


class _Shared:
    """What the tasks of a process share: an embedder, and the work of the latest extraction."""

    def __init__(self, worker: Worker) -> None:
        with ExitStack() as opened:
            device = opened.enter_context(own_device(worker.resources.devices))
            encoder = load_encoder(worker.encoder, worker.recipe, device=device)
            loaded = fingerprint(audio_recipe(encoder, worker.recipe))
            if loaded != worker.fingerprint:
                raise EncoderError(
                    f"encoder {worker.encoder!r}: a worker loaded other weights or libraries (fingerprint "
                    f"{loaded[:12]}, wanted {worker.fingerprint[:12]}); give all workers the same environment"
                )
            self.embedder = opened.enter_context(
                Embedder(encoder, worker.recipe, worker.resources.batch_size)
            )
            self._opened = opened.pop_all()
        self.embedder_key = worker.embedder_key
        self.tasks = 0
        """How many are in work."""
        self._latest: tuple[Worker, Work] | None = None

    def close(self) -> None:
        """Let go of the encoder and of its device."""
        self._opened.close()

    def work_of(self, worker: Worker) -> Work:
        """Return the work of an extraction, with a cache that looks into its place afresh."""
        if self._latest is None or self._latest[0] != worker:
            cache = audio_cache(
                worker.cache,
                self.embedder.encoder,
                worker.recipe,
                retry=worker.resources.retry_failed,
                ignored=worker.damaged,
            )
            self._latest = worker, Work(self.embedder, cache)
        return self._latest[1]


_shared: list[_Shared] = []
"""One at most: the latest."""
_SHARING = threading.Lock()
"""A worker of a cluster may have several threads."""


@contextmanager
def _working(worker: Worker) -> Iterator[Work]:
    """Give the work that a worker's task is part of; its encoder is loaded once, for all tasks and datasets.

    The embedder of another encoder is closed when its last task is done: else its threads and weights stay.
    """
    with _SHARING:
        if not _shared or _shared[0].embedder_key != worker.embedder_key:
            forget()
            _shared.append(_Shared(worker))
        shared = _shared[0]
        work = shared.work_of(worker)
        shared.tasks += 1
    try:
        yield work
    finally:
        with _SHARING:
            shared.tasks -= 1
            if shared not in _shared and not shared.tasks:
                shared.close()


def forget() -> None:
    """Let go of the encoder that this process keeps for the next task."""
    while _shared:
        shared = _shared.pop()
        if not shared.tasks:
            shared.close()


@contextmanager
def own_device(names: Sequence[str]) -> Iterator[str]:
    """Give the first of several devices that fewest processes of this machine have taken, and take it."""
    if tuple(names) == ("auto",) and torch.cuda.device_count() > 1:
        names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    name, lock = _free_device(names) if len(names) > 1 else (names[0], None)
    try:
        yield name
    finally:
        if lock is not None:
            lock.release()


def _free_device(names: Sequence[str]) -> tuple[str, FileLock | None]:
    for place, name in product(range(MAX_JOBS), names):
        file = Path(tempfile.gettempdir(), f"palm-cache-{name.replace(':', '-')}-{place}.lock")
        lock = FileLock(file, thread_local=False)  # another thread may let go of the device
        with suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            return name, lock
    return names[os.getpid() % len(names)], None


def follow(parent: int, *_: object) -> None:
    """Leave it to the parent process when this one ends: Ctrl-C is for the parent, its death is for both."""
    # A terminal sends Ctrl-C to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A process that grows by 300 MB after its first task, joblib takes for leaking: it ends it and starts
    # another, which loads the encoder again. Batches of a GPU take more, little by little, and then no more.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
    sys.stdout = sys.stderr  # what an encoder prints here is no result, either

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_ORPHANED)
        os._exit(1)  # an exception would end this thread alone

    threading.Thread(target=watch, name="watch", daemon=True).start()
