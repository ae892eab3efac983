"""Heads on the features of two encoders side by side: used, calibrated and exported as others are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fail, succeed
from samples import write_palm_folder, write_tone
from tiny_clap import save_tiny_clap

import palm_cache
from palm_cache.errors import StoreError
from palm_cache.extraction import reading
from palm_cache.params import FitParams
from palm_cache.prediction.answers import Answer
from palm_cache.prediction.classifier import Classifier
from palm_cache.prediction.clips import predict_files
from palm_cache.prediction.export import export_head
from palm_cache.store.head_writing import write_heads
from palm_cache.store.heads import read_heads


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], Path]:
    """Tones, their stores from mini and from a small CLAP, and heads on both."""
    root = tmp_path_factory.mktemp("joined")
    data, clap = write_palm_folder(root / "Tones"), save_tiny_clap(root / "clap")
    stores = [root / "mini.zarr", root / "clap.zarr"]
    for spec, store in zip(("mini", f"clap:{clap}"), stores, strict=True):
        palm_cache.extract(data, spec, store=store)
    params = FitParams(heads=("muka", "prototype"), shots=(4,), seeds=(0,))
    return data, stores, palm_cache.fit(stores, params, out=root / "runs").heads


@pytest.mark.parametrize("run", ["muka", "prototype"])
def test_files_get_the_answer_of_their_rows(joined: tuple[Path, list[Path], Path], run: str) -> None:
    data, stores, heads = joined
    rows = palm_cache.predict(heads, store=stores, run=run)
    files = palm_cache.predict(heads, [data / path for path in rows.table["path"]], run=run)
    assert files.table["label"].tolist() == rows.table["label"].tolist()
    np.testing.assert_allclose(files.probabilities, rows.probabilities, atol=1e-4)


def test_a_timeline_and_a_missing_encoder_are_refused(
    joined: tuple[Path, list[Path], Path], tmp_path: Path
) -> None:
    data, _, heads = joined
    words = ("predict", str(heads), str(data / "audios"))
    assert "a timeline slides one window" in fail(*words, "--timeline")
    assert "name them all, as mini+clap:" in fail(*words, "--encoder", "mini")
    fitted, places = read_heads(heads)
    write_heads(tmp_path / "heads.h5", fitted, *places, identity={"encoder": "mini"})
    earlier = fail("predict", str(tmp_path / "heads.h5"), str(data / "audios"))
    assert "fit it again with: palm-cache fit" in earlier


def test_answers_come_while_later_files_wait(
    joined: tuple[Path, list[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many files only few are held: the first answer does not wait for the last file."""
    _, _, heads = joined
    clips, read, inner = [tmp_path / f"{number}.wav" for number in range(150)], [0], reading.read_views
    for number, clip in enumerate(clips):
        write_tone(clip, 440, seconds=0.2, seed=number)

    def counted(file, **options):  # type: ignore[no-untyped-def]
        read[0] += 1
        return inner(file, **options)

    monkeypatch.setattr(reading, "read_views", counted)
    results = predict_files(Classifier.load(heads, "prototype"), clips, batch_size=2)
    assert isinstance(next(results), Answer)
    assert read[0] < len(clips)  # by the first encoder alone it would be as many
    results.close()


def test_two_stores_of_one_encoder_are_refused(joined: tuple[Path, list[Path], Path], tmp_path: Path) -> None:
    _, (mini, clap), heads = joined
    twin = Path(shutil.copytree(mini, tmp_path / "twin.zarr"))
    with pytest.raises(StoreError, match=f"{mini} and {twin} are both of .*mini; give one of them"):
        palm_cache.predict(heads, store=[mini, clap, twin])
    with pytest.raises(StoreError, match=f"{mini} and {twin} are both of mini; join stores of different"):
        palm_cache.fit([mini, twin], FitParams(heads=("muka",)), out=tmp_path / "runs")
    assert "are both of " in fail(
        "predict", str(heads), "--store", str(mini), "--store", str(twin), "--store", str(clap)
    )


def test_they_are_calibrated_on_their_own_shots(
    joined: tuple[Path, list[Path], Path], tmp_path: Path
) -> None:
    _, _, heads = joined
    fitted, places = read_heads(heads)
    bare = tmp_path / "heads.h5"
    write_heads(bare, [replace(head, calibration=None) for head in fitted], *places)
    succeed("calibrate", str(bare), "--run", "muka")
    (head,) = [head for head in read_heads(bare)[0] if head.run.head == "muka"]
    assert head.calibration is not None
    assert head.calibration == next(known.calibration for known in fitted if known.run == head.run)


@pytest.mark.parametrize("run", ["muka", "prototype"])
def test_their_graph_reads_both_embeddings_side_by_side(
    joined: tuple[Path, list[Path], Path], tmp_path: Path, run: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, stores, heads = joined
    written = export_head(heads, "onnx", run, tmp_path / "head.onnx")
    told = str(written.card["embedding"])
    assert told.startswith("of mini, then clap:")
    assert told.endswith("each scaled to unit length")
    session = onnxruntime.InferenceSession(str(written.file), providers=["CPUExecutionProvider"])
    parts = [torch.from_numpy(palm_cache.open_features(store).centre) for store in stores]
    embedding = torch.cat([torch.nn.functional.normalize(part, dim=1) for part in parts], dim=1)
    _, probabilities = session.run(None, {"embedding": embedding.numpy()})
    rows = palm_cache.predict(heads, store=stores, run=run)
    np.testing.assert_allclose(probabilities, rows.probabilities, atol=1e-4)


def test_a_file_of_one_head_holds_none_of_them(joined: tuple[Path, list[Path], Path], tmp_path: Path) -> None:
    message = fail("export", str(joined[2]), "--to", "safetensors", "--run", "muka")
    assert "pass on heads.h5, or export it as onnx" in message
