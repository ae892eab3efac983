"""Against transformers' own classes with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts import PROMPTS, check_encoder
from tiny_clap import WORDS
from transformers import PeAudioConfig, PeAudioFeatureExtractor, PeAudioFrameLevelModel, PeAudioModel

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders import pe_audio
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from pipelines.benchmarks.random_clap import train_tokenizer

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CONFIG: dict[str, Any] = {
    "text_config": {
        **SMALL,
        "vocab_size": 400,
        "pad_token_id": 1,
        "cls_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "max_position_embeddings": 64,
        "model_type": "modernbert",
    },
    "audio_config": {
        **SMALL,
        "head_dim": 16,
        "dac_config": {
            "model_type": "dac",
            "encoder_hidden_size": 4,
            "codebook_dim": 8,
            "downsampling_ratios": [2, 8, 10, 12],
            "hidden_size": 64,
        },
    },
}


@pytest.fixture(autouse=True)
def shorter_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe_audio, "LONGEST_SECONDS", 1)


@pytest.fixture(scope="module", params=[PeAudioModel, PeAudioFrameLevelModel])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pe")
    model = request.param(PeAudioConfig(**CONFIG)).eval()
    for weight in model.parameters():  # livelier than fresh ones, which answer to every sound alike
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    model.save_pretrained(folder)
    PeAudioFeatureExtractor().save_pretrained(folder)
    train_tokenizer(WORDS).save_pretrained(folder)
    return model, folder


def load(folder: Path) -> Encoder:
    return load_encoder(f"pe-audio:{folder}", device="cpu")


def test_it_keeps_the_contract(made: tuple[Any, Path]) -> None:
    encoder = load(made[1])
    check_encoder(encoder)
    assert (encoder.dim, encoder.sample_rate, encoder.window.padding) == (32, 48_000, "nan")


def test_vectors_are_transformers_own(made: tuple[Any, Path]) -> None:
    model, folder = made
    encoder = load(folder)
    tokenizer, extractor = train_tokenizer(WORDS), PeAudioFeatureExtractor()
    inputs = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    for samples in (1, 700, 1920, 40_001):
        sound = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
        given = extractor(sound.numpy(), sampling_rate=48_000, return_tensors="pt")
        with torch.no_grad():
            output = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                input_values=given["input_values"],
            )
        expected = output.audio_embeds
        expected = expected.mean(dim=1) if expected.ndim == 3 else expected
        vector = encoder.embed_audio(cut_windows(sound, encoder.window)[None])
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.embed_text(PROMPTS), output.text_audio_embeds, atol=1e-5, rtol=0)


def test_a_tokenizer_without_a_start_token_is_refused(made: tuple[Any, Path], tmp_path: Path) -> None:
    """Open places stand behind it, and the text model pools there."""
    place = Path(shutil.copytree(made[1], tmp_path / "copy"))
    changes = {"tokenizer": {"post_processor": None}, "tokenizer_config": {"tokenizer_class": None}}
    for name, change in changes.items():
        file = place / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(EncoderError, match="another model's tokenizer: it puts no start token before a text"):
        load(place)


def test_what_it_is_not_is_named(made: tuple[Any, Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(made[1], tmp_path / "copy"))
    file = place / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hop_length": 0}))
    with pytest.raises(EncoderError, match="damaged: sampling_rate 48000, hop_length 0"):
        load(place)
    (place / "config.json").write_text('{"model_type": "clap"}')
    with pytest.raises(EncoderError, match="holds a model of type 'clap'; try clap:"):
        load(place)
    with pytest.raises(EncoderError, match="holds a model of type 'pe_audio'; try pe-audio:"):
        load_encoder(f"hf:{made[1]}", device="cpu")
