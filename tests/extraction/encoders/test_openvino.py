from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import check_encoder, make_waveforms
from samples import write_palm_folder, write_tone
from tiny_clap import save_tiny_clap
from torch import Tensor

from palm_cache.errors import EncoderError, StaleStoreError
from palm_cache.extraction import extract as stage_one
from palm_cache.extraction.datasets.palm_layout import read as read_table
from palm_cache.extraction.encoders import openvino as runtime
from palm_cache.extraction.encoders.base import Encoder, full_identity
from palm_cache.extraction.encoders.registry import load_encoder, load_text_tower, recorded_options
from palm_cache.extraction.runtime import check_runtime
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip

pytest.importorskip("openvino", reason="OpenVINO is not installed")


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
    encoder, torchs = load_encoder(spec, runtime="openvino"), load_encoder(spec)
    check_encoder(encoder)
    for windows in (1, 3) if name == "mini" else (1,):
        waveforms = make_waveforms(encoder, 5, windows)
        embeddings = encoder.embed_audio(waveforms)
        torch.testing.assert_close(embeddings, torchs.embed_audio(waveforms), atol=1e-5, rtol=0)
        # Whether it was converted just now or is read from where it was kept.
        assert torch.equal(load_encoder(spec, runtime="openvino").embed_audio(waveforms), embeddings)


def test_it_is_another_class_of_embeddings_that_is_known_again(tiny_clap: str) -> None:
    encoder, torchs = load_encoder(tiny_clap, runtime="openvino"), load_encoder(tiny_clap)
    identity = full_identity(encoder)
    assert identity["runtime"] == "openvino " + ".".join(version("openvino").split(".")[:2])
    assert {key for key in identity if identity[key] != full_identity(torchs).get(key)} == {"runtime"}
    assert recorded_options(identity) == {
        "precision": "fp32",
        "runtime": "openvino",
        "compiled": False,
        "long": "crop",
    }


def test_a_converted_tower_is_kept_and_a_damaged_one_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    waveforms = make_waveforms(load_encoder("mini"), 2)

    def embed() -> Tensor:
        return load_encoder("mini", runtime="openvino").embed_audio(waveforms)

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
    encoder = load_encoder("mini", runtime="openvino")
    waveforms = make_waveforms(encoder, 8)
    alone = [encoder.embed_audio(one[None]) for one in waveforms]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder.embed_audio, waveforms[:, None].unbind()))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_bf16_is_near_or_refused_by_a_cpu_that_has_none() -> None:
    if "BF16" not in runtime._import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EncoderError, match=r"this CPU .+ does not compute in bf16; use --precision"):
            load_encoder("mini", runtime="openvino", precision="bf16")
        return
    encoder = load_encoder("mini", runtime="openvino", precision="bf16")
    assert runtime.cosines_to_torch(encoder, make_waveforms(encoder, 3)).min() > 0.999
    assert encoder.identity["precision"] == "bf16"


def test_a_gpu_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"cuda:99|is for CPUs"):
        load_encoder("mini", runtime="openvino", device="cuda:99")


def test_without_openvino_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(runtime, "version", missing)
    with pytest.raises(EncoderError, match=r"not installed; pip install 'palm-cache\[openvino\]'"):
        load_encoder("mini", runtime="openvino")


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """OpenVINO's telemetry leaves its mark in the home folder before it sends anything."""
    code = (
        "from palm_cache.extraction.encoders.registry import load_encoder\n"
        "import torch\n"
        "load_encoder('mini', runtime='openvino').embed_audio(torch.ones(1, 1, 32000))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [".cache"]


def test_a_dataset_is_extracted_and_its_store_belongs_to_the_runtime(tmp_path: Path) -> None:
    table = read_table(write_palm_folder(tmp_path / "Tones"))
    out = tmp_path / "openvino.zarr"
    done = stage_one.extract(table, "mini", out, ExtractParams(runtime="openvino"))
    assert done.embedded == 12
    assert any(note.endswith("agrees with torch: least cosine 1.000000 over 8 clips") for note in done.notes)
    assert stage_one.extract(table, "mini", out, ExtractParams(runtime="openvino")).notes == table.notes
    torchs = tmp_path / "torch.zarr"
    stage_one.extract(table, "mini", torchs, ExtractParams())
    np.testing.assert_allclose(FeatureStore(out).read_chunk(0), FeatureStore(torchs).read_chunk(0), atol=1e-5)
    with pytest.raises(StaleStoreError, match=r"made with runtime openvino \S+ instead of torch"):
        stage_one.extract(table, "mini", out, ExtractParams())
    load_text_tower(FeatureStore(out).header, device="cpu", tokenizer="")


def test_a_runtime_that_gives_other_embeddings_is_refused(tmp_path: Path) -> None:
    encoder: Encoder = load_encoder("mini", runtime="openvino")
    write_tone(tmp_path / "tone.wav", 440)
    clips = [Clip(tmp_path / "gone.wav", "gone.wav", 0), Clip(tmp_path / "tone.wav", "tone.wav", 0)]
    assert "over 1 clips" in check_runtime(encoder, clips)[0]
    wrong = encoder.audio_tower
    assert isinstance(wrong, runtime.OpenVinoTower)
    wrong.torch_tower = type("Turned", (torch.nn.Module,), {"forward": lambda _, mel: -inner(mel)})()
    inner = load_encoder("mini").audio_tower
    with pytest.raises(EncoderError, match=r"tone\.wav has cosine -?\d\.\d+ to torch in fp32, less"):
        check_runtime(encoder, clips)
