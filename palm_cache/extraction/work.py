"""What one process does of an extraction: embed clips whose content the cache does not know, and record them.

What is embedded is in the cache within seconds. So a process that is killed loses what was in flight, and
processes that work on the same clips see what the others have done.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from multiprocessing import current_process
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio import decoder_version
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.extraction.road import Outcome, Road, Vectors
from palm_cache.params import MAX_JOBS, Recipe, Resources
from palm_cache.store.cache import Cache
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.segments import KEY_BYTES, Failure
from palm_cache.types import Clip, Place

SEGMENT_SECONDS, SEGMENT_BYTES = 2.0, 8 << 20
"""When a segment is written: what a kill can cost, and what one request of an object store should carry."""

SEGMENTS_KEPT = 64
"""Small segments of a process after which they are merged."""

SECONDS_ORPHANED = 0.2
"""How long a worker process may outlive the process that started it."""

Numbered = tuple[int, Clip]
"""A clip and its row."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a clip; small, so that it travels."""

    row: int
    content: bytes
    """sha256 of its file, empty where it could not be read."""
    state: bytes | None
    how: Literal["embedded", "known", "failed", "unread"]
    error: str = ""
    remarks: tuple[str, ...] = ()
    """What should be known of its sound, though it was embedded."""


def audio_cache(root: Place, encoder: Encoder, recipe: Recipe, *, retry: bool = False) -> Cache:
    """Open the cache of the embeddings that an encoder gives by a recipe."""
    shape = (recipe.views, encoder.dim)
    return Cache(root, "audio", audio_recipe(encoder, recipe), shape, by=decoder_version(), retry=retry)


@dataclass(slots=True)
class Work:
    """A road into a cache; several threads may use one."""

    road: Road
    cache: Cache
    _claimed: set[bytes] = field(default_factory=set)
    """Keys that are on the road or have been: each is embedded once."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def embed(self, clips: Sequence[Numbered], *, known: bool = False) -> Iterator[Done]:
        """Embed clips as far as the cache does not know them.

        Parameters
        ----------
        known : bool
            Embed also what it seems to know.

        Yields
        ------
        Done
            One for every clip, when what became of it is in the cache or known.
        """

        def wanted(key: bytes) -> bool:
            if not known and self.cache.holds(key):
                return False
            with self._lock:
                fresh = known or key not in self._claimed
                self._claimed.add(key)
            return fresh

        waiting: list[Outcome] = []
        begun, bytes_waiting = time.monotonic(), 0
        try:
            for outcome in self.road.embed(clips, wanted, n_clips=len(clips)):
                waiting.append(outcome)
                bytes_waiting += 0 if outcome.vectors is None else outcome.vectors.nbytes
                if bytes_waiting > SEGMENT_BYTES or time.monotonic() - begun > SEGMENT_SECONDS:
                    yield from self._record(waiting)
                    waiting, begun, bytes_waiting = [], time.monotonic(), 0
        finally:
            # Also when interrupted or out of memory: what is embedded stays.
            done = list(self._record(waiting))
        yield from done

    def _record(self, outcomes: Sequence[Outcome]) -> Iterator[Done]:
        """Write what became of clips into the cache."""
        made = [one for one in outcomes if one.vectors is not None or (one.error and one.lasting)]
        failures = {at: Failure(one.error, self.cache.by) for at, one in enumerate(made) if one.error}
        keys = np.frombuffer(b"".join(one.key for one in made), np.uint8).reshape(-1, KEY_BYTES)
        nothing = np.zeros(self.cache.shape, np.float32)
        vectors: list[Vectors] = [nothing if one.vectors is None else one.vectors for one in made]
        with self._lock:
            if made:
                self.cache.add(keys, np.stack(vectors), failures)
            self.cache.refresh()
            if self.cache.n_small > SEGMENTS_KEPT:
                self.cache.merge()
        for one in outcomes:
            how: Literal["embedded", "known", "failed", "unread"] = "known"
            if one.error:
                how = "failed" if one.lasting else "unread"
            elif one.vectors is not None:
                how = "embedded"
            yield Done(one.row, one.content, one.state, how, one.error, one.heard.remarks)


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
    owner: int = field(default_factory=os.getpid)
    """Number of the process that made this."""

    def embed(self, clips: Sequence[Numbered], known: bool = False) -> tuple[list[Done], list[str]]:
        """Embed clips in this process; also return what the user should know."""
        if current_process().name.startswith("LokyProcess"):  # started by the owner, not by a cluster
            _follow(self.owner)
        with _LOADING:  # a worker of a cluster may have several threads
            work = _loaded(self)
        done = list(work.embed(clips, known=known))
        notes, work.road.notes = work.road.notes, []
        return done, notes


_LOADING = threading.Lock()


@lru_cache(maxsize=1)
def _loaded(worker: Worker) -> Work:
    resources = worker.resources
    road = _road(worker.encoder, worker.fingerprint, worker.recipe, resources.devices, resources.batch_size)
    return Work(road, audio_cache(worker.cache, road.encoder, worker.recipe, retry=resources.retry_failed))


@lru_cache(maxsize=1)
def _road(spec: str, wanted: str, recipe: Recipe, devices: tuple[str, ...], batch_size: int) -> Road:
    """Load an encoder for all datasets that follow."""
    encoder = load_encoder(spec, recipe, device=own_device(devices))
    found = fingerprint(audio_recipe(encoder, recipe))
    if found != wanted:
        raise EncoderError(
            f"encoder {spec!r}: a worker loaded other weights or libraries (fingerprint "
            f"{found[:12]}, wanted {wanted[:12]}); give all workers the same environment"
        )
    return Road(encoder, recipe, batch_size)


_device_locks: list[FileLock] = []
"""Held as long as this process lives."""


def own_device(names: Sequence[str]) -> str:
    """Return the first of several devices that fewest processes of this machine have taken."""
    if tuple(names) == ("auto",) and torch.cuda.device_count() > 1:
        names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if len(names) > 1:
        for place, name in product(range(MAX_JOBS), names):
            lock = FileLock(Path(tempfile.gettempdir(), f"palm-cache-{name.replace(':', '-')}-{place}.lock"))
            try:
                lock.acquire(timeout=0)
            except (Timeout, OSError):
                continue
            _device_locks.append(lock)
            return name
    return names[os.getpid() % len(names)]


@lru_cache(maxsize=1)
def _follow(parent: int) -> None:
    """Leave it to the parent process when this one ends: Ctrl-C is for the parent, its death is for both."""
    # A terminal sends Ctrl-C to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_ORPHANED)
        os._exit(1)  # an exception would end this thread alone

    threading.Thread(target=watch, name="watch", daemon=True).start()
