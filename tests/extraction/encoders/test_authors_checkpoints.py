"""LAION's and Microsoft's checkpoints, against numbers recorded from their own packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import check_encoder
from recorded import Record, Tokens
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import BertTokenizerFast, GPT2TokenizerFast

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.msclap import GPT2
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.params import Recipe
from pipelines.benchmarks.random_clap import train_tokenizer
from pipelines.encoders.fill import waveform
from pipelines.encoders.parity import IDS, SECONDS

NAMES = ("laion", "laion-fused", "msclap2022", "msclap2023")
KINDS = {"laion": "roberta", "laion-fused": "roberta", "msclap2022": "bert", "msclap2023": "gpt"}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small tokenizers of the right kinds."""
    folder = tmp_path_factory.mktemp("tokenizers")
    train_tokenizer(["dog", "church bell"], 300).save_pretrained(folder / "roberta")
    letters = ["!", *sorted({*pre_tokenizers.ByteLevel.alphabet()} - {"!"})]
    vocabulary = {piece: number for number, piece in enumerate([*letters, "do", "dog", "<|endoftext|>"])}
    GPT2TokenizerFast(vocab=vocabulary, merges=[("d", "o"), ("do", "g")]).save_pretrained(folder / "gpt")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "church", "bell", "rain", "the", "."]
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(
        folder / "bert"
    )
    return {path.name: path for path in folder.iterdir()}


def save(name: str, state: dict[str, Tensor], file: Path) -> Path:
    """Save a state dict as the authors do."""
    if name.startswith("laion"):
        prefixed = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "name": "x", "state_dict": prefixed, "loss": np.float64(0.25)}, file)
    else:
        torch.save({"model": state}, file)
    return file


def load(name: str, file: Path, tokenizers: dict[str, Path]) -> Encoder:
    kind = KINDS[name]
    spec = f"{'laion' if kind == 'roberta' else 'msclap'}:{file}"
    return load_encoder(spec, Recipe(tokenizer=str(tokenizers[kind])), device="cpu")


@pytest.fixture(scope="module", params=NAMES)
def loaded(
    request: pytest.FixtureRequest, tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Record, Encoder]:
    name: str = request.param
    record = Record(name)
    file = save(name, record.state(), tmp_path_factory.mktemp(name) / "weights.pt")
    encoder = load(name, file, tokenizers)
    file.unlink()
    return name, record, encoder


def test_it_keeps_the_contract(loaded: tuple[str, Record, Encoder]) -> None:
    name, _, encoder = loaded
    check_encoder(encoder)
    seconds = {"laion": 10, "laion-fused": 30, "msclap2022": 5, "msclap2023": 7}[name]
    assert encoder.window.samples == seconds * encoder.sample_rate
    assert encoder.dim == (512 if name.startswith("laion") else 1024)


def test_sounds_are_the_packages(loaded: tuple[str, Record, Encoder]) -> None:
    name, record, encoder = loaded
    for seconds, expected in zip(SECONDS[name], record.audio, strict=True):
        sound = torch.from_numpy(waveform(seconds, encoder.sample_rate))
        vector = encoder.embed_audio(cut_windows(sound, encoder.window)[None])[0]
        assert 1 - torch.cosine_similarity(vector.double(), expected.double(), dim=0) < 1e-6
        # Microsoft's vectors are 32 long.
        torch.testing.assert_close(vector, expected, atol=1e-5 * float(expected.norm()), rtol=0)


def test_prompts_are_the_packages(
    loaded: tuple[str, Record, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, record, encoder = loaded
    kind = KINDS[name]
    end = " <|endoftext|>" if kind == "gpt" else ""
    known = {f"prompt {number}{end}": ids for number, ids in enumerate(IDS[kind])}
    tower: Any = encoder.text_tower()
    monkeypatch.setattr(tower, "_tokenizer", Tokens(known, 1 if kind == "roberta" else 0))
    vectors = encoder.embed_text([f"prompt {number}" for number in range(len(known))])
    length = float(record.text.norm(dim=1).min())
    torch.testing.assert_close(vectors, record.text, atol=1e-5 * length, rtol=0)


def test_what_a_prompt_has_and_what_is_read_is_said_in_tokens_of_the_model(
    loaded: tuple[str, Record, Encoder],
) -> None:
    name, _, encoder = loaded
    limit = 100 if name == "msclap2022" else 77
    with pytest.raises(EncoderError, match=rf"tokens, .* reads {limit}; shorten it"):
        encoder.embed_text(["dog " * 200])


@pytest.mark.parametrize("name", ["laion", "msclap2023"])
def test_all_wrong_weights_are_named_in_one_error(
    name: str, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    state = Record(name).state()
    audio = "audio_branch." if name == "laion" else "audio_encoder.base.htsat."
    text = "text_branch." if name == "laion" else "caption_encoder.base."
    layer = f"{text}encoder.layer.1.attention.self.key.bias" if name == "laion" else f"{text}h.1.ln_1.bias"
    del state[f"{audio}bn0.weight"], state[layer]
    # LAION's hold nothing but CLAP; Microsoft's hold what it was trained with, too.
    extra = "adapter.extra" if name == "laion" else f"{audio}extra"
    state[extra] = torch.zeros(1)
    state[f"{audio}norm.bias"] = torch.zeros(3)
    with pytest.raises(EncoderError) as caught:
        load(name, save(name, state, tmp_path / "damaged.pt"), tokenizers)
    message = str(caught.value)
    assert (
        f"missing: {audio}bn0.weight, {layer}; surplus: {extra}; misshaped: {audio}norm.bias (3,)" in message
    )
    assert "\n" not in message


def small(*names: str) -> dict[str, Tensor]:
    return dict.fromkeys(names, torch.zeros(1))


FILES: dict[str, Any] = {
    "laion": {"state_dict": small("module.audio_branch.bn0.weight", "module.text_branch.x")},
    "msclap": {"model": small("audio_encoder.base.htsat.x", "caption_encoder.base.h.0.x")},
    "msclap of 2022": {"model": small("audio_encoder.base.conv_block1.x", "caption_encoder.base.x")},
    "pengi": {"model": small("module.audio_encoder.x", "module.caption_encoder.base.encoder.layers.0.x")},
    "clap": small("audio_model.audio_encoder.x", "text_model.x"),
    "pe-audio": small("audio_encoder.x", "text_model.x", "text_audio_head.x"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("spec", ["laion", "msclap", "pengi"])
def test_another_models_file_is_named(
    spec: str, file: str, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    right = file.partition(" ")[0]
    if spec == right:
        return
    torch.save(FILES[file], tmp_path / "x.pt")
    with pytest.raises(EncoderError, match=rf"^{spec}:.*: these are weights for .*: use {right}:") as caught:
        load_encoder(f"{spec}:{tmp_path / 'x.pt'}", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["laion", "msclap"])
def test_code_in_a_checkpoint_is_never_run(spec: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("an object of a checkpoint was executed",))

    torch.save({"state_dict": {"x": Trap()}, "model": {"x": Trap()}}, tmp_path / "x.pt")
    with pytest.raises(EncoderError, match="not a checkpoint of plain tensors"):
        load_encoder(f"{spec}:{tmp_path / 'x.pt'}", device="cpu")


@pytest.mark.parametrize(
    ("name", "wrong"), [("laion", "bert"), ("msclap2022", "gpt"), ("msclap2023", "bert")]
)
def test_another_models_tokenizer_is_refused(
    name: str, wrong: str, tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    file = save(name, Record(name).state(), tmp_path / "weights.pt")
    spec = f"{'laion' if name == 'laion' else 'msclap'}:{file}"
    with pytest.raises(
        EncoderError, match=r"^tokenizer .*(not BERT's|not GPT-2's|not RoBERTa's|cannot load its)"
    ):
        load_encoder(spec, Recipe(tokenizer=str(tokenizers[wrong])), device="cpu")


def test_an_exclamation_mark_moves_gpts_place_as_in_the_original(tokenizers: dict[str, Path]) -> None:
    tokenizer = GPT2.load(str(tokenizers["gpt"]))
    vocabulary = json.loads((tokenizers["gpt"] / "tokenizer.json").read_text())["model"]["vocab"]
    dog, blank, end = (vocabulary[piece] for piece in ("dog", "Ġ", "<|endoftext|>"))
    assert tokenizer(["dog <|endoftext|>", "dog! <|endoftext|>"])["input_ids"] == [
        [dog, blank, end],
        [dog, 0, blank, end],
    ]
