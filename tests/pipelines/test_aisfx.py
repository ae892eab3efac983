from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.registry import load_encoder
from pipelines.encoders.aisfx import CHECKPOINT, Aisfx, Network


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with a network of random weights, saved as the package's is, numbers of numpy beside it."""
    torch.manual_seed(0)
    weights = {f"embedding_net.{name}": value for name, value in Network().state_dict().items()}
    weights["fc.0.0.weight"] = torch.zeros(2, 2)
    torch.save((weights, {"set": (0, np.int64(5))}), tmp_path / "checkpoint.pth")
    file = tmp_path / "aisfx.whl"
    with zipfile.ZipFile(file, "w") as opened:
        opened.write(tmp_path / "checkpoint.pth", CHECKPOINT)
    return file


def test_weights_are_read_from_a_wheel_or_its_checkpoint(wheel: Path) -> None:
    spec = "python:pipelines.encoders.aisfx:Aisfx"
    encoder = load_encoder(f"{spec}:{wheel}", device="cpu")
    assert isinstance(encoder, Aisfx)
    assert (
        encoder.identity == load_encoder(f"{spec}:{wheel.with_name('checkpoint.pth')}", device="cpu").identity
    )
    clips = 0.1 * torch.randn(2, 2, encoder.window.samples, generator=torch.Generator().manual_seed(0))
    vectors = encoder.embed_audio(clips)
    assert vectors.shape == (2, 512)
    # Level does not count: a clip is scaled to its peak.
    torch.testing.assert_close(encoder.embed_audio(0.01 * clips), vectors, atol=1e-4, rtol=1e-4)
    frames = encoder.front_end(clips)
    assert frames.shape == (2, 2, 100, 96)


def test_without_the_package_the_way_to_it_is_named() -> None:
    with pytest.raises(EncoderError, match=r"no weights at .*; pip install --no-deps aisfx==0\.1\.2"):
        load_encoder("python:pipelines.encoders.aisfx:Aisfx:gone.whl", device="cpu")
