from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import check_encoder

from palm_cache.errors import EncoderError, PalmCacheError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.params import Recipe

onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

RATE, SAMPLES, DIM = 8_000, 4_000, 6
WEIGHT = np.random.default_rng(0).standard_normal((SAMPLES, DIM)).astype(np.float32) / 64


def save(
    folder: Path,
    shape: Sequence[Any] = ("batch", SAMPLES),
    description: dict[str, Any] | None = None,
    inputs: int = 1,
    scale: float = 1.0,
    softmax: int | None = None,
    takes: str = "FLOAT",
    gives: Sequence[int] = (DIM,),
    batched: bool = True,
) -> Path:
    """Save a graph that multiplies the waveform by a matrix, with two outputs."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    taken = onnx.TensorProto.DataType.Value(takes)
    given = [helper.make_tensor_value_info(f"wave{number}", taken, list(shape)) for number in range(inputs)]
    outputs = [helper.make_tensor_value_info(name, floats, None) for name in ("vector", "other")]
    rows = [-1] if len(shape) > 1 and batched else []
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["wave0"], ["wave"], to=floats),
            helper.make_node("MatMul", ["wave", "weight"], ["product"]),
            helper.make_node("Div", ["product", "scale"], ["scaled"]),
            helper.make_node("Reshape", ["scaled", "gives"], ["vector"]),
            helper.make_node("Relu", ["product"], ["other"])
            if softmax is None
            else helper.make_node("Softmax", ["product"], ["other"], axis=softmax),
        ],
        "embed",
        given,
        outputs,
        [
            onnx.numpy_helper.from_array(WEIGHT, "weight"),
            onnx.numpy_helper.from_array(np.float32([scale]), "scale"),
            onnx.numpy_helper.from_array(np.array([*rows, *gives]), "gives"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    file = folder / "model.onnx"
    onnx.save(model, file)
    said = {"sample_rate": RATE, "seconds": SAMPLES / RATE, "output": "vector", **(description or {})}
    file.with_suffix(".json").write_text(json.dumps(said))
    return file


def load(file: Path, **recipe: Any) -> Encoder:
    return load_encoder(f"onnx:{file}", Recipe(**recipe), device="cpu")


@pytest.mark.parametrize("padding", ["zeros", "tile", "repeat-pad"])
def test_a_graph_keeps_the_contract(tmp_path: Path, padding: str) -> None:
    encoder = load(save(tmp_path, description={"padding": padding, "licence": "MIT"}))
    check_encoder(encoder)
    assert (encoder.dim, encoder.sample_rate, encoder.window.samples) == (DIM, RATE, SAMPLES)
    assert encoder.made_with["licence"] == "MIT"


@pytest.mark.parametrize(
    "shape",
    [("batch", SAMPLES), (1, SAMPLES), (2, SAMPLES), (SAMPLES,), ("batch", 1, SAMPLES), ("b", "s")],
)
def test_it_gives_what_the_graph_gives(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    encoder = load(save(tmp_path, shape))
    sound = torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(1))
    expected = sound @ torch.from_numpy(WEIGHT)
    torch.testing.assert_close(encoder.embed_audio(sound[:, None]), expected, atol=2e-5, rtol=0)
    short = cut_windows(sound[0, :100], encoder.window)
    torch.testing.assert_close(
        encoder.embed_audio(short[None])[0],
        sound[0, :100] @ torch.from_numpy(WEIGHT[:100]),
        atol=2e-5,
        rtol=0,
    )


@pytest.mark.parametrize("takes", ["FLOAT16", "DOUBLE"])
def test_waveforms_of_other_floats_are_taken(tmp_path: Path, takes: str) -> None:
    sound = torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(1))
    rounded = sound.half().float() if takes == "FLOAT16" else sound
    vectors = load(save(tmp_path, takes=takes)).embed_audio(sound[:, None])
    torch.testing.assert_close(vectors, rounded @ torch.from_numpy(WEIGHT), atol=2e-5, rtol=0)


def test_a_graph_of_one_clip_may_leave_the_axis_of_the_batch_out(tmp_path: Path) -> None:
    sound = torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(1))
    product = sound @ torch.from_numpy(WEIGHT)
    vectors = load(save(tmp_path, (1, SAMPLES), batched=False)).embed_audio(sound[:, None])
    torch.testing.assert_close(vectors, product, atol=2e-5, rtol=0)
    with pytest.raises(EncoderError, match=r"gives vector of shape \(1, 2, 3\), more than a vector"):
        load(save(tmp_path, (1, SAMPLES), gives=(2, 3), batched=False))


@pytest.mark.parametrize("shape", [("batch", SAMPLES), (1, SAMPLES), (SAMPLES,)])
def test_of_frames_the_mean_is_taken_or_all_as_the_description_says(
    tmp_path: Path, shape: tuple[Any, ...]
) -> None:
    sound = torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(1))
    frames = (sound @ torch.from_numpy(WEIGHT)).view(3, 2, 3)
    for pool, expected in (("mean", frames.mean(dim=1)), ("flatten", frames.flatten(1))):
        encoder = load(save(tmp_path, shape, {"pool": pool}, gives=(2, 3)))
        torch.testing.assert_close(encoder.embed_audio(sound[:, None]), expected, atol=2e-5, rtol=0)
    # What was flattened before anybody was asked keeps its recipe.
    assert "pool" not in audio_recipe(encoder, Recipe())


def test_graph_output_and_padding_are_part_of_the_recipe_and_the_licence_is_not(tmp_path: Path) -> None:
    def recipe(**options: Any) -> str:
        return json.dumps(audio_recipe(load(save(tmp_path, **options)), Recipe()), sort_keys=True)

    first = recipe()
    assert recipe(description={"licence": "MIT"}) == first
    others = [{"description": {"output": "other"}}, {"description": {"padding": "tile"}}, {"scale": 2.0}]
    assert len({first, *(recipe(**other) for other in others)}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"inputs": 2},
            r"its inputs are wave0 \(batch, 4000\) .*, wave1 .*; it must take one, float waveforms",
        ),
        ({"shape": (1, 2, 3, SAMPLES)}, r"its inputs are wave0 \(1, 2, 3, 4000\)"),
        ({"shape": ("batch", 80, "frames")}, r"its inputs are wave0 \(batch, 80, frames\) .*; it must take"),
        ({"takes": "INT16"}, r"its inputs are wave0 \(batch, 4000\) \(int16\)"),
        ({"gives": (2, 3)}, r"gives vector of shape \(1, 2, 3\), more than a vector; .* last, 3 numbers"),
        (
            {"description": {"seconds": 1}},
            r"it takes 4000 samples .* its description says 1 s of 8000 Hz, 8000",
        ),
        ({"description": {"output": "vectr"}}, "did you mean vector"),
        ({"description": {"output": ""}}, "say in its description which output: vector, other"),
        ({"scale": 0.0}, "made NaN or infinity of a clip, 6 numbers"),
        (
            {"description": {"output": "other"}, "softmax": 0},
            "a clip's vector depends on the clips beside it",
        ),
        ({"description": {"sample_rate": 0}}, "sample_rate: 0"),
        ({"description": {"seconds": "5"}}, "seconds: '5'"),
        ({"description": {"padding": "mirror"}}, "padding: 'mirror'"),
        ({"description": {"paddng": "zeros"}}, "did you mean padding"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PalmCacheError, match=message) as caught:
        load(save(tmp_path, **options))
    assert "\n" not in str(caught.value)


def test_missing_damaged_and_foreign_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no such file"):
        load(tmp_path / "gone.onnx")
    file = save(tmp_path)
    file.with_suffix(".json").write_text('{"seconds": 5}')
    with pytest.raises(EncoderError, match=r'without sample_rate; e\.g\. \{"sample_rate"'):
        load(file)
    file.with_suffix(".json").write_text("[")
    with pytest.raises(EncoderError, match="no object of JSON; write what the graph hears"):
        load(file)
    file.with_suffix(".json").unlink()
    with pytest.raises(EncoderError, match="No such file or directory; write what the graph hears"):
        load(file)
    save(tmp_path).write_bytes(b"nonsense")
    with pytest.raises(EncoderError, match="not a graph that onnxruntime can run") as caught:
        load(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(EncoderError, match=r"in fp32 \(or tf32\); leave the rest out"):
        load(save(tmp_path), precision="bf16")


def test_weights_in_another_file_are_refused_wherever_that_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not hashed; onnxruntime would take those in the working folder."""
    file = save(tmp_path)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    for place in (tmp_path, tmp_path.parent):
        monkeypatch.chdir(place)
        with pytest.raises(EncoderError, match="keeps weights in another file; export it into one"):
            load(file)
