"""PENGI against the authors' own numbers, where they are, and with weights made on the spot."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import check_encoder, make_waveforms
from tiny_clap import save_tiny_clap
from torch import Tensor
from torch.nn import functional

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.pengi import PUBLICATION, VOCABULARY, PengiEncoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.params import Precision, Recipe
from palm_cache.store.fingerprint import fingerprint
from pipelines.benchmarks.random_pengi import save_checkpoint, save_small_tokenizer


def load(place: Path | str, words: Path, precision: Precision = "fp32", device: str = "cpu") -> PengiEncoder:
    recipe = Recipe(precision=precision, tokenizer=str(words))
    encoder = load_encoder(f"pengi:{place}", recipe, device=device)
    assert isinstance(encoder, PengiEncoder)
    return encoder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clip") / "tokenizer"
    save_small_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def encoder(pengi_checkpoint: Path, words: Path) -> PengiEncoder:
    return load(pengi_checkpoint, words)


@pytest.fixture
def damaged(
    pengi_state: dict[str, Tensor], tmp_path: Path
) -> Callable[[Callable[[dict[str, Tensor]], None]], str]:
    """Return a function that saves a changed checkpoint, small where nothing reads the tensors."""

    def save(change: Callable[[dict[str, Tensor]], None]) -> str:
        change(pengi_state)
        return str(save_checkpoint(tmp_path / "damaged.pth", pengi_state))

    return save


def test_pengi_keeps_the_contract(encoder: PengiEncoder) -> None:
    check_encoder(encoder)
    assert (encoder.dim, encoder.sample_rate, encoder.window.samples) == (1024, 44_100, 308_700)
    assert (encoder.text_tower().token_dim, encoder.window.padding) == (512, "tile")


def test_audio_embeddings_are_the_authors(golden: Path, golden_pengi: PengiEncoder) -> None:
    with np.load(golden / "audio.npz") as record:
        waves = [torch.from_numpy(record[f"wave_{name}"]) for name in record["names"]]
        expected = torch.from_numpy(record["projected"])
        log_mel = torch.from_numpy(record["tone_7s_logmel"])
        tone = torch.from_numpy(record["wave_tone_7s"])
    windows = torch.stack([cut_windows(wave, golden_pengi.window) for wave in waves])
    torch.testing.assert_close(golden_pengi.embed_audio(windows), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(golden_pengi.front_end(tone[None, None])[0], log_mel, atol=2e-3, rtol=0)


def padded(ids: Tensor) -> Tensor:
    """Token ids as the authors have them: end tokens up to 40."""
    return functional.pad(ids, (0, 40 - ids.shape[1]), value=49_407)


@pytest.mark.parametrize("style", ["palm", "zeroshot", "coop"])
def test_text_features_are_the_authors(golden: Path, golden_pengi: PengiEncoder, style: str) -> None:
    with np.load(golden / "text.npz") as record:
        prompts = [str(prompt) for prompt in record[f"{style}_prompts"]]
        expected = torch.from_numpy(record[f"{style}_features1024"])
        ids = torch.from_numpy(record[f"{style}_input_ids"])
        mask = torch.from_numpy(record[f"{style}_attention_mask"])
    torch.testing.assert_close(golden_pengi.embed_text(prompts), expected, atol=5e-5, rtol=0)
    table = golden_pengi.text_tower().token_table(prompts, 0)
    assert torch.equal(padded(table.ids), ids)
    assert torch.equal(functional.pad(table.mask, (0, 40 - table.mask.shape[1])), mask.bool())


def test_token_ids_of_all_class_names_are_the_authors(golden: Path, golden_pengi: PengiEncoder) -> None:
    tower = golden_pengi.text_tower()
    rows = json.loads((golden / "token_ids.json").read_text())
    assert len(rows) == 133
    styles = {"palm": "{c}", "zeroshot": "The is a recording of  {c}.", "coop": "X " * 16 + "{c}."}
    for style, template in styles.items():
        table = tower.token_table([template.replace("{c}", row["classname"]) for row in rows], 0)
        for ids, mask, row in zip(table.ids, table.mask, rows, strict=True):
            assert ids[mask].tolist() == row[style]
            assert (ids[~mask] == 49_407).all()
    # Sixteen open places stand where the authors write sixteen X.
    table = tower.token_table([f"{row['classname']}." for row in rows], n_context=16)
    assert table.context == slice(1, 17)
    for ids, mask, row in zip(table.ids, table.mask, rows, strict=True):
        assert ids[mask][17:].tolist() == row["coop"][17:]


def test_edge_cases_of_the_tokenizer_are_the_authors(golden: Path, golden_pengi: PengiEncoder) -> None:
    with np.load(golden / "text.npz") as record:
        table = golden_pengi.text_tower().token_table([str(prompt) for prompt in record["probe_prompts"]], 0)
        assert torch.equal(padded(table.ids), torch.from_numpy(record["probe_input_ids"]))


def test_prompts_become_byte_pairs_padded_to_the_longest(encoder: PengiEncoder, tmp_path: Path) -> None:
    vocabulary = save_small_tokenizer(tmp_path / "same")
    table = encoder.text_tower().token_table(["Dog", "dog bark"], 0)
    bark = [vocabulary[piece] for piece in ("b", "a", "r", "k</w>")]
    dog = vocabulary["dog</w>"]
    assert table.ids.tolist() == [
        [49_406, dog] + [49_407] * 5,
        [49_406, dog, *bark, 49_407],
    ]
    assert table.mask.sum(dim=1).tolist() == [3, 7]


def test_a_class_name_that_is_too_long_is_named(encoder: PengiEncoder) -> None:
    message = r"prompt 'dog dog .*'\.\.\. has 52 tokens, PENGI reads 40; shorten it"
    with pytest.raises(EncoderError, match=message):
        encoder.embed_text(["cat", "dog " * 50])
    with pytest.raises(EncoderError, match="has 32 tokens behind 16 of context, PENGI reads 40"):
        encoder.text_tower().tokens(["dog " * 30], n_context=16)


def test_prefixed_keys_and_old_files_give_the_same(
    pengi_state: dict[str, Tensor], encoder: PengiEncoder, words: Path, tmp_path: Path
) -> None:
    prefixed = save_checkpoint(tmp_path / "prefixed.pth", pengi_state, prefix="module.")
    assert load(prefixed, words).identity == encoder.identity
    old = tmp_path / "old.pth"
    torch.save({"model": pengi_state}, old, _use_new_zipfile_serialization=False)
    assert load(old, words).identity == encoder.identity


def test_what_palm_does_not_use_is_not_read(pengi_checkpoint: Path) -> None:
    names = PUBLICATION.read("pengi:base.pth", str(pengi_checkpoint))
    assert not [name for name in names if "decoder" in name or "attn_mask" in name or "tscam" in name]


def test_the_fingerprint_follows_weights_tokenizer_and_precision(
    encoder: PengiEncoder, words: Path, tmp_path: Path, pengi_state: dict[str, Tensor]
) -> None:
    other = {**pengi_state, "caption_encoder.projection.layer_norm.bias": torch.ones(1024)}
    tensors = {
        name: value for name, value in other.items() if name.startswith(("audio_", "caption_encoder."))
    }
    used = save_checkpoint(tmp_path / "other.pth", tensors)
    letters = tmp_path / "letters"
    save_small_tokenizer(letters, merges=())
    encoders = [encoder, load(used, words), load(used, words, "bf16"), load(used, letters)]
    assert len({fingerprint(one.text_identity) for one in encoders}) == 4
    # Neither tokenizer nor text weights decide a sound.
    assert len({fingerprint(audio_recipe(one, Recipe())) for one in encoders}) == 2


def test_bf16_is_near_fp32(encoder: PengiEncoder, pengi_checkpoint: Path, words: Path) -> None:
    half = load(pengi_checkpoint, words, "bf16")
    waveforms = make_waveforms(encoder, 2)
    similarity = torch.cosine_similarity(half.embed_audio(waveforms), encoder.embed_audio(waveforms))
    assert similarity.min() > 0.99
    texts = torch.cosine_similarity(half.embed_text(["dog bark"]), encoder.embed_text(["dog bark"]))
    assert texts.min() > 0.99


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(encoder: PengiEncoder, pengi_checkpoint: Path, words: Path) -> None:
    other = load(pengi_checkpoint, words, device="cuda")
    waveforms = make_waveforms(encoder, 3)
    torch.testing.assert_close(
        other.embed_audio(waveforms), encoder.embed_audio(waveforms), atol=1e-3, rtol=0
    )
    prompts = ["dog", "dog bark"]
    torch.testing.assert_close(other.embed_text(prompts), encoder.embed_text(prompts), atol=1e-3, rtol=0)


def test_all_wrong_weights_are_named_in_one_error(
    damaged: Callable[[Callable[[dict[str, Tensor]], None]], str], words: Path
) -> None:
    def change(state: dict[str, Tensor]) -> None:
        del state["audio_encoder.base.htsat.bn0.weight"]
        del state["caption_encoder.base.encoder.layers.11.mlp.fc2.bias"]
        state["audio_encoder.extra"] = torch.zeros(1)
        state["caption_encoder.projection.linear1.weight"] = torch.zeros(3, 2)
        state["audio_encoder.base.htsat.layers.0.blocks.0.attn.qkv.bias"] = torch.zeros(96)

    with pytest.raises(EncoderError) as caught:
        load(damaged(change), words)
    message = str(caught.value)
    assert "\n" not in message
    assert (
        "not PENGI's weights; missing: audio_encoder.base.htsat.bn0.weight, "
        "caption_encoder.base.encoder.layers.11.mlp.fc2.bias; surplus: audio_encoder.extra; misshaped: "
        "audio_encoder.base.htsat.layers.0.blocks.0.attn.qkv.bias (96,) instead of (288,), "
        "caption_encoder.projection.linear1.weight (3, 2) instead of (1024, 512)"
    ) in message


class Trap:
    """Were it unpickled as an object, it would be executed."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("an object of a checkpoint was executed",))


def make_file(kind: str, checkpoint: Path, file: Path) -> None:
    if kind == "web page":
        file.write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    elif kind == "truncated":
        with checkpoint.open("rb") as whole:
            file.write_bytes(whole.read(1_000_000))
    elif kind == "folder":
        file.mkdir()
    elif kind == "empty":
        file.touch()
    elif kind == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "object":
        torch.save({"model": {"audio_encoder.x": Trap()}}, file)
    elif kind == "old object":
        file.write_bytes(pickle.dumps({"model": Trap()}))
    elif kind == "no model":
        torch.save({"state_dict": {"audio_encoder.x": torch.zeros(1)}}, file)
    elif kind == "tensor":
        torch.save(torch.zeros(3), file)
    elif kind == "other model":
        torch.save({"model": {"vit.blocks.0.weight": torch.zeros(1), "head.bias": torch.zeros(1)}}, file)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "not a file"),
        ("web page", r"a web page, not a checkpoint \(50 bytes\)"),
        ("truncated", "a damaged checkpoint, most likely a download that was cut off"),
        ("empty", r"not a checkpoint that torch can read \(0 bytes\)"),
        ("noise", r"not a checkpoint that torch can read \(5,000 bytes\)"),
        ("object", "not a checkpoint of plain tensors"),
        ("old object", "not a checkpoint that torch can read"),
        ("no model", "a checkpoint without 'model', so not PENGI's"),
        ("tensor", "a checkpoint without 'model', so not PENGI's"),
        (
            "other model",
            r"another model's checkpoint \(its first weights: vit\.blocks\.0\.weight, head\.bias\)",
        ),
    ],
)
def test_a_wrong_file_says_what_it_is_and_where_the_right_one_lies(
    pengi_checkpoint: Path, tmp_path: Path, kind: str, message: str
) -> None:
    file = tmp_path / "base.pth"
    make_file(kind, pengi_checkpoint, file)
    with pytest.raises(EncoderError, match=message) as caught:
        PUBLICATION.read("pengi:base.pth", str(file))
    assert "zenodo.org/records/8387083" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_tokenizers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match=r"no vocabulary there; .*vocab\.json and merges\.txt"):
        VOCABULARY.load(str(tmp_path / "empty"))
    with pytest.raises(EncoderError, match="no such directory, and not a hub id"):
        VOCABULARY.load(str(tmp_path / "absent"))
    clap = save_tiny_clap(tmp_path / "clap")
    with pytest.raises(EncoderError, match="not CLIP's: its tokens are bos"):
        VOCABULARY.load(str(clap))
    from huggingface_hub import constants

    # Nobody listens on this port of the loopback interface.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited to try again"))
    with pytest.raises(EncoderError, match="not in the local cache, and the hub cannot be reached"):
        VOCABULARY.load("openai/clip-vit-base-patch32")
