"""Chunks spread over processes: of this machine, or of a Dask or Ray cluster that is running already.

What travels is the number of a chunk and the paths of its clips, there, and what became of them, back. Every
worker loads the encoder once and writes its chunks to the store itself. joblib does the spreading, whatever
the processes are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import joblib

from palm_cache.errors import ClusterError, PalmCacheError, ParameterError
from palm_cache.extraction.chunks import ChunkResult, Worker
from palm_cache.extraction.encoders.registry import split_spec
from palm_cache.store.places import absolute
from palm_cache.types import Clip

SECONDS_TO_CONNECT = 30

CHUNKS_A_WORKER = 8
"""Chunks that a worker gets at once from a backend that gives results only when all are there: progress
then shows in steps, and workers wait for the slowest at the end of each."""

Task = tuple[int, tuple[Clip, ...]]
"""A chunk's number and its clips."""


def embed_elsewhere(worker: Worker, tasks: Iterable[Task]) -> Iterator[ChunkResult]:
    """Have chunks embedded by other processes, in any order.

    Raises
    ------
    ParameterError
        If it is no such address, or its library is not installed.
    ClusterError
        If the cluster cannot be reached, has no workers, or loses them again and again.
    PalmCacheError
        Whatever embedding a chunk raises. Chunks that are finished stay.
    """
    sent = _seen_from_everywhere(worker)
    calls = (joblib.delayed(sent.embed)(chunk, _absolute(clips)) for chunk, clips in tasks)
    cluster = worker.params.cluster
    if not cluster:
        yield from joblib.Parallel(worker.params.jobs, return_as="generator_unordered")(calls)
        return
    if cluster.startswith("dask:"):
        with _dask(cluster):
            yield from joblib.Parallel(-1, return_as="generator_unordered")(calls)
    else:
        with _ray(cluster) as workers:
            while some := list(islice(calls, CHUNKS_A_WORKER * workers)):
                yield from joblib.Parallel(-1)(some)


def check_address(cluster: str) -> None:
    """Make sure that a cluster, if one is named at all, is ``dask://HOST:PORT`` or ``ray://HOST:PORT``.

    Raises
    ------
    ParameterError
        If it is not an address of either kind.
    """
    if cluster and not re.fullmatch(r"(dask|ray)://[^/]+:\d+", cluster):
        raise ParameterError(f"cluster: {cluster!r} is not dask://HOST:PORT or ray://HOST:PORT")


@contextmanager
def _dask(cluster: str) -> Iterator[None]:
    address = cluster.removeprefix("dask://")
    with _installed("dask"):
        from distributed import Client, KilledWorker
    try:
        client = Client(f"tcp://{address}", timeout=SECONDS_TO_CONNECT)
    except OSError as error:
        raise ClusterError(f"{cluster}: cannot be reached; start one with: dask scheduler") from error
    try:
        with (
            client,
            joblib.parallel_config("dask", client=client, wait_for_workers_timeout=SECONDS_TO_CONNECT),
        ):
            yield
    except TimeoutError as error:
        raise ClusterError(f"{cluster}: has no workers; start some with: dask worker {address}") from error
    except KilledWorker as error:
        raise ClusterError(
            f"{cluster}: {error.allowed_failures + 1} workers died over the same chunk; "
            "had they enough memory?"
        ) from error


@contextmanager
def _ray(cluster: str) -> Iterator[int]:
    """Connect to a Ray cluster; gives the number of its CPUs."""
    with _installed("ray"):
        import ray
        from ray.util.joblib import register_ray
    register_ray()
    try:
        ray.init(cluster, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ClusterError(f"{cluster}: cannot be reached; start one with: ray start --head") from error
    try:
        with joblib.parallel_config("ray"):
            yield int(ray.cluster_resources().get("CPU", 1))
    except Exception as error:
        if isinstance(error, PalmCacheError | ray.exceptions.RayTaskError):
            raise
        # A connection that breaks is a bare Exception.
        if not isinstance(error, ray.exceptions.RayError) and ray.is_initialized():
            raise
        reason = str(error).partition("\n")[0]
        raise ClusterError(f"{cluster}: lost a worker or the connection: {reason}") from error
    finally:
        ray.shutdown()


@contextmanager
def _installed(kind: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ParameterError(
            f"cluster: {str(error).lower()}; install it with: pip install 'palm-cache[{kind}]'"
        ) from error


def _seen_from_everywhere(worker: Worker) -> Worker:
    """Make paths absolute: another process may run in another folder."""
    name, source = split_spec(worker.encoder)
    local = Path(source) if source and Path(source).exists() else None
    tokenizer = Path(worker.params.tokenizer)
    return replace(
        worker,
        store=absolute(worker.store),
        encoder=f"{name}:{local.absolute()}" if local else worker.encoder,
        params=replace(
            worker.params, tokenizer=str(tokenizer.absolute()) if tokenizer.exists() else str(tokenizer)
        ),
    )


def _absolute(clips: Iterable[Clip]) -> tuple[Clip, ...]:
    return tuple(replace(clip, file=absolute(clip.file)) for clip in clips)
