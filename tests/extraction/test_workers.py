"""Clips spread over processes, and over real clusters of Dask and Ray, a worker of which is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
from samples import write_palm_folder

from palm_cache.errors import ClusterError, EncoderError, ParameterError
from palm_cache.extraction import work
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.extract import extract
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.extraction.workers import embed_elsewhere
from palm_cache.params import Recipe, Resources
from palm_cache.store.features import FeatureStore
from palm_cache.store.fingerprint import fingerprint
from palm_cache.types import Clips

N_CLIPS = 384


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_palm_folder(tmp_path_factory.mktemp("spread") / "Tones", train=172, test=20)


@pytest.fixture(scope="module")
def alone(folder: Path) -> FeatureStore:
    """What this process alone makes of the folder."""
    out = folder.parent / "alone" / "mini.zarr"
    extract(read(folder), "mini", out)
    return FeatureStore(out)


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[tuple[str, list[int]]]:
    """The address of a cluster of two processes on this machine, and their process ids."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        with distributed.Client(cluster) as client:
            pids = list(client.run(os.getpid).values())
        yield cluster.scheduler_address.replace("tcp://", "dask://"), pids


def assert_alike(out: Path, alone: FeatureStore) -> None:
    mine, theirs = FeatureStore(out).read(), alone.read()
    np.testing.assert_allclose(mine.audio, theirs.audio, atol=1e-5)
    assert mine.digest == theirs.digest
    assert FeatureStore(out).problems() == []


@pytest.mark.slow
def test_processes_go_on_with_an_encoder_and_end_before_another(folder: Path, tmp_path: Path) -> None:
    def workers(name: str, batch_size: int) -> set[int | None]:
        resources = Resources(device="cpu", jobs=2, batch_size=batch_size)
        out = tmp_path / name / "features" / "Tones" / "mini.zarr"
        assert extract(read(folder), "mini", out, resources=resources).embedded == N_CLIPS
        return {process.pid for process in multiprocessing.active_children()}

    first = workers("a", 4)
    assert first
    assert workers("b", 4) == first
    assert not workers("c", 3) & first


@pytest.mark.slow
def test_a_process_that_is_killed_is_one_line_and_what_is_embedded_is_kept(
    folder: Path, tmp_path: Path
) -> None:
    """As the system does where memory runs out."""

    def kill(*_: object) -> None:
        for process in multiprocessing.active_children():
            assert process.pid
            os.kill(process.pid, signal.SIGKILL)

    out, resources = tmp_path / "mini.zarr", Resources(device="cpu", jobs=2)
    with pytest.raises(ClusterError, match=r"a process of jobs died \(SIGKILL.*run the same command again"):
        extract(read(folder), "mini", out, resources=resources, progress=kill)
    assert extract(read(folder), "mini", out, resources=resources).embedded < N_CLIPS


@pytest.mark.slow
def test_a_process_whose_memory_fills_little_by_little_goes_on(tmp_path: Path) -> None:
    def grow(megabytes: int, meeting: Path) -> int:
        """Wait for the other process: else one of them may do the work of both."""
        (meeting / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(os.listdir(meeting)) < 2 and time.monotonic() < deadline:  # noqa: PTH208  # what is sent has no names of this module
            time.sleep(0.1)
        time.sleep(1.1)  # joblib looks once a second
        vars(sys).setdefault("held", []).append(b"x" * (megabytes << 20))
        return os.getpid()

    pids = []
    with joblib.Parallel(2, initializer=work.follow, initargs=(os.getpid(), "growing")) as processes:
        for number, size in enumerate((0, 400, 0)):
            (meeting := tmp_path / str(number)).mkdir()
            pids.append(set(processes([joblib.delayed(grow)(size, meeting)] * 2)))
    assert pids[0] == pids[1] == pids[2]


@pytest.mark.filterwarnings("ignore")  # of Dask, about what it closes
@pytest.mark.slow
def test_a_dask_cluster_makes_the_same_store_though_a_worker_is_killed(
    folder: Path, alone: FeatureStore, dask_cluster: tuple[str, list[int]], tmp_path: Path
) -> None:
    address, pids = dask_cluster
    out = tmp_path / "features" / "Tones" / "mini.zarr"
    killed_at: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if any(out.parent.glob(".cache/audio-*/*.safetensors")):
                os.kill(pids[0], signal.SIGKILL)
                killed_at.append(1)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    done = extract(read(folder), "mini", out, resources=Resources(cluster=address))
    killer.join()
    assert killed_at == [1]
    assert (done.n_clips, done.failures) == (N_CLIPS, ())
    assert_alike(out, alone)


@pytest.mark.filterwarnings("ignore")  # of Dask, about what it closes
@pytest.mark.slow
def test_what_goes_wrong_on_a_cluster_is_told_like_at_home(
    folder: Path, dask_cluster: tuple[str, list[int]], tmp_path: Path
) -> None:
    address, _ = dask_cluster
    table = read(folder)
    (folder / "audios" / "odd.wav").write_bytes(b"<html>")
    odd = type(table.clips[0])(folder / "audios" / "odd.wav", table.clips[0].name, table.clips[0].label)
    spoilt = replace(table, clips=Clips.of((odd, *table.clips[1:])))
    strict = Resources(cluster=address, on_error="fail")
    with pytest.raises(Exception, match="cannot be decoded: format not recognised; mend or remove"):
        extract(spoilt, "mini", tmp_path / "spoilt.zarr", resources=strict)
    done = extract(spoilt, "mini", tmp_path / "spoilt.zarr", resources=Resources(cluster=address))
    assert [name for name, *_ in done.failures] == [table.clips[0].name]


@pytest.mark.filterwarnings("ignore")  # of Dask, about what it has lost
@pytest.mark.slow
def test_one_dask_worker_does_all_and_a_scheduler_that_dies_is_one_line(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    address = f"127.0.0.1:{free_port()}"
    scheduler, worker = (
        subprocess.Popen(
            [Path(sys.executable).with_name("dask"), *words, "--no-dashboard"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words in (
            ("scheduler", "--host", "127.0.0.1", "--port", address.partition(":")[2]),
            ("worker", address, "--nthreads", "1", "--no-nanny"),
        )
    )

    def kill() -> None:
        while not list(tmp_path.glob(".cache/audio-*/*.safetensors")) and worker.poll() is None:
            time.sleep(0.005)
        scheduler.kill()

    work.forget()
    threading.Thread(target=kill).start()
    resources = Resources(cluster=f"dask://{address}")
    try:
        with pytest.raises(ClusterError, match=r"the scheduler is gone; .* run the same command again"):
            extract(read(folder), "mini", tmp_path / "mini.zarr", resources=resources)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert not work._shared  # nothing was embedded here


@contextmanager
def ray_cluster(*resources: str) -> Iterator[str]:
    """Give the address of a Ray cluster on this machine."""
    ports = [free_port(), free_port()]
    words = "start --head --block --node-ip-address 127.0.0.1 --include-dashboard=false"
    head = subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"),
            *words.split(),
            *resources,
            f"--port={ports[0]}",
            f"--ray-client-server-port={ports[1]}",
        ],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", ports[1]), 1):
                break
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{ports[1]}"
    finally:
        head.terminate()
        head.wait(60)


def free_port() -> int:
    """Return a port that is neither in use nor among those that Ray's own processes take."""
    while True:
        port = random.randint(20_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@pytest.mark.filterwarnings("ignore")  # of Ray
@pytest.mark.slow
@pytest.mark.parametrize("resources", [("--num-cpus=1",), ("--num-cpus=2", "--num-gpus=1")])
def test_a_ray_cluster_makes_the_same_store(
    resources: tuple[str, ...], folder: Path, alone: FeatureStore, tmp_path: Path
) -> None:
    """Be it of one worker, or of GPUs, which Ray takes everybody's word for."""
    pytest.importorskip("ray")
    out = tmp_path / "features" / "Tones" / "mini.zarr"
    work.forget()
    with ray_cluster(*resources) as address:
        done = extract(read(folder), "mini", out, resources=Resources(cluster=address))
    assert (done.embedded, done.failures) == (N_CLIPS, ())
    assert_alike(out, alone)
    assert not work._shared  # nothing was embedded here


@pytest.mark.filterwarnings("ignore")  # of Ray
@pytest.mark.slow
def test_a_ray_worker_that_is_killed_costs_nothing_and_errors_are_those_of_home(
    folder: Path, alone: FeatureStore, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "features" / "Tones" / "mini.zarr"
    killed: list[int] = []

    def kill(*_: object) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if not killed and (process / "cmdline").read_bytes().startswith(b"ray::embed"):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))

    with ray_cluster("--num-cpus=2") as address:
        resources = Resources(cluster=address)
        done = extract(read(folder), "mini", out, resources=resources, progress=kill)
        assert (len(killed), done.n_clips, done.failures) == (1, N_CLIPS, ())
        assert_alike(out, alone)
        other = work.Worker(tmp_path / "cache", "mini", "other", Recipe(), resources, "session")
        with pytest.raises(EncoderError, match=r"^encoder 'mini': a worker loaded other weights"):
            list(embed_elsewhere(other, read(folder).clips.numbered(range(1)), 1))
    with pytest.raises(ClusterError, match=r"ray://127\.0\.0\.1:\d+: cannot be reached; start one with"):
        extract(read(folder), "mini", tmp_path / "x.zarr", resources=resources)


def test_a_cluster_that_is_not_there_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("palm_cache.extraction.workers.SECONDS_TO_CONNECT", 1)
    with pytest.raises(ClusterError, match=r"dask://127\.0\.0\.1:9: cannot be reached; start one with"):
        extract(read(folder), "mini", tmp_path / "x.zarr", resources=Resources(cluster="dask://127.0.0.1:9"))


@pytest.mark.parametrize(
    "address",
    [
        *("dask://", "dask://host", "tcp://host:1", "spark://host:1", "dask://h:p", "dask://h:65536"),
        *("dask://me:secret@h:1", "dask://a:b:1"),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_loaded(address: str) -> None:
    with pytest.raises(ParameterError, match="is not dask://HOST:PORT or ray://HOST:PORT"):
        Resources(cluster=address)


def test_jobs_and_cluster_exclude_each_other() -> None:
    with pytest.raises(ParameterError, match="its workers are the processes"):
        Resources(cluster="dask://host:1", jobs=2)


def test_processes_spread_evenly_over_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work.tempfile, "gettempdir", lambda: str(tmp_path))
    devices = ("cuda:0", "cuda:1", "cuda:2")
    with ExitStack() as processes:
        taken = [processes.enter_context(work.own_device(devices)) for _ in range(6)]
    assert sorted(taken) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1", "cuda:2", "cuda:2"]
    assert len(set(taken[:3])) == 3


def test_a_worker_that_lets_go_of_its_encoder_lets_go_of_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work.tempfile, "gettempdir", lambda: str(tmp_path))
    devices, taken = ("cuda:0", "cuda:1"), []

    def note(spec: str, recipe: Recipe, *, device: str) -> Encoder:
        taken.append(device)
        return load_encoder(spec, recipe, device="cpu")

    monkeypatch.setattr(work, "load_encoder", note)
    right = fingerprint(audio_recipe(load_encoder("mini"), Recipe()))
    for wanted in ("of other weights", right, "of other weights", right):
        worker = work.Worker(
            tmp_path / "cache", "mini", wanted, Recipe(), Resources(device=",".join(devices)), "session"
        )
        with suppress(EncoderError):
            worker.embed([])
        work.forget()
    assert taken == ["cuda:0"] * 4
