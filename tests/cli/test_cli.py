from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import call, fail, runner, succeed
from samples import flip_bit, make_features, write_palm_folder, write_sample, write_tone

from palm_cache.cli import app
from palm_cache.cli.terminal import print_table
from palm_cache.extraction.datasets import splits
from palm_cache.report.means import HEADINGS, NAMES_AND_ACCURACY
from palm_cache.store.features import FeatureStore
from palm_cache.store.places import local


def test_the_whole_job_by_hand(workplace: Path) -> None:
    extracted = succeed("extract", "--dataset", "Tones")
    assert extracted.stdout == "12 clips -> data/features/Tones/mini.zarr (12 embedded now, 0 known)\n"
    again = succeed("extract", "--dataset", "Tones")
    assert "(0 embedded now, 12 known)" in again.stdout
    fitted = succeed("fit", "--shots", "2", "--seeds", "0,1")
    assert "palm" in fitted.stdout
    assert "zero-shot" in fitted.stdout
    assert "scores -> runs/scores.csv" in fitted.stdout
    for name in ("scores.csv", "predictions.h5", "metrics.json", "Tones/mini/heads.h5"):
        assert (workplace / "runs" / name).is_file()
    evaluated = succeed("evaluate")
    assert "palm" in evaluated.stdout
    reported = succeed("report")
    assert "report -> runs/report/index.html" in reported.stdout
    assert (workplace / "runs" / "report" / "index.html").is_file()


def test_heads_that_learn_words_train_through_minis_text_tower(workplace: Path) -> None:
    succeed("extract", "--dataset", "Tones")
    words = ("--shots", "2", "--seeds", "0,1", "--epochs", "3")
    rows = json.loads(succeed("fit", "--head", "coop,cocoop,palm", *words, "--json").stdout)
    counts = {row["head"]: row["n_params"] for row in rows}
    assert counts == {"coop": 16 * 64, "cocoop": 16 * 64 + 32 * 513 + 64 * 33, "palm": 2 * 513}
    listed = json.loads(succeed("heads", "--dataset", "Tones", "--json").stdout)
    assert counts.items() <= {row["name"]: row["parameters"] for row in listed}.items()
    assert json.loads(succeed("evaluate", "--json").stdout) == rows


def test_two_encoders_are_joined_fitted_and_evaluated_again(workplace: Path) -> None:
    features = make_features()
    for encoder, name in (("mini", "mini"), ("clap:models/other", "clap-other")):
        for dataset in ("clusters", "more") if name == "mini" else ("clusters",):
            store = replace(
                features, dataset=dataset, encoder=encoder, audio=features.audio.flip(0, 2).flip(0)
            )
            write_sample(Path(f"data/features/{dataset}/{name}.zarr"), store)
    both = ("--encoder", "mini", "--encoder", "clap:models/other")
    words = ("--head", "muka,kernel-ridge", "--shots", "4", "--seeds", "0,1", "--json")
    rows = json.loads(succeed("fit", *both, *words).stdout)
    # Only one of the datasets has stores of both.
    assert {(row["dataset"], row["encoder"], row["head"]) for row in rows} == {
        ("clusters", "mini+clap-other", "muka"),
        ("clusters", "mini+clap-other", "kernel-ridge"),
    }
    assert Path("runs/clusters/mini+clap-other/heads.h5").is_file()
    assert json.loads(succeed("evaluate", *both, "--json").stdout) == rows
    assert json.loads(succeed("evaluate", "--dataset", "clusters", "--json").stdout) == rows
    alone = json.loads(succeed("fit", "--encoder", "mini", "--head", "prototype", "--json").stdout)
    assert {row["encoder"] for row in alone} == {"mini"}
    assert "'muka' needs the features of 2 encoders" in fail("fit", "--encoder", "mini", "--head", "muka")
    assert "no feature store of encoder clap:nowhere" in fail(
        "fit", "--encoder", "mini", "--encoder", "clap:nowhere", "--head", "muka"
    )
    write_sample(Path("data/features/third/clap-third.zarr"), replace(features, encoder="clap:third"))
    assert "no dataset has a store of each encoder" in fail(
        "fit", "--encoder", "mini", "--encoder", "clap:third", "--head", "muka"
    )


def test_parameters_that_grow_with_the_shots_are_counted_for_so_many(workplace: Path) -> None:
    write_sample(Path("data/features/clusters/mini.zarr"), make_features(n_views=2))
    listed = {
        row["name"]: row["parameters"]
        for row in json.loads(succeed("heads", "--dataset", "clusters", "--shots", "3", "--json").stdout)
    }
    assert listed["tip-adapter-f"] == 4 * 3 * 2 * 24
    assert listed["linear-probe"] == 4 * 25
    assert listed["kernel-ridge"] == listed["tip-adapter"] == listed["prototype"] == 0


def test_a_text_tower_of_another_encoder_is_refused(workplace: Path) -> None:
    write_sample(Path("data/features/clusters/mini.zarr"), make_features())
    message = fail("fit", "--head", "coop")
    assert "encoder mini: other " in message
    assert "than those that made the clusters store" in message


def test_clips_can_be_scored_by_the_mean_of_their_views(workplace: Path) -> None:
    write_sample(Path("data/features/clusters/mini.zarr"), make_features(n_views=3, noise=2))
    words = ("fit", "--head", "palm", "--shots", "4", "--seeds", "0", "--epochs", "3", "--json")
    first = json.loads(succeed(*words).stdout)
    mean = json.loads(succeed(*words, "--test-views", "mean").stdout)
    assert [row["head"] for row in first] == ["palm"]
    assert mean[0]["accuracy"] > first[0]["accuracy"]
    by_head = {row["head"]: row["accuracy"] for row in json.loads(succeed("evaluate", "--json").stdout)}
    assert by_head == {
        "palm@epochs=3": first[0]["accuracy"],
        "palm@epochs=3,test_views=mean": mean[0]["accuracy"],
    }
    assert '""test_views"": ""mean""' in Path("runs/scores.csv").read_text()
    assert runner.invoke(app, ["fit", "--test-views", "median"]).exit_code == 2


def test_json_is_one_document_and_nothing_else(workplace: Path) -> None:
    store = "data/features/Tones/mini.zarr"
    extracted = json.loads(succeed("extract", "--dataset", "Tones", "--json").stdout)
    assert (extracted["n_clips"], extracted["embedded"], extracted["failures"]) == (12, 12, [])
    fitted = json.loads(succeed("fit", "--shots", "2", "--seeds", "0", "--json").stdout)
    assert {row["head"] for row in fitted} == {"palm", "proker", "zero-shot"}
    assert json.loads(succeed("evaluate", "--json").stdout) == fitted
    assert json.loads(succeed("report", "--json").stdout) == fitted
    prompts = json.loads(succeed("prompts", "--json").stdout)
    assert len(prompts) == 9
    assert {"dataset", "encoder", "template", "accuracy"} == set(prompts[0])
    assert json.loads(succeed("store", "info", store, "--json").stdout)["clips"] == 12
    assert json.loads(succeed("store", "verify", store, "--json").stdout)["sound"] is True
    for command, key in (("datasets", "licence"), ("encoders", "spec"), ("heads", "learns")):
        assert all(row[key] for row in json.loads(succeed(command, "--json").stdout))


def test_stretches_of_a_file_that_is_cut_off_are_one_line_that_says_where(workplace: Path) -> None:
    birds = workplace / "Birds"
    birds.mkdir()
    for name, seconds in (("short", 4), ("torn", 30)):
        file = birds / f"{name}.flac"
        soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, seconds * 8_000), 8_000)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    write_tone(birds / "whole.wav", 200)
    result = succeed("extract", "--dataset", "Birds", "--window", "5")
    reason = "cut off or damaged: not all of it can be decoded"
    lines = [f"torn.flac, 10-15 s and 3 more of it: {reason}", f"short.flac: {reason}"]
    assert {f"skipped {line}" for line in lines} == {
        line for line in result.stderr.splitlines() if line.startswith("skipped")
    }
    told = succeed("store", "info", "data/features/Birds/mini.zarr").stdout.splitlines()
    assert {f"    {line}" for line in lines} == set(told[-2:])


def test_skipped_clips_are_listed_counted_and_do_not_stop(workplace: Path) -> None:
    (workplace / "Tones" / "audios" / "train_0_0.wav").write_bytes(b"<html>")
    (workplace / "Tones" / "audios" / "test_1_0.wav").unlink()
    result = succeed("extract", "--dataset", "Tones")
    assert "skipped audios/train_0_0.wav: cannot be decoded: format not recognised" in result.stderr
    assert "skipped audios/test_1_0.wav: no such file" in result.stderr
    assert "(10 embedded now, 0 known, 2 skipped)" in result.stdout
    assert (
        "audios/test_1_0.wav: no such file"
        in succeed("store", "info", "data/features/Tones/mini.zarr").stdout
    )
    fitted = succeed("fit", "--shots", "2")
    assert "note: Tones: 2 clips have no embedding and are left out" in fitted.stderr


def test_fit_takes_every_store_or_those_asked_for(workplace: Path) -> None:
    write_palm_folder(workplace / "More")
    for dataset in ("Tones", "More"):
        succeed("extract", "--dataset", dataset)
    rows = json.loads(succeed("fit", "--head", "zero-shot", "--json").stdout)
    assert {row["dataset"] for row in rows} == {"Tones", "More"}
    rows = json.loads(
        succeed("fit", "--head", "zero-shot", "--dataset", "More", "--out", "other", "--json").stdout
    )
    assert {row["dataset"] for row in rows} == {"More"}
    store = "data/features/Tones/mini.zarr"
    rows = json.loads(
        succeed("fit", "--head", "zero-shot", "--store", store, "--out", "third", "--json").stdout
    )
    assert {row["dataset"] for row in rows} == {"Tones"}


def test_again_with_folds_to_be_made_no_audio_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sounds of one length have files of one size: to keep copies in one fold, contents are compared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "RACY_NS", 0)
    for number in range(10):
        file = tmp_path / "birds" / ("wren", "rook")[number % 2] / f"{number}.wav"
        write_tone(file, 300 + 9 * number, seconds=0.1, seed=number)
    succeed("extract", "--dataset", "./birds")
    store = FeatureStore(Path("data/features/birds/mini.zarr"))
    before = [fold.test.tolist() for fold in store.folds()]
    assert len(before) == 5
    for name in ("_sample", "_sha256"):
        monkeypatch.setattr(splits, name, lambda file: pytest.fail(f"{file} is read"))
    assert "(0 embedded now, 10 known)" in succeed("extract", "--dataset", "./birds").stdout
    assert [fold.test.tolist() for fold in store.folds()] == before
    with pytest.raises(pytest.fail.Exception, match="is read"):
        call("extract", "--dataset", "./birds", "--check", "content")


def test_a_labelled_store_is_not_replaced_by_one_without_labels_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        write_tone(tmp_path / "birds" / ("wren", "rook")[number % 2] / f"{number}.wav", 300, seed=number)
    store = Path("data/features/birds/mini.zarr")
    succeed("extract", "--dataset", "./birds")
    lost = "it has labels of 2 classes, and the dataset as it is read now has none"
    assert lost in fail("extract", "--dataset", "./birds", "--as", "flat")
    assert lost in succeed("extract", "--dataset", "./birds", "--as", "flat", "--dry-run").stdout
    assert FeatureStore(store).header.class_names == ("rook", "wren")
    succeed("extract", "--dataset", "./birds", "--as", "flat", "--on-stale", "rebuild")
    assert FeatureStore(store).header.class_names == ()


def test_of_several_datasets_those_that_are_not_here_are_reported_and_skipped(workplace: Path) -> None:
    write_palm_folder(workplace / "More")
    several = ("--dataset", "Tones", "--dataset", "urbansound8k", "--dataset", "More")
    extracted = succeed("extract", *several, "--features", "stores")
    assert "note: skipped: UrbanSound8K is not in data/raw/UrbanSound8K" in extracted.stderr
    assert extracted.stdout.splitlines() == [
        "12 clips -> stores/Tones/mini.zarr (12 embedded now, 0 known)",
        "12 clips -> stores/More/mini.zarr (0 embedded now, 12 known)",  # the same clips
    ]
    listed = json.loads(succeed("extract", *several, "--features", "stores", "--json").stdout)
    assert [store["embedded"] for store in listed["stores"]] == [0, 0]
    assert listed["absent"] == ["urbansound8k"]
    fitted = succeed("fit", *several, "--features", "stores", "--head", "zero-shot", "--json")
    assert "note: skipped: no feature store at stores/UrbanSound8K/mini.zarr" in fitted.stderr
    assert {row["dataset"] for row in json.loads(fitted.stdout)} == {"Tones", "More"}
    chosen = json.loads(succeed("evaluate", "--dataset", "More", "--json").stdout)
    assert {row["dataset"] for row in chosen} == {"Tones", "More"}  # the table is of all scores
    (absent,) = call("extract", "--dataset", "urbansound8k", "--dataset", "esc50").stderr.splitlines()
    assert "none of the 2 datasets is here: urbansound8k, esc50; palm-cache datasets NAME says how" in absent
    assert runner.invoke(app, ["extract", *several, "--out", "one.zarr"]).exit_code == 2


def test_a_malformed_dataset_stops_before_the_others_are_embedded(workplace: Path) -> None:
    (write_palm_folder(workplace / "More") / "train.csv").write_text("path,classname\naudios/x.wav,\n")
    message = fail("extract", "--dataset", "Tones", "--dataset", "More")
    assert "train.csv, row 2: class name is empty" in message
    assert not Path("data/features/Tones").exists()


def test_a_parameter_file_gives_options_and_the_command_line_wins(workplace: Path) -> None:
    (workplace / "params.yaml").write_text("datasets: Tones\nfit: {heads: [palm], shots: [1], seeds: [3]}\n")
    succeed("extract", "--params", "params.yaml")
    rows = json.loads(succeed("fit", "--params", "params.yaml", "--shots", "2", "--json").stdout)
    assert [(row["head"], row["shots"], row["seeds"]) for row in rows] == [("palm", 2, 1)]


def test_without_evaluation_only_heads_are_written(workplace: Path) -> None:
    succeed("extract", "--dataset", "Tones")
    assert succeed("fit", "--no-evaluate").stdout == "heads -> runs/Tones/mini/heads.h5\n"
    assert not (workplace / "runs" / "scores.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("extract", "--dataset", "urbansound8k"), "UrbanSound8K is not in data/raw/UrbanSound8K (6.0 GB"),
        (("extract", "--dataset", "urbansund8k"), "did you mean UrbanSound8K?"),
        (
            ("extract", "--dataset", "Tones", "--encoder", "minni"),
            "unknown encoder 'minni'; did you mean mini?",
        ),
        (
            ("extract", "--dataset", "Tones", "--encoder", "clap"),
            "encoder 'clap': say which weights: ",
        ),
        (
            ("extract", "--dataset", "Tones", "--device", "cuda:99"),
            "CUDA devices here; set --device to auto or cpu",
        ),
        (("extract", "--params", "nowhere.yaml"), "nowhere.yaml: cannot read the parameters"),
        (("fit",), "no feature store here; make one with: palm-cache extract"),
        (
            ("fit", "--dataset", "Tones"),
            "no feature store at data/features/Tones/mini.zarr; make it with: "
            "palm-cache extract --dataset Tones",
        ),
        (("fit", "--head", "palm", "--store", "x.zarr"), "x.zarr: no feature store here"),
        (("evaluate",), "runs: no results here; make them with: palm-cache fit"),
        (("report",), "runs: no results here; make them with: palm-cache fit"),
        (("store", "info", "x.zarr"), "x.zarr: no feature store here"),
    ],
)
def test_mistakes_are_told_in_one_line_with_the_next_step(
    workplace: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in fail(*words)


def test_an_unknown_head_is_named_with_its_near_matches(workplace: Path) -> None:
    succeed("extract", "--dataset", "Tones")
    assert "unknown head 'plam'; did you mean palm" in fail("fit", "--head", "plam")


@pytest.mark.parametrize(
    "words",
    [
        ("extract",),
        ("fit", "--shots", "many"),
        ("extract", "--dataset", "Tones", "--precision", "fp16"),
        ("extract", "--dataset", "Tones", "--on-stale", "never"),
        ("frobnicate",),
        ("fit", "--no-such-option"),
    ],
)
def test_wrong_usage_exits_with_2(workplace: Path, words: tuple[str, ...]) -> None:
    assert call(*words).exit_code == 2


def test_verify_names_the_damaged_chunk_and_extract_makes_the_store_anew(workplace: Path) -> None:
    succeed("extract", "--dataset", "Tones")
    store = Path("data/features/Tones/mini.zarr")
    flip_bit(store / "audio" / "c" / "0" / "0" / "0", 99)
    verified = call("store", "verify", str(store))
    assert verified.exit_code == 1
    assert "audio/c/0/0/0 is damaged" in verified.stdout
    assert "audio is damaged" in fail("fit")
    anew = succeed("extract", "--dataset", "Tones")
    assert "(0 embedded now, 12 known)" in anew.stdout
    assert "note: made anew: audio/c/0/0/0 is damaged" in anew.stderr
    assert f"{store}: OK; 12 clips" in succeed("store", "verify", str(store)).stdout


def test_a_name_that_looks_like_markup_is_printed_as_it_is(workplace: Path) -> None:
    write_sample(Path("data/features/x/mini.zarr"), replace(make_features(), dataset="[bold]x"))
    assert "[bold]x" in succeed("fit", "--head", "zero-shot").stdout


def test_a_narrow_terminal_shows_names_and_accuracy_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    for encoder in ("clap-clap-htsat-unfused", "a-name-that-never-ends" * 4 + "!"):
        names = ("UrbanSound8K", encoder, "palm-prototype")
        row = (*names, "16", "97.81 ± 0.24", "97.80 ± 0.24", "10", "3", "5,130")
        print_table(HEADINGS, [row], keep=NAMES_AND_ACCURACY)
        told = capsys.readouterr()
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told.out)
        assert max(map(len, shown.split("\n"))) <= 80
        assert "…" not in shown
        for text in ("UrbanSound8K", "palm-prototype", "16", "97.81 ± 0.24", encoder[:20], encoder[-1]):
            assert text in shown
        assert "note: no room for macro F1 %, folds, seeds, parameters;" in told.err
