"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib.util
import logging
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Browser, find_chromium
from hub_server import Hub, serve
from hypothesis import settings
from samples import make_features, shared
from torch import Tensor
from workshop import Workshop, make_workshop

from palm_cache.extraction.encoders.pengi import PengiEncoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.params import Recipe
from palm_cache.types import Features
from pipelines.benchmarks.random_pengi import make_state, random_state, save_checkpoint

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def python_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the folders that an encoder of somebody's own had Python look for modules in."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder that goes with the tests: what they cache and unpack never lies in the user's own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "HOME": folder,
            "USERPROFILE": folder,
            "XDG_CACHE_HOME": folder / ".cache",
        }.items():
            patch.setenv(name, str(value))
        yield folder


@pytest.fixture
def golden() -> Path:
    """Numbers recorded from the authors' own code, where they are present."""
    return shared("golden")


# Weights of full size go when the module that needs them has run: a process keeps no gigabytes of them.


@pytest.fixture(scope="session")
def pengi_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the weights of a PENGI of full size, drawn at random."""
    return save_checkpoint(tmp_path_factory.mktemp("pengi") / "base.pth", random_state())


@pytest.fixture
def pengi_state(pengi_checkpoint: Path) -> dict[str, Tensor]:
    """The weights of that file, mapped: the system can drop them, and no test holds them for the next."""
    state: dict[str, Tensor] = torch.load(pengi_checkpoint, mmap=True, weights_only=True)["model"]
    return state


@pytest.fixture(scope="module")
def golden_pengi(tmp_path_factory: pytest.TempPathFactory) -> PengiEncoder:
    """PENGI with the weights that the golden numbers were recorded with."""
    folder = shared("golden")
    spec = importlib.util.spec_from_file_location("recipe", folder / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    with np.load(folder / "audio.npz") as audio:
        mel = torch.from_numpy(audio["mel_W"])
    state = make_state(lambda name, shape: torch.from_numpy(np.asarray(recipe.fill(name, shape))), mel)
    file = save_checkpoint(tmp_path_factory.mktemp("pengi") / "base.pth", state, prefix="module.")
    recipe_of_pengi = Recipe(tokenizer=str(folder / "clip-tokenizer"))
    encoder = load_encoder(f"pengi:{file}", recipe_of_pengi, device="cpu")
    assert isinstance(encoder, PengiEncoder)
    file.unlink()
    return encoder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser, where one is installed."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def game_sfx() -> Path:
    """Real, messy audio in the PALM layout, where it is present."""
    return shared("audio/GameSFX")


@pytest.fixture
def features() -> Features:
    return make_features()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Heads on tones, fitted, calibrated and scored; read only."""
    return make_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on this machine, where one is installed."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; credentials and the server's address are in the environment."""
    import boto3

    variables = {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def model_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of models on which the user is logged in as ``me``, and an empty folder to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HF_TOKEN", "hf_of_me")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with serve() as hub:
        hub.tokens["hf_of_me"] = "me"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        files = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield hub
