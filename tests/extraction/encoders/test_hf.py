"""Against transformers' own classes with random weights, each clip alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts import check_encoder
from safetensors.torch import load_file, save_file
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    HubertConfig,
    HubertModel,
    ParakeetEncoder,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from palm_cache.errors import EncoderError, StaleStoreError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders import hf
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.extraction.recorded import load_same_encoder
from palm_cache.params import Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.store.fingerprint import fingerprint

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
WAVES: dict[str, Any] = {
    **SMALL,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
WHISPER = WhisperConfig(
    d_model=16,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    vocab_size=50,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
MODELS: dict[str, tuple[Any, Any]] = {
    "ast": (lambda: ASTModel(ASTConfig(**SMALL)), ASTFeatureExtractor),
    "wav2vec2": (lambda: Wav2Vec2Model(Wav2Vec2Config(**WAVES)), Wav2Vec2FeatureExtractor),
    "wav2vec2 stable": (
        lambda: Wav2Vec2Model(Wav2Vec2Config(**WAVES, **STABLE)),
        lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True),
    ),
    "hubert": (lambda: HubertModel(HubertConfig(**WAVES)), Wav2Vec2FeatureExtractor),
    "wavlm": (lambda: WavLMModel(WavLMConfig(**WAVES)), lambda: Wav2Vec2FeatureExtractor(do_normalize=False)),
    "data2vec": (
        lambda: Data2VecAudioModel(Data2VecAudioConfig(**WAVES, conv_pos_kernel_size=3)),
        Wav2Vec2FeatureExtractor,
    ),
    "whisper": (lambda: WhisperModel(WHISPER), WhisperFeatureExtractor),
    "wav2vec2-bert": (
        lambda: Wav2Vec2BertModel(Wav2Vec2BertConfig(**SMALL)),
        SeamlessM4TFeatureExtractor,
    ),
    "parakeet": (
        lambda: ParakeetEncoder(
            ParakeetEncoderConfig(**SMALL, num_key_value_heads=2, subsampling_conv_channels=8)
        ),
        ParakeetFeatureExtractor,
    ),
}
"""Name -> what makes the model, and its feature extractor."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, (make, extractor) in MODELS.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp("hf") / name
        make().save_pretrained(folders[name])
        extractor().save_pretrained(folders[name])
    return folders


@pytest.fixture(autouse=True)
def shorter_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "LONGEST_SECONDS", 5)


def load(place: Path | str, **recipe: Any) -> Encoder:
    return load_encoder(f"hf:{place}", Recipe(**recipe), device="cpu")


def noise(samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, generator=generator) * torch.linspace(0.01, 0.3, samples)


@pytest.mark.parametrize("name", MODELS)
def test_it_keeps_the_contract(folders: dict[str, Path], name: str) -> None:
    encoder = load(folders[name])
    check_encoder(encoder)
    assert encoder.text_tower() is None
    assert encoder.window.samples == {"ast": 164_080, "whisper": 480_000}.get(name, 80_000)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layer", [None, 2])
def test_embeddings_are_transformers_own(folders: dict[str, Path], name: str, layer: int | None) -> None:
    make, make_extractor = MODELS[name]
    kind = type(make())
    model, extractor = kind.from_pretrained(folders[name]).eval(), make_extractor()
    model = model.get_encoder() if name == "whisper" else model
    encoder = load(f"{folders[name]}{'' if layer is None else f'#layer={layer}'}")
    for samples in (16_000, 16_160, 70_001):  # of 16_160 wav2vec2-bert reads 99 frames, two at once
        inputs = extractor(noise(samples).numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        states = output.last_hidden_state if layer is None else output.hidden_states[layer]
        if name == "whisper":
            states = states[:, : -(-samples // 320)]
        if name in ("wav2vec2-bert", "parakeet"):
            states = states[output.get("attention_mask", inputs["attention_mask"]).bool()][None]
        expected = states.mean(dim=1)
        if name == "ast":
            expected = output.pooler_output if layer is None else output.hidden_states[layer].mean(dim=1)
        embedded = encoder.embed_audio(cut_windows(noise(samples), encoder.window)[None])
        torch.testing.assert_close(embedded, expected, atol=1e-5, rtol=0)


def test_layer_and_configuration_are_part_of_the_recipe(folders: dict[str, Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(folders["wavlm"], tmp_path / "other"))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    normal = Path(shutil.copytree(folders["wavlm"], tmp_path / "normal"))
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(normal)
    specs = [folders["wavlm"], f"{folders['wavlm']}#layer=1", place, normal]
    recipes = [json.dumps(audio_recipe(load(spec), Recipe()), sort_keys=True) for spec in specs]
    assert len(set(recipes)) == 4
    again = Path(shutil.copytree(folders["wavlm"], tmp_path / "again"))
    assert audio_recipe(load(again), Recipe()) == json.loads(recipes[0])


def test_a_clip_of_one_sample_has_a_vector(folders: dict[str, Path]) -> None:
    for name in ("ast", "wavlm", "whisper"):
        encoder = load(folders[name])
        vector = encoder.embed_audio(cut_windows(torch.ones(1), encoder.window)[None])
        assert torch.isfinite(vector).all()


def test_openvino_takes_what_has_one_shape(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    quick, plain = load(folders["ast"], runtime="openvino"), load(folders["ast"])
    window = cut_windows(noise(16_000), plain.window)[None]
    expected = plain.embed_audio(window)
    torch.testing.assert_close(
        quick.embed_audio(window), expected, atol=1e-5 * float(expected.norm()), rtol=0
    )
    with pytest.raises(EncoderError, match="openvino needs clips of one length"):
        load(folders["wavlm"], runtime="openvino")


@pytest.mark.parametrize(
    ("how", "layer", "dim", "shortest"),
    [
        ({"add_adapter": True, "output_hidden_size": 24}, "", 24, 1_600),
        ({"add_adapter": True, "output_hidden_size": 24}, "#layer=1", 16, 1_600),
        ({"conv_kernel": (3000, 3, 3, 3, 3, 2, 2)}, "", 16, 8_000),
    ],
    ids=["adapter", "layer below it", "long frames"],
)
def test_what_a_model_takes_and_gives_is_tried_not_believed(
    tmp_path: Path, how: dict[str, Any], layer: str, dim: int, shortest: int
) -> None:
    Wav2Vec2Model(Wav2Vec2Config(**WAVES, **how)).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    encoder = load(f"{tmp_path}{layer}")
    assert encoder.identity["shortest"] == shortest
    vector = encoder.embed_audio(cut_windows(noise(100), encoder.window)[None])
    assert vector.shape == (1, dim) == (1, encoder.dim)


def test_a_model_that_a_program_has_registered_is_one_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OwnConfig(ASTConfig):  # type: ignore[misc]
        model_type = "own"

    class OwnModel(ASTModel):  # type: ignore[misc]
        config_class = OwnConfig

    for mapping in (CONFIG_MAPPING, MODEL_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", {})
    AutoConfig.register("own", OwnConfig)
    AutoModel.register(OwnConfig, OwnModel)
    OwnModel(OwnConfig(**SMALL)).save_pretrained(tmp_path)
    ASTFeatureExtractor().save_pretrained(tmp_path)
    assert load(tmp_path).dim == SMALL["hidden_size"]


def test_a_model_that_gives_no_vectors_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    EncodecModel(EncodecConfig(num_filters=4, hidden_size=8, codebook_dim=8)).save_pretrained(tmp_path)
    EncodecFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="gives no hidden states for what its extractor makes") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "beats", "auto_map": {"AutoModel": "beats.Beats"}},
            r"needs code .* \(auto_map: AutoModel\)",
        ),
        (
            {"model_type": "nonsense"},
            "AutoModel knows no model of type 'nonsense'; load it in an encoder of",
        ),
        ({"model_type": "clap"}, "holds a model of type 'clap'; try clap:"),
        ({"num_hidden_layers": 5}, "weights are missing, surplus or misshaped"),
        ({"num_hidden_layers": 2}, r"weights are missing, surplus or misshaped, e\.g\. encoder\.layers\.2\."),
    ],
)
def test_another_kind_of_model_is_named(
    folders: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    place = Path(shutil.copytree(folders["wavlm"], tmp_path / "copy"))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(EncoderError, match=message) as caught:
        load(place)
    assert "\n" not in str(caught.value)


def test_a_model_of_text_and_a_layer_that_is_not_there_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    BertModel(BertConfig(**SMALL)).save_pretrained(tmp_path / "bert")
    with pytest.raises(EncoderError, match=r"cannot load its preprocessor_config\.json"):
        load(tmp_path / "bert")
    with pytest.raises(EncoderError, match="layer 4 of a model with 3"):
        load(f"{folders['wavlm']}#layer=4")
    with pytest.raises(EncoderError, match="write #layer=N with a whole number from 0, not #layer=last"):
        load(f"{folders['wavlm']}#layer=last")


CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .width import WIDTH


class LoudConfig(PretrainedConfig):
    model_type = "loud"


class Loud(PreTrainedModel):
    config_class = LoudConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(1, WIDTH)
        self.post_init()

    def forward(self, input_values):
        frames = input_values.unfold(1, 400, 400).diff(dim=2).abs().mean(dim=2)
        return BaseModelOutput(hidden_states=self.layer(frames[..., None]))
"""


@pytest.fixture
def loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose code lies beside it and leaves a mark when it is run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    place = tmp_path / "loud"
    Wav2Vec2FeatureExtractor().save_pretrained(place)
    mark = f"import pathlib\n\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    (place / "loud_model.py").write_text(mark + CODE)
    (place / "width.py").write_text("WIDTH = 6\n")
    code = {"AutoConfig": "loud_model.LoudConfig", "AutoModel": "loud_model.Loud"}
    (place / "config.json").write_text(json.dumps({"model_type": "loud", "auto_map": code}))
    torch.manual_seed(0)
    weights = {"layer.weight": torch.randn(6, 1), "layer.bias": torch.randn(6)}
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place


def test_code_that_lies_with_a_model_is_run_only_where_the_user_says_so(loud: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(EncoderError, match=r"needs code that lies with the model .*trust_remote_code"):
        load(loud)
    assert not ran.exists()
    encoder = load(loud, trust_remote_code=True)
    assert ran.exists()
    assert encoder.dim == 6
    check_encoder(encoder)
    weights = load_file(loud / "model.safetensors")
    frames = Wav2Vec2FeatureExtractor()(noise(16_000).numpy(), sampling_rate=16_000, return_tensors="pt")
    rough = frames["input_values"].unfold(1, 400, 400).diff(dim=2).abs().mean(dim=2).mean(dim=1)
    embedded = encoder.embed_audio(cut_windows(noise(16_000), encoder.window)[None])
    expected = rough[:, None] * weights["layer.weight"].T + weights["layer.bias"]
    torch.testing.assert_close(embedded, expected, atol=1e-5, rtol=0)


def test_the_code_that_was_run_is_recorded_and_what_is_recorded_runs_none(loud: Path) -> None:
    recorded = audio_recipe(load(loud, trust_remote_code=True), Recipe())
    said = {"purpose": "made it", "advice": "", "loading": LoadingParams(device="cpu")}
    trusting = {**said, "loading": LoadingParams(device="cpu", trust_remote_code=True)}
    spec, wanted = f"hf:{loud}", fingerprint(recorded)
    with pytest.raises(EncoderError, match="have it run again, give trust_remote_code"):
        load_same_encoder(spec, recorded, wanted, **said)
    load_same_encoder(spec, recorded, wanted, **trusting)
    with (loud / "width.py").open("a") as file:
        file.write("# other code\n")
    with pytest.raises(StaleStoreError, match="other remote code than those that made it"):
        load_same_encoder(spec, recorded, wanted, **trusting)


def test_code_of_another_repository_and_trust_in_other_encoders_are_refused(
    loud: Path, folders: dict[str, Path]
) -> None:
    config = json.loads((loud / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "some/one--loud_model.Loud", "AutoConfig": "loud_model.LoudConfig"}
    (loud / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="its code lies elsewhere, in some/one"):
        load(loud, trust_remote_code=True)
    with pytest.raises(EncoderError, match="trust_remote_code is for hf: alone"):
        load_encoder("mini", Recipe(trust_remote_code=True), device="cpu")
    # A model that needs none has nothing to record.
    trusted = audio_recipe(load(folders["wavlm"], trust_remote_code=True), Recipe())
    assert trusted == audio_recipe(load(folders["wavlm"]), Recipe())
