"""Clips spread over processes: of this machine, or of a Dask or Ray cluster that is running already.

What travels is the paths of some clips, there, and what became of them, back. Every worker loads the encoder
once and writes into the cache itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from palm_cache.errors import ClusterError, ParameterError
from palm_cache.extraction.encoders.registry import split_spec
from palm_cache.extraction.work import ClipReport, Numbered, Worker, follow

SECONDS_TO_CONNECT = 30

TASK_CLIPS = 512
"""Clips that travel together, at most: enough batches to keep a worker busy, few enough to share them out."""

TASKS_A_WORKER = 8
"""Tasks that are sent to a cluster at once, for each of its cores."""

Results = Iterator[tuple[list[ClipReport], list[str]]]
"""What became of the clips of a task, and what the user should know."""


def embed_elsewhere(worker: Worker, clips: Sequence[Numbered], n_processes: int) -> Results:
    """Have clips embedded by other processes, in any order.

    Parameters
    ----------
    n_processes : int
        Of this machine; a cluster has its own.

    Raises
    ------
    ParameterError
        If it is no such address, or its library is not installed.
    ClusterError
        If the cluster cannot be reached, has no workers, or loses them again and again; or one of the
        processes of this machine dies.
    PalmCacheError
        Whatever embedding raises. What is finished stays.
    """
    sent, cluster = _seen_from_everywhere(worker), worker.resources.cluster
    if cluster.startswith("dask:"):
        yield from _on_dask(cluster, sent, clips)
        return
    if cluster:
        yield from _on_ray(cluster, sent, clips)
        return
    # For an embedder of another key joblib starts other processes; former ones end with their encoder.
    begin = {"initializer": follow, "initargs": (os.getpid(), sent.embedder_key)}
    calls = map(joblib.delayed(sent.embed), _tasks(clips, n_processes))
    try:
        yield from joblib.Parallel(n_processes, return_as="generator_unordered", **begin)(calls)
    except TerminatedWorkerError as error:
        died = str(error).partition("{")[2].partition("}")[0] or "killed"
        raise ClusterError(
            f"a process of `jobs` died ({died}); had it enough memory? What is embedded is kept: run the "
            "same command again"
        ) from error


def _on_dask(cluster: str, worker: Worker, clips: Sequence[Numbered]) -> Results:
    """Share clips among the workers of a Dask cluster, be it one: joblib would not send it anything."""
    address = cluster.removeprefix("dask://")
    with _installed("dask"):
        from distributed import CancelledError, Client, KilledWorker, as_completed
        from distributed.comm.core import CommClosedError
    try:
        client = Client(f"tcp://{address}", timeout=SECONDS_TO_CONNECT)
    except OSError as error:
        raise ClusterError(f"{cluster}: cannot be reached; start one with: dask scheduler") from error
    try:
        with client:
            client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
            workers = sum(client.ncores().values())
            tasks, send = _tasks(clips, workers), partial(client.submit, worker.embed, pure=False)
            sent = as_completed(map(send, islice(tasks, TASKS_A_WORKER * workers)))
            for done in sent:
                sent.update(map(send, islice(tasks, 1)))
                yield done.result()
    except TimeoutError as error:
        raise ClusterError(f"{cluster}: has no workers; start some with: dask worker {address}") from error
    except KilledWorker as error:
        raise ClusterError(
            f"{cluster}: {error.allowed_failures + 1} workers died over the same clips; "
            "had they enough memory?"
        ) from error
    except (CancelledError, CommClosedError) as error:  # before or while a result is fetched
        raise ClusterError(
            f"{cluster}: the scheduler is gone; what is embedded is kept: run the same command again"
        ) from error


def _on_ray(cluster: str, worker: Worker, clips: Sequence[Numbered]) -> Results:
    """Share clips among the GPUs of a Ray cluster, or its CPUs where it has none or none is wanted."""
    with _installed("ray"):
        import ray
    try:
        ray.init(cluster, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ClusterError(f"{cluster}: cannot be reached; start one with: ray start --head") from error
    try:
        held = ray.cluster_resources()
        kind = "GPU" if held.get("GPU") and worker.resources.devices != ("cpu",) else "CPU"
        # A task that asks for no GPU sees none.
        embed = ray.remote(num_gpus=int(kind == "GPU"))(Worker.embed)
        workers = int(held.get(kind, 1))
        tasks, send = _tasks(clips, workers), partial(embed.remote, worker)
        sent = list(map(send, islice(tasks, TASKS_A_WORKER * workers)))
        while sent:
            (done,), sent = ray.wait(sent)
            sent += map(send, islice(tasks, 1))
            yield ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # what embedding has raised there
    except ray.exceptions.RayError as error:
        reason = str(error).partition("\n")[0]
        raise ClusterError(f"{cluster}: lost workers again and again: {reason}") from error
    except Exception as error:
        if ray.is_initialized():
            raise
        # A connection that breaks is a bare Exception.
        reason = str(error).partition("\n")[0]
        raise ClusterError(
            f"{cluster}: the connection is lost ({reason}); what is embedded is kept: run the same command "
            "again"
        ) from error
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
    tokenizer = worker.recipe.tokenizer
    if Path(tokenizer).exists():
        tokenizer = str(Path(tokenizer).absolute())
    return replace(
        worker,
        cache=worker.cache.absolute(),
        encoder=f"{name}:{local.absolute()}" if local else worker.encoder,
        recipe=replace(worker.recipe, tokenizer=tokenizer),
    )


def _tasks(clips: Sequence[Numbered], n_workers: int) -> Iterator[tuple[Numbered, ...]]:
    """Share clips out, some to a task, with absolute paths."""
    size = max(1, min(TASK_CLIPS, len(clips) // (4 * n_workers)))
    for start in range(0, len(clips), size):
        some = clips[start : start + size]
        yield tuple((row, replace(clip, file=clip.file.absolute())) for row, clip in some)
