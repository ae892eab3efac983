from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from contracts import check_encoder, make_waveforms
from tiny_clap import save_tiny_clap
from torch import Tensor

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders import openvino as runtime
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe, recipe_of
from palm_cache.extraction.runtime import cosines_to_torch
from palm_cache.params import Recipe

pytest.importorskip("openvino", reason="OpenVINO is not installed")

OPENVINO = Recipe(runtime="openvino")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def keep_towers_here(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))


@pytest.fixture(scope="module")
def tiny_clap(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"clap:{save_tiny_clap(tmp_path_factory.mktemp('clap'))}"


@pytest.mark.parametrize("name", ["mini", "clap"])
def test_openvino_keeps_the_contract_and_gives_torchs_embeddings(name: str, tiny_clap: str) -> None:
    spec = tiny_clap if name == "clap" else "mini"
    encoder, torchs = load_encoder(spec, OPENVINO), load_encoder(spec)
    check_encoder(encoder)
    for windows in (1, 3) if name == "mini" else (1,):
        waveforms = make_waveforms(encoder, 5, windows)
        embeddings = encoder.embed_audio(waveforms)
        torch.testing.assert_close(embeddings, torchs.embed_audio(waveforms), atol=1e-5, rtol=0)
        # Whether it was converted just now or is read from where it was kept.
        assert torch.equal(load_encoder(spec, OPENVINO).embed_audio(waveforms), embeddings)


def test_it_is_another_class_of_embeddings_that_is_known_again(tiny_clap: str) -> None:
    encoder, torchs = load_encoder(tiny_clap, OPENVINO), load_encoder(tiny_clap)
    identity = encoder.identity
    assert identity["runtime"] == "openvino " + ".".join(version("openvino").split(".")[:2])
    assert {key for key in identity if identity[key] != torchs.identity.get(key)} == {"runtime"}
    assert encoder.text_identity == torchs.text_identity
    assert recipe_of(audio_recipe(encoder, OPENVINO)) == OPENVINO


def test_a_converted_tower_is_kept_and_a_damaged_one_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    waveforms = make_waveforms(load_encoder("mini"), 2)

    def embed() -> Tensor:
        return load_encoder("mini", OPENVINO).embed_audio(waveforms)

    expected = embed()
    (made,) = (tmp_path / "palm-cache" / "openvino").iterdir()
    stamp = made.stat().st_mtime_ns
    assert torch.equal(embed(), expected)
    assert made.stat().st_mtime_ns == stamp
    (made / "tower.xml").write_text("<net>")
    for _ in range(2):  # converted for this time, then to be kept again
        assert torch.equal(embed(), expected)
    assert made.stat().st_mtime_ns > stamp
    # Nowhere to keep it: it works all the same.
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(embed(), expected)


def test_workers_do_not_disturb_each_other() -> None:
    encoder = load_encoder("mini", OPENVINO)
    waveforms = make_waveforms(encoder, 8)
    alone = [encoder.embed_audio(one[None]) for one in waveforms]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder.embed_audio, waveforms[:, None].unbind()))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_bf16_is_near_or_refused_by_a_cpu_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no other precision has had the tower converted
    if "BF16" not in runtime._import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(
            EncoderError, match=r"this CPU .+ does not compute in bf16; set precision to fp32"
        ):
            load_encoder("mini", Recipe(runtime="openvino", precision="bf16"))
        return
    encoder = load_encoder("mini", Recipe(runtime="openvino", precision="bf16"))
    assert cosines_to_torch(encoder, make_waveforms(encoder, 3)).min() > 0.999
    assert encoder.identity["precision"] == "bf16"


def test_a_gpu_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"cuda:99|is for CPUs"):
        load_encoder("mini", OPENVINO, device="cuda:99")


def test_without_openvino_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(runtime, "version", missing)
    with pytest.raises(EncoderError, match=r"not installed; pip install 'palm-cache\[openvino\]'"):
        load_encoder("mini", OPENVINO)


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """OpenVINO's telemetry leaves its mark in the home folder before it sends anything."""
    code = (
        "from palm_cache.params import Recipe\n"
        "from palm_cache.extraction.encoders.registry import load_encoder\n"
        "import torch\n"
        "load_encoder('mini', Recipe(runtime='openvino')).embed_audio(torch.ones(1, 1, 32000))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [".cache"]
