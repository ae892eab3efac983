from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from samples import make_features, write_sample
from spectrum import LetterTower
from torch import Tensor

from palm_cache.adaptation.calibration import calibrate_file, runs_to_calibrate
from palm_cache.adaptation.evaluate import evaluate_files
from palm_cache.adaptation.fit import fit_store
from palm_cache.adaptation.heads import HEADS, find_head
from palm_cache.errors import (
    DamagedStoreError,
    EncoderError,
    OutputError,
    ParameterError,
    StoreError,
    UnknownNameError,
)
from palm_cache.params import FitParams
from palm_cache.params.use import ExportFormat
from palm_cache.prediction import export
from palm_cache.prediction.export import export_head
from palm_cache.store.head_writing import write_heads
from palm_cache.store.heads import read_head, read_heads
from palm_cache.store.run_names import run_name
from palm_cache.store.shared import read_shared
from palm_cache.types.runs import FittedHead, Training

QUICK = Training(epochs=2)
OF_ONE_ENCODER = tuple(name for name, head in HEADS.items() if head.n_encoders == 1)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every head that there is, fitted on clusters; palm calibrated, and all but one kind scored."""
    root = tmp_path_factory.mktemp("export")
    store = write_sample(root / "features.zarr", replace(make_features(n_views=1), encoder="mini"))
    params = FitParams(OF_ONE_ENCODER, shots=(4,), seeds=(0,), folds=(1,), training=QUICK)
    path = fit_store(store, root / "runs", params, load_tower=lambda header: LetterTower(24)).heads_file
    calibrate_file(path, runs_to_calibrate(path))
    evaluate_files(root / "runs", load_tower=lambda header: LetterTower(24))
    # The store of these features does not say how long embeddings are: give it what extraction would.
    found, where = read_heads(path)
    write_heads(path, found, *where, identity={"encoder": "mini", "dim": 24, "sample_rate": 16_000})
    return path


def one(heads: Path, name: str = "palm") -> FittedHead:
    return next(head for head in read_heads(heads)[0] if head.run.head == name)


def expected(head: FittedHead, clips: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities as prediction has them."""
    logits = find_head(head.run.head).logits(head.state, clips)
    temperature = head.calibration.temperature if head.calibration else 1.0
    return logits.numpy(), (logits.double() / temperature).softmax(dim=1).numpy()


def some_clips(count: int) -> torch.Tensor:
    return 7 * torch.randn(count, 24, generator=torch.Generator().manual_seed(3))


def test_onnx_gives_what_the_head_gives(heads: Path, tmp_path: Path) -> None:
    done = export_head(heads, "onnx", "palm", tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(done.file, providers=["CPUExecutionProvider"])
    for count in (1, 9):
        wanted = expected(one(heads), some_clips(count))
        found = session.run(["logits", "probabilities"], {"embedding": some_clips(count).numpy()})
        for value, right in zip(found, wanted, strict=True):
            np.testing.assert_allclose(value, right, atol=1e-4)
    card = json.loads(session.get_modelmeta().custom_metadata_map["card"])
    assert card["classes"] == ["class 0", "class 1", "class 2", "class 3"]


@pytest.mark.parametrize("name", [name for name in OF_ONE_ENCODER if not HEADS[name].scores_through_tower])
def test_the_graph_of_every_head_can_be_traced_and_gives_what_the_head_gives(heads: Path, name: str) -> None:
    graph = export.HeadGraph(one(heads, name)).eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(graph, (some_clips(3),), dynamic_shapes={"embedding": batch}).module()
    for count in (2, 9):
        wanted = expected(one(heads, name), some_clips(count))
        for found, value in zip(program(some_clips(count)), wanted, strict=True):
            np.testing.assert_allclose(found.detach().numpy(), value, atol=1e-4)


def test_the_formula_of_the_card_gives_the_probabilities(heads: Path, tmp_path: Path) -> None:
    done = export_head(heads, "safetensors", "palm", tmp_path / "head.safetensors")
    with safe_open(done.file, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        inside = json.loads(file.metadata()["card"])
    assert set(tensors) == {"class_embeddings", "scale", "temperature"}
    assert done.card["probabilities"] == (
        "softmax(scale * embedding / |embedding| @ class_embeddings.T / temperature)"
    )
    clips = some_clips(5).numpy()
    unit = clips / np.linalg.norm(clips, axis=1, keepdims=True)
    scores = tensors["scale"] * unit @ tensors["class_embeddings"].T / tensors["temperature"]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        powers / powers.sum(axis=1, keepdims=True), expected(one(heads), some_clips(5))[1], atol=1e-5
    )
    assert inside == json.loads(done.card_file.read_text())


def test_every_exported_head_is_read_back_as_it_was(heads: Path, tmp_path: Path) -> None:
    for name in OF_ONE_ENCODER:
        exported = export_head(heads, "safetensors", name, tmp_path / "head.safetensors")
        read, origin, _ = read_shared(exported.file)
        head = one(heads, name)
        assert replace(read, state={}, fit_seconds=0.0) == replace(head, state={}, fit_seconds=0.0)
        assert origin.identity["dim"] == 24
        if HEADS[name].scores_through_tower:
            assert all(torch.equal(read.state[key], value) for key, value in head.state.items())
        else:
            for value, right in zip(
                expected(read, some_clips(3)), expected(head, some_clips(3)), strict=True
            ):
                np.testing.assert_array_equal(value, right)


def test_a_head_without_a_graph_of_its_own_says_what_works(heads: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"'cocoop' learns words.* the format safetensors keeps its state"
    ):
        export_head(heads, "onnx", "cocoop", tmp_path / "head")
    assert list(tmp_path.iterdir()) == []
    done = export_head(heads, "safetensors", "cocoop", tmp_path / "head.safetensors")
    with safe_open(done.file, "pt") as file:
        state = one(heads, "cocoop").state
        assert set(file.keys()) == {*state, "temperature"}
        assert all(torch.equal(file.get_tensor(name), value) for name, value in state.items())


def test_the_card_says_what_the_head_is_and_how_good(heads: Path, tmp_path: Path) -> None:
    done = export_head(heads, "safetensors", "palm", tmp_path / "head.safetensors")
    card = json.loads(done.card_file.read_text())
    assert done.card_file.name == "head.safetensors.json"
    head = one(heads)
    assert card["run"] == "palm@epochs=2-4shots-fold1-seed0"
    assert card["encoder"]["spec"] == "mini"
    assert card["encoder"]["fingerprint"] == head.fingerprint
    assert card["encoder"]["identity"]["sample_rate"] == 16_000
    assert card["temperature"] == card["calibration"]["temperature"] == head.calibration.temperature
    assert card["scores"]["n_test"] == 40
    accuracy, n_test, z = card["scores"]["accuracy"], 40, 1.959964
    assert 0 < accuracy <= 1
    centre = (accuracy + z**2 / (2 * n_test)) / (1 + z**2 / n_test)  # Wilson, 1927
    half = z / (1 + z**2 / n_test) * (accuracy * (1 - accuracy) / n_test + (z / (2 * n_test)) ** 2) ** 0.5
    assert card["scores"]["accuracy_interval"] == pytest.approx([centre - half, centre + half])
    assert card["scores"]["all_folds_and_seeds"]["runs"] == 1
    assert "their licences apply" in card["licence"]["note"]
    assert card["licence"]["encoder"] == "MIT"
    assert card["licence"]["encoder_source"] == "part of palm-cache"
    assert stat.S_IMODE(done.file.stat().st_mode) == stat.S_IMODE(done.card_file.stat().st_mode)


def test_scores_of_another_fit_are_not_taken_for_the_heads_own(heads: Path, tmp_path: Path) -> None:
    shutil.copytree(heads.parents[2], tmp_path / "runs")
    path = tmp_path / "runs" / "clusters" / "mini" / "heads.h5"
    found, where = read_heads(path)
    write_heads(path, [replace(head, fingerprint="e" * 64) for head in found], *where)
    assert export_head(path, "safetensors", "palm").card["scores"] is None
    (tmp_path / "runs" / "scores.csv").unlink()
    done = export_head(path, "safetensors", "palm")
    assert done.card["scores"] is None
    assert done.file == path.with_name("palm@epochs=2-4shots-fold1-seed0.safetensors")


def test_a_graph_that_does_not_agree_is_not_written(
    heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_wrongly(graph: export.HeadGraph, *rest: object) -> object:
        return b"wrong", lambda clips: [value + 0.01 for value in graph(clips)]

    monkeypatch.setattr(export, "_as_onnx", make_wrongly)
    with pytest.raises(OutputError, match=r"differ by 0\.01 in a probability; nothing was written"):
        export_head(heads, "onnx", None, tmp_path / "head.onnx")
    assert list(tmp_path.iterdir()) == []


def test_packages_that_onnx_needs_are_named(
    heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(OutputError, match=r"needs no_such_package; .*pip install 'palm-cache\[onnx\]'"):
        export_head(heads, "onnx", None, tmp_path / "head.onnx")


def test_heads_that_cannot_be_exported_are_named(heads: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no heads here"):
        export_head(tmp_path / "heads.h5", "onnx")
    with pytest.raises(UnknownNameError, match="did you mean palm"):
        export_head(heads, "onnx", "plam")
    with pytest.raises(ParameterError, match="form: 'palm' is not one of safetensors, onnx"):
        export_head(heads, "palm")  # type: ignore[arg-type]
    head, origin = read_head(heads, one(heads).run)
    joined = replace(head, run=replace(head.run, encoder="mini+pengi:base.pth"))
    write_heads(tmp_path / "heads.h5", [joined], origin.store)
    with pytest.raises(EncoderError, match="reads the joined features of"):
        export_head(tmp_path / "heads.h5", "onnx")


def test_a_head_that_does_not_say_how_long_embeddings_are_has_no_graph(heads: Path, tmp_path: Path) -> None:
    head, origin = read_head(heads, one(heads).run)
    write_heads(tmp_path / "heads.h5", [replace(head, state={"weight": torch.ones(4, 24)})], origin.store)
    with pytest.raises(StoreError, match="does not say how long embeddings are; fit again"):
        export_head(tmp_path / "heads.h5", "onnx")


@pytest.mark.parametrize(
    ("form", "name", "state"),
    [
        ("safetensors", "palm", {}),
        ("onnx", "palm", {}),
        ("onnx", "palm", {"class_embeddings": torch.tensor(1.0)}),
        ("onnx", "muka", {}),
        ("onnx", "knn", {"forward": torch.ones(2)}),
    ],
)
def test_a_head_whose_arrays_do_not_fit_together_is_damaged(
    heads: Path, tmp_path: Path, form: ExportFormat, name: str, state: dict[str, Tensor]
) -> None:
    head, origin = read_head(heads, one(heads).run)
    head = replace(head, run=replace(head.run, head=name), state=state)
    write_heads(tmp_path / "heads.h5", [head], origin.store, identity={"dim": 24})
    with pytest.raises(DamagedStoreError, match=f"run {run_name(head.run)}: its arrays do not fit together"):
        export_head(tmp_path / "heads.h5", form)
    assert [file.name for file in tmp_path.iterdir()] == ["heads.h5"]
