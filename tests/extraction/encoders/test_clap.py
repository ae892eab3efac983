from __future__ import annotations

import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import PROMPTS, check_encoder, make_waveforms
from tiny_clap import save_tiny_clap
from transformers import AutoProcessor, BertTokenizerFast, ClapModel

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.clap import ClapEncoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.params import Precision, Recipe
from palm_cache.store.fingerprint import fingerprint


def load(place: Path | str, precision: Precision = "fp32", device: str = "cpu") -> ClapEncoder:
    encoder = load_encoder(f"clap:{place}", Recipe(precision=precision), device=device)
    assert isinstance(encoder, ClapEncoder)
    return encoder


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clap(tmp_path_factory.mktemp("clap") / "tiny")


@pytest.fixture(scope="module")
def encoder(directory: Path) -> ClapEncoder:
    return load(directory)


def test_clap_keeps_the_contract(encoder: ClapEncoder) -> None:
    check_encoder(encoder)


def test_constants_are_the_processors(encoder: ClapEncoder) -> None:
    assert encoder.sample_rate == 48_000
    assert (encoder.window.samples, encoder.window.max_windows, encoder.window.padding) == (
        480_000,
        1,
        "repeat-pad",
    )
    assert encoder.dim == 24


@pytest.mark.parametrize("seconds", [0.07, 1.0, 3.3, 9.9, 10.0])
def test_audio_embeddings_are_transformers_own(encoder: ClapEncoder, directory: Path, seconds: float) -> None:
    """Against the processor's numpy loop and ``get_audio_features`` on the same waveform."""
    rng = np.random.default_rng(0)
    time_axis = np.arange(int(seconds * 48_000)) / 48_000
    tone = 0.3 * np.sin(2 * np.pi * 440 * time_axis)
    waveform = (tone + 0.05 * rng.standard_normal(len(tone))).astype(np.float32)
    processor = AutoProcessor.from_pretrained(directory)
    model = ClapModel.from_pretrained(directory).eval()
    inputs = processor.feature_extractor(waveform, sampling_rate=48_000, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_audio_features(**inputs)
    windows = cut_windows(torch.from_numpy(waveform), encoder.window)
    # Decibels; where a bin is far below its neighbours, single precision loses a thousandth of them.
    torch.testing.assert_close(
        encoder.front_end(windows[None])[0], inputs["input_features"][0, 0], atol=1e-2, rtol=0
    )
    embedded = encoder.embed_audio(windows[None])
    torch.testing.assert_close(embedded, getattr(expected, "pooler_output", expected), atol=1e-4, rtol=0)


def test_text_embeddings_are_transformers_own(encoder: ClapEncoder, directory: Path) -> None:
    processor = AutoProcessor.from_pretrained(directory)
    model = ClapModel.from_pretrained(directory).eval()
    for prompt in PROMPTS:
        inputs = processor.tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            expected = model.get_text_features(**inputs)
        expected = getattr(expected, "pooler_output", expected)
        torch.testing.assert_close(encoder.embed_text([prompt]), expected, atol=1e-5, rtol=0)


def test_many_prompts_are_embedded_in_batches(encoder: ClapEncoder) -> None:
    prompts = [f"dog {number}" for number in range(150)]
    embedded = encoder.embed_text(prompts)
    assert embedded.shape == (150, 24)
    torch.testing.assert_close(encoder.embed_text(prompts[130:131])[0], embedded[130], atol=1e-5, rtol=0)


def test_a_prompt_that_is_too_long_is_refused(encoder: ClapEncoder) -> None:
    with pytest.raises(EncoderError, match=r"prompt 'dog dog .*'\.\.\. has \d+ tokens, .* reads 64; shorten"):
        encoder.embed_text(["cat", "dog " * 100])


@pytest.mark.parametrize("padding", ["[PAD]", None])
def test_another_models_tokenizer_is_refused(directory: Path, tmp_path: Path, padding: str | None) -> None:
    place = Path(shutil.copytree(directory, tmp_path / "copy"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(400 if padding else 3))]
    tokenizer = BertTokenizerFast(
        vocab={word: number for number, word in enumerate(words)}, pad_token=padding
    )
    tokenizer.save_pretrained(place)
    with pytest.raises(EncoderError, match=r"another model's tokenizer: .* the text tower knows 400"):
        load(place)


def test_what_decides_sound_and_what_decides_text_are_apart(directory: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(directory, tmp_path / name))

    def change(file: Path, **settings: object) -> None:
        content = json.loads(file.read_text())
        content.get("feature_extractor", content).update(settings)
        file.write_text(json.dumps(content))

    def change_model(file: Path, part: str, **settings: object) -> None:
        change(file, **{part: {**json.loads(file.read_text())[part], **settings}})

    def prints(encoder: Encoder) -> tuple[str, str]:
        text = encoder.text_identity
        assert text is not None
        return fingerprint(audio_recipe(encoder, Recipe())), fingerprint(text)

    front_end, tokenizer, act, epsilon, text_act = map(copy, ("front", "tokenizer", "act", "eps", "text"))
    change(front_end / "preprocessor_config.json", frequency_min=50)
    tokens = json.loads((tokenizer / "tokenizer.json").read_text())
    tokens["model"]["merges"].pop()
    (tokenizer / "tokenizer.json").write_text(json.dumps(tokens))
    change_model(act / "config.json", "audio_config", hidden_act="relu")
    change_model(epsilon / "config.json", "audio_config", layer_norm_eps=1e-3)
    change_model(text_act / "config.json", "text_config", hidden_act="relu")
    audio, text = prints(load(directory))
    assert prints(load(copy("same"))) == (audio, text)
    assert {prints(load(place))[1] for place in (front_end, act, epsilon)} == {text}
    assert {prints(load(place))[0] for place in (tokenizer, text_act)} == {audio}
    sounds = {audio} | {prints(load(place))[0] for place in (front_end, act, epsilon)}
    texts = {text} | {prints(load(place))[1] for place in (tokenizer, text_act)}
    other = load(save_tiny_clap(tmp_path / "weights", seed=1))
    half = load(directory, "bf16")
    assert len({*sounds, prints(other)[0], prints(half)[0]}) == 6
    assert len({*texts, prints(other)[1], prints(half)[1]}) == 5


def test_bf16_is_near_fp32(encoder: ClapEncoder, directory: Path) -> None:
    half = load(directory, "bf16")
    waveforms = make_waveforms(encoder, 2)
    similarity = torch.cosine_similarity(half.embed_audio(waveforms), encoder.embed_audio(waveforms))
    assert similarity.min() > 0.99


def test_of_a_prompt_that_is_too_long_the_error_alone_is_said(directory: Path) -> None:
    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pytest.fail(record.getMessage())

    encoder, heard = load(directory), Heard()  # transformers warns once of each tokenizer
    logging.getLogger("transformers").addHandler(heard)
    try:
        with pytest.raises(EncoderError, match="shorten it"):
            encoder.embed_text(["dog " * 300])
    finally:
        logging.getLogger("transformers").removeHandler(heard)


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu(encoder: ClapEncoder, directory: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    on_gpu = load(directory, device="cuda")
    waveforms = make_waveforms(encoder, 3)
    torch.testing.assert_close(
        on_gpu.embed_audio(waveforms), encoder.embed_audio(waveforms), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(on_gpu.embed_text(PROMPTS), encoder.embed_text(PROMPTS), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clap(tmp_path_factory.mktemp("clap") / "fused", fused=True)


def test_fused_clap_keeps_the_contract(fused: Path) -> None:
    encoder = load(fused)
    check_encoder(encoder)
    assert (encoder.window.samples, encoder.window.padding) == (3 * 480_000, "nan")


@pytest.mark.parametrize("seconds", [0.07, 3.3, 10.0, 10.005, 10.02, 12.0, 30.0])
def test_fused_embeddings_are_transformers_own(
    fused: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its draw of windows made the middle one, and short clips left unfused, as LAION evaluates them."""
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal(round(seconds * 48_000))).astype(np.float32)
    waveform *= np.linspace(0.1, 1, len(waveform), dtype=np.float32)
    extractor = AutoProcessor.from_pretrained(fused).feature_extractor
    monkeypatch.setattr(np.random, "choice", lambda third: third[len(third) // 2])
    mel, longer = extractor._get_input_mel(waveform.astype(np.float64), 480_000, "fusion", "repeatpad")
    features = {"input_features": torch.from_numpy(np.float32(mel))[None]}
    with torch.no_grad():
        model = ClapModel.from_pretrained(fused).eval()
        expected = model.get_audio_features(**features, is_longer=torch.tensor([[longer]]))
    assert longer == (seconds > 10.01)
    encoder = load(fused)
    embedded = encoder.embed_audio(cut_windows(torch.from_numpy(waveform), encoder.window)[None])
    torch.testing.assert_close(embedded, getattr(expected, "pooler_output", expected), atol=1e-4, rtol=0)


def test_openvino_and_compile_want_clips_of_one_length(fused: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(
        EncoderError, match="openvino needs clips of one length, this reads any; leave it out"
    ):
        load_encoder(f"clap:{fused}", Recipe(runtime="openvino"))


def test_model_and_processor_must_go_together(fused: Path, directory: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(fused, tmp_path / "mixed"))
    shutil.copy(directory / "preprocessor_config.json", place)
    with pytest.raises(EncoderError, match="do not go together: truncation 'rand_trunc' for a fused model"):
        load(place)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hop_length", 0),
        ("sampling_rate", 0),
        ("max_length_s", 0),
        ("fft_window_size", -4),
        ("feature_size", 0),
        ("hop_length", "480"),
        ("feature_size", 32),
        ("feature_size", 1 << 30),
        ("hop_length", 1 << 40),
        ("max_length_s", 1_000_000),
        ("frequency_max", 1e9),
    ],
)
def test_a_processor_that_makes_no_sense_is_refused(
    directory: Path, tmp_path: Path, name: str, value: object
) -> None:
    place = Path(shutil.copytree(directory, tmp_path / "copy"))
    file = place / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(
        EncoderError, match=r"processor's file is damaged|preprocessor_config\.json"
    ) as caught:
        load(place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_code_that_lies_with_a_model_is_never_run(directory: Path, tmp_path: Path, file: str) -> None:
    place = Path(shutil.copytree(directory, tmp_path / "copy"))
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    auto_map = {
        "AutoConfig": "evil.Evil",
        "AutoModel": "evil.Evil",
        "AutoFeatureExtractor": "evil.Evil",
        "AutoProcessor": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    }
    for one in (file, "processor_config.json"):
        content = json.loads((place / one).read_text()) if (place / one).exists() else {}
        (place / one).write_text(json.dumps({**content, "auto_map": auto_map, "tokenizer_class": "Evil"}))
    with suppress(EncoderError):
        load(place)
    assert not (tmp_path / "ran").exists()


def test_pickled_objects_are_not_read(directory: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(directory, tmp_path / "copy"))
    (place / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("an object of a checkpoint was executed",))

    torch.save({"logit_scale_a": Trap()}, place / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="cannot load its weights"):
        load(place)


def test_an_unknown_padding_is_refused(tmp_path: Path) -> None:
    save_tiny_clap(tmp_path, padding="pad")
    with pytest.raises(EncoderError, match="its processor pads with 'pad'; known here: repeatpad, repeat"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("config.json", r"cannot load its config\.json: FileNotFoundError: there is none in the folder"),
        ("model.safetensors", "cannot load its weights"),
        ("preprocessor_config.json", r"cannot load its preprocessor_config\.json"),
        ("tokenizer.json", "cannot load its tokenizer files: FileNotFoundError: no vocabulary there"),
        ("adapter", r"holds an adapter, .* merge_and_unload\(\) makes, .* without adapter_config\.json"),
        ("cut weights", "cannot load its weights"),
        ("other model", "holds a model of type 'bert'; try hf:"),
        ("more layers", r"weights are missing, surplus or misshaped, e\.g\. text_model\.encoder\.layer\.2"),
        ("fewer layers", r"weights are missing, surplus or misshaped, e\.g\. text_model\.encoder\.layer\.1"),
    ],
)
def test_an_incomplete_or_wrong_directory_says_what_is_wrong(
    directory: Path, tmp_path: Path, damage: str, message: str
) -> None:
    place = Path(shutil.copytree(directory, tmp_path / "copy"))
    config = place / "config.json"
    if damage == "cut weights":
        weights = place / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "adapter":
        (place / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    elif damage == "other model":
        config.write_text('{"model_type": "bert"}')
    elif damage.endswith("layers"):
        settings = json.loads(config.read_text())
        settings["text_config"]["num_hidden_layers"] = 3 if damage == "more layers" else 1
        config.write_text(json.dumps(settings))
    else:
        (place / damage).unlink()
        (place / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(EncoderError, match=message) as caught:
        load(place)
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_not_there_is_no_hub_id() -> None:
    with pytest.raises(EncoderError, match="no such directory, and not a hub id"):
        load("/nowhere/at/all")


def test_a_hub_out_of_reach_fails_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    # Nobody listens on this port of the loopback interface.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited to try again"))
    with pytest.raises(EncoderError, match="not in the local cache, and the hub cannot be reached") as caught:
        load("nobody/no-such-model")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(
        "; check the network, or give a directory that save_pretrained of model and processor wrote"
    )


def test_a_revision_of_the_hub_can_be_pinned_and_the_commit_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--me--tiny"
    (repository / "refs").mkdir(parents=True)
    old, new = "0" * 39 + "1", "0" * 39 + "2"
    for seed, (commit, name) in enumerate([(old, "v1"), (new, "main")]):
        save_tiny_clap(repository / "snapshots" / commit, seed=seed)
        (repository / "refs" / name).write_text(commit)
    latest, pinned, tagged = (load(spec) for spec in ("me/tiny", f"me/tiny@{old}", "me/tiny@v1"))
    assert [one.made_with["hub_commit"] for one in (latest, pinned, tagged)] == [new, old, old]
    assert tagged.spec == "clap:me/tiny@v1"
    # Provenance decides nothing, weights do.
    assert pinned.identity == tagged.identity != latest.identity
    with pytest.raises(EncoderError, match="not in the local cache, and the hub cannot be reached"):
        load("me/tiny@v3")


def test_without_a_hub_what_is_wrong_with_the_copy_that_is_here_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, content in (("bert", '{"model_type": "bert"}'), ("empty", None)):
        snapshot = tmp_path / f"models--me--{name}" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
        if content:
            (snapshot / "config.json").write_text(content)
    with pytest.raises(EncoderError, match=r"^clap:me/bert: holds a model of type 'bert'; try hf:"):
        load("me/bert")
    with pytest.raises(EncoderError, match="not in the local cache, and the hub cannot be reached"):
        load("me/empty")


@pytest.mark.parametrize("value", [0, 100, -64])
def test_a_configuration_that_no_picture_fits_is_refused(directory: Path, tmp_path: Path, value: int) -> None:
    place = Path(shutil.copytree(directory, tmp_path / "copy"))
    config = json.loads((place / "config.json").read_text())
    config["audio_config"]["spec_size"] = value
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"config\.json is damaged: spec_size"):
        load(place)
