from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from command_line import call, fail, succeed
from samples import write_tone
from torch.nn.functional import normalize

import palm_cache
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.params.use import LoadingParams
from palm_cache.retrieval.queries import text_query
from palm_cache.retrieval.stores import Stores

STORE = "data/features/Tones/mini.zarr"


def test_prompts_of_ones_own_go_from_their_files_to_a_fitted_head(workplace: Path) -> None:
    Path("prompts.txt").write_text("{c}, far away\n")
    Path("texts.csv").write_text("classname,text\nhigh tone,a whistle\nhigh tone,a flute\nlow tone,a hum\n")
    succeed("extract", "--dataset", "Tones")
    words = ("extract", "--dataset", "Tones", "--templates", "prompts.txt", "--descriptions", "texts.csv")
    planned = succeed(*words, "--dry-run").stdout
    assert "other templates, other descriptions than before: text is embedded anew" in planned
    assert "0 embedded now, 12 known" in succeed(*words).stdout
    shown = succeed("store", "info", STORE).stdout
    assert "description of high tone: a whistle; a flute" in shown
    assert "OK; 12 clips" in succeed("store", "verify", STORE, "--recompute", "1").stdout
    scored = json.loads(succeed("prompts", "--dataset", "Tones", "--json").stdout)
    held = ["{c}", "The is a recording of  {c}.", "{c}, far away", "descriptions", "all"]
    assert [row["template"] for row in scored] == held
    fitting = ("fit", "--dataset", "Tones", "--shots", "2", "--seeds", "0", "--head", "zero-shot,palm")
    for template in held[2:]:
        succeed(*fitting, "--template", template, "--epochs", "2", "--no-calibrate")
    assert "unknown template 'far away'" in fail(*fitting, "--template", "far away")
    succeed("report")
    assert "far away" in Path("runs/report/report.md").read_text()


def test_a_search_reads_the_templates_and_not_the_name_of_the_descriptions(workplace: Path) -> None:
    described = {"high tone": ("a whistle",), "low tone": ("a hum",)}
    features = palm_cache.extract("Tones", prompts=palm_cache.Prompts(("{c}, far away",), described))
    query = text_query(Stores([features.store]), "siren", LoadingParams())
    prompts = ["siren", "The is a recording of  siren.", "siren, far away"]
    units = normalize(load_encoder("mini", device="cpu").embed_text(prompts), dim=1)
    np.testing.assert_allclose(query, units.mean(dim=0), atol=1e-6)


def test_descriptions_go_with_one_dataset_and_files_that_are_wrong_are_named(workplace: Path) -> None:
    Path("texts.csv").write_text("classname,text\nhigh tone,a whistle\nhigh tnoe,a flute\n")
    words = ("extract", "--dataset", "Tones", "--descriptions", "texts.csv")
    assert "'high tnoe'; did you mean high tone" in fail(*words)
    result = call(*words, "--dataset", "demo")
    assert result.exit_code == 2
    assert "goes with one dataset" in result.stderr
    Path("prompts.txt").write_text("")
    assert "prompts.txt: holds no template" in fail(
        "extract", "--dataset", "Tones", "--templates", "prompts.txt"
    )
    Path("params.yaml").write_text("datasets: Tones\nprompts: {templates: prompts.txt}\n")
    assert "prompts.txt: holds no template" in fail("extract", "--params", "params.yaml")


def test_nothing_is_fitted_or_scored_where_nothing_is_labelled(workplace: Path) -> None:
    for number in range(3):
        write_tone(Path(f"flat/{number}.wav"), 200 + 50 * number)
    succeed("extract", "--dataset", "flat")
    for words in (("fit", "--shots", "1"), ("fit", "--head", "zero-shot"), ("prompts",)):
        assert "flat: has no labels of two classes, so nothing can be learned" in fail(
            *words, "--dataset", "flat"
        )
    assert not Path("runs/flat").exists()
    for name in "ab":
        write_tone(Path(f"tiny/{name}/0.wav"), 200 + 50 * ord(name))
    succeed("extract", "--dataset", "tiny")
    # Where nobody asks for it, it keeps no other dataset from being learned from.
    succeed("extract", "--dataset", "Tones")
    for words in (("fit", "--head", "zero-shot"), ("prompts",)):
        done = succeed(*words)
        store = "data/features/flat/mini.zarr"
        note = f"note: skipped: {store} has no labels of two classes; label it with: palm-cache label {store}"
        assert note in done.stderr
        assert "skipped: data/features/tiny/mini.zarr has a fold that trains on clips of one" in done.stderr
        assert "Tones" in done.stdout
