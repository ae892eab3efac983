from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples import write_palm_folder, write_tone

from palm_cache.errors import EncoderError, StaleStoreError
from palm_cache.extraction import extract as stage_one
from palm_cache.extraction.datasets.palm_layout import read as read_table
from palm_cache.extraction.encoders import openvino as runtime
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recorded import load_text_tower
from palm_cache.extraction.runtime import check_runtime
from palm_cache.params import Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.store.features import FeatureStore
from palm_cache.types import Clip

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def test_a_dataset_is_extracted_and_its_store_belongs_to_the_runtime(tmp_path: Path) -> None:
    table = read_table(write_palm_folder(tmp_path / "Tones"))
    out = tmp_path / "openvino.zarr"
    done = stage_one.extract(table, "mini", out, Recipe(runtime="openvino"))
    assert done.embedded == 12
    assert any(note.endswith("agrees with torch: lowest cosine 1.000000 over 8 clips") for note in done.notes)
    assert stage_one.extract(table, "mini", out, Recipe(runtime="openvino")).embedded == 0
    torchs = tmp_path / "torch.zarr"
    stage_one.extract(table, "mini", torchs, Recipe())
    np.testing.assert_allclose(FeatureStore(out).audio(), FeatureStore(torchs).audio(), atol=1e-5)
    with pytest.raises(StaleStoreError, match=r"is stale: no more runtime openvino \S+; make it anew"):
        stage_one.extract(table, "mini", out, Recipe())
    load_text_tower(FeatureStore(out).header, LoadingParams(device="cpu", tokenizer=""))


def test_a_runtime_that_gives_other_embeddings_is_refused(tmp_path: Path) -> None:
    encoder: Encoder = load_encoder("mini", Recipe(runtime="openvino"))
    write_tone(tmp_path / "tone.wav", 440)
    clips = [Clip(tmp_path / "gone.wav", "gone.wav", 0), Clip(tmp_path / "tone.wav", "tone.wav", 0)]
    assert "over 1 clips" in check_runtime(encoder, clips, Recipe())[0]
    wrong = encoder.audio_tower
    assert isinstance(wrong, runtime.OpenVinoTower)
    wrong.torch_tower = type("Turned", (torch.nn.Module,), {"forward": lambda _, mel: -inner(mel)})()
    inner = load_encoder("mini").audio_tower
    with pytest.raises(EncoderError, match=r"tone\.wav has cosine -?\d\.\d+ to torch in fp32, less"):
        check_runtime(encoder, clips, Recipe())
