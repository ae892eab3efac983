from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import write_palm_folder, write_tone
from tiny_clap import save_tiny_clap
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
from typer.testing import CliRunner

from palm_cache.bench.extraction import Contender, bench_extraction, contenders, find_files
from palm_cache.bench.runners import ExtractionRunner, ExtractionSetup, PlainRunner, Turn
from palm_cache.cli import app
from palm_cache.errors import DataError
from palm_cache.extraction.encoders.devices import CPU_BATCH
from palm_cache.params import Recipe

ON_CPU = ExtractionSetup(Recipe(), "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of half a second and one of 14 s at another rate; tables and rubbish beside them."""
    root = write_palm_folder(tmp_path_factory.mktemp("bench") / "Tones")
    write_tone(root / "audios" / "long.flac", 500, seconds=14, rate=22_050)
    (root / "audios" / "rubbish.wav").write_bytes(b"<html>")
    return root


def test_files_are_audio_spread_over_the_folder(folder: Path) -> None:
    assert len(find_files(folder, 99)) == 13
    few = find_files(folder, 5)
    assert len({file.name.split("_")[0] for file in few}) > 1
    assert find_files(folder, 5) == few


def test_a_folder_without_audio_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to hear")
    with pytest.raises(DataError, match=r"no audio below this folder; name another \(files\), or"):
        find_files(tmp_path, 5)


@pytest.mark.parametrize("name", ["mini", "clap", "fused", "hf"])
def test_the_plain_loop_and_extraction_give_the_same(name: str, folder: Path, tmp_path: Path) -> None:
    spec = f"{name.replace('fused', 'clap')}:{tmp_path / 'tiny'}"
    if spec.startswith("clap"):
        save_tiny_clap(tmp_path / "tiny", fused=name == "fused")
    elif name == "hf":
        widths = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (8,) * 7}
        positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
        config = Wav2Vec2Config(num_hidden_layers=1, **widths, **positions)
        Wav2Vec2Model(config).save_pretrained(tmp_path / "tiny")
        Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "tiny")
    else:
        spec = "mini"
    # Of a clip beyond its window a fused model hears more than the loop's crop.
    files = [file for file in find_files(folder, 13) if name != "fused" or file.stem != "long"]
    plain = PlainRunner(spec, files, ON_CPU)
    ours = ExtractionRunner(spec, files, ON_CPU, tmp_path / "cache")
    for runner in (plain, ours):
        runner.prepare()
        runner.embed()
    np.testing.assert_allclose(plain.embeddings(), ours.embeddings(), atol=1e-4)
    assert (plain.run_tower(), ours.run_tower()) == (False, name in ("mini", "clap"))


def test_the_tower_alone_sees_every_clip_in_batches(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ExtractionRunner("mini", find_files(folder, 99), ON_CPU, tmp_path / "cache")
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(runner, "_run_tower", lambda log_mel: seen.append(tuple(log_mel.shape[:2])))
    runner.run_tower()
    assert sorted(seen) == [(1, 6), *[(CPU_BATCH, 1)] * 3]


def test_ratios_compare_neighbours_in_time() -> None:
    from palm_cache.bench.extraction import _result

    rows = np.eye(2, dtype=np.float32)
    # The machine was half as fast in the second of three rounds: no ratio moves.
    plain = Contender(
        "plain", ON_CPU, turns=[Turn(4 * slow, 8 * slow, None) for slow in (1, 2, 1)], embeddings=rows
    )
    torchs = Contender(
        "torch", ON_CPU, turns=[Turn(2 * slow, 3 * slow, 1.5 * slow) for slow in (1, 2, 1)], embeddings=rows
    )
    turned = Contender(
        "turned", ON_CPU, turns=torchs.turns, embeddings=np.array([[1, 1], [0, 3]], np.float32)
    )
    slowest, quick, other = (_result(one, plain, torchs) for one in (plain, torchs, turned))
    assert (slowest.speedup, slowest.of_ceiling, slowest.tower_seconds) == (1, None, None)
    assert (quick.speedup, quick.of_ceiling, quick.seconds, quick.cpu_seconds) == (2, 0.75, 1, 1.5)
    assert (quick.tower_seconds, quick.min_cosine) == (0.75, 1)
    assert other.min_cosine == pytest.approx(0.5**0.5)


def test_every_combination_that_is_asked_for_is_a_way() -> None:
    how = ExtractionSetup(Recipe(compile=True), batch_size=2)
    ways = contenders(how, ("fp32", "bf16"), ("torch", "openvino"))
    assert [way.name for way in ways] == [
        "plain loop",
        "torch fp32",
        "torch fp32 compiled",
        "torch bf16",
        "torch bf16 compiled",
        "openvino fp32",
        "openvino bf16",
    ]
    assert all(way.how.batch_size == 2 for way in ways)


def test_a_way_that_cannot_be_taken_is_left_out_and_said(folder: Path) -> None:
    impossible = Contender("on a GPU", ExtractionSetup(Recipe(), "cuda:99"))
    ways = [*contenders(ON_CPU, ("fp32",), ("torch",)), impossible]
    done = bench_extraction("mini", folder, ways, n_clips=3, rounds=1, threads=1)
    assert [result.name for result in done.results] == ["plain loop", "torch fp32"]
    assert len(done.left_out) == 1
    assert done.left_out[0].startswith("on a GPU: device 'cuda:99'")
    assert torch.get_num_threads() >= 1


def test_the_command_prints_a_table_or_one_json_document(folder: Path) -> None:
    words = ["bench", "extract", "--files", str(folder), "--clips", "6", "--rounds", "2"]
    words += ["--precision", "fp32", "--runtime", "torch", "--threads", "1"]
    printed = CliRunner().invoke(app, [*words, "--json"])
    assert printed.exit_code == 0, printed.output
    done = json.loads(printed.stdout)
    assert (done["encoder"], done["n_files"], done["rounds"], done["threads"]) == ("mini", 6, 2, 1)
    plain, ours = done["results"]
    assert (plain["name"], ours["name"]) == ("plain loop", "torch fp32")
    assert plain["speedup"] == 1
    assert len(ours["turns"]) == 2
    assert ours["speedup"] > 0
    assert ours["of_ceiling"] > 0
    assert plain["min_cosine"] > 0.99999
    assert ours["peak_bytes"] > 1e8


@pytest.mark.parametrize("words", [("--precision", "fp16"), ("--runtime", "torch,onnx")])
def test_wrong_usage_exits_with_2(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["bench", "extract", *words])
    assert result.exit_code == 2
    assert "is not one of" in " ".join(result.stderr.split())


def test_a_number_of_rounds_that_makes_no_sense_is_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["bench", "extract", "--rounds", "0"])
    assert result.exit_code == 2
    assert "--rounds: 0 is not a whole number from 1 to 1000" in " ".join(result.stderr.split())


def test_an_encoder_that_cannot_be_loaded_is_one_line(folder: Path) -> None:
    words = ["bench", "extract", "--files", str(folder), "--encoder", "clap:/nowhere/at/all"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "error: clap:/nowhere/at/all: no such directory" in result.stderr
