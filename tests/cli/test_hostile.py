"""What strangers' names, odd values and other processes do to a command: one line."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from command_line import call, fail, misuse, runner, succeed
from samples import make_features, write_palm_folder, write_sample
from workshop import Workshop

from palm_cache.cli import app
from palm_cache.cli.commands import Commands
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.store.heads import read_runs
from palm_cache.store.scores import read_predictions, read_scores

ESCAPES = "\x1b]0;title\x07red\x1b[31m\u202e\x9b2J"


"""A class name that would rename, colour and clear a terminal."""


FIT = ("--shots", "1", "--seeds", "0", "--epochs", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def controls(text: str) -> set[str]:
    """Every control character of a text but the ends of its lines."""
    return {letter for letter in text if not letter.isprintable()} - {"\n", "\u3000", "\u00a0"}


def test_names_with_escape_sequences_are_written_out_everywhere(folder: Path) -> None:
    write_palm_folder(folder / "Tones")
    write_palm_folder(folder / "Odd", classes=("low", ESCAPES))
    (folder / "Tones" / "audios" / "test_0_0.wav").write_text("no sound")
    table = read_dataset("Tones")  # no table of a user's gets so far
    named = replace(table, class_names=(table.class_names[0], ESCAPES))
    extract(named, "mini", Path("data/features/Tones/mini.zarr"))
    for words in (
        ("extract", "--dataset", "Odd"),
        ("extract", "--dataset", "Odd", "--dry-run"),
        ("store", "info", "data/features/Tones/mini.zarr"),
        ("store", "info", "data/features/Tones/mini.zarr", "--json"),
        ("fit", *FIT),
        ("predict", "runs/Tones/mini", "Tones/audios"),
        ("predict", "runs/Tones/mini", "Tones/audios", "--json"),
        ("predict", "runs/Tones/mini", "Tones/audios", "--csv", "-"),
        ("predict", "runs/Tones/mini", "Tones/audios", "--csv", "written.csv"),
        ("export", "runs/Tones/mini", "--to", "safetensors", "--json"),
        ("report", "--json"),
    ):
        result = call(*words)
        assert controls(result.stdout) == controls(result.stderr) == set(), words
    assert controls(Path("written.csv").read_text()) == set()
    assert r"\x1b]0;title\x07red" in succeed("store", "info", "data/features/Tones/mini.zarr").stdout
    document = json.loads(succeed("store", "info", "data/features/Tones/mini.zarr", "--json").stdout)
    assert ESCAPES in document["class_names"]


def test_line_breaks_and_formulas_of_a_class_stay_in_their_cell(folder: Path, workshop: Workshop) -> None:
    link = '=HYPERLINK("http://evil","x")'
    write_palm_folder(folder / "Tones", classes=("@low", "low"))
    for table in ("train.csv", "test.csv"):
        file = folder / "Tones" / table
        quoted = '"' + link.replace('"', '""') + '"'
        file.write_text(file.read_text().replace(",low", f",{quoted}"))
    succeed("extract", "--dataset", "Tones")
    succeed("fit", *FIT)
    printed = succeed("predict", "runs/Tones/mini", "Tones/audios", "--csv", "-", "--top", "2").stdout
    labels = {row[key] for row in csv.DictReader(printed.splitlines()) for key in ("label", "label_2")}
    assert labels == {"'@low", f"'{link}"}


def broken_app(error: BaseException) -> typer.Typer:
    broken = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @broken.command()
    def one() -> None:
        raise error

    @broken.command()
    def two() -> None: ...

    return broken


def test_what_the_machine_refuses_is_one_line_and_a_defect_is_not() -> None:
    refused = runner.invoke(broken_app(PermissionError(13, "Permission denied", "runs/x")), ["one"])
    assert refused.exit_code == 1
    assert refused.stderr == "error: runs/x: permission denied; change that, or choose another place\n"
    for defect in (FileNotFoundError(2, "No such file or directory", "x"), OSError("odd"), KeyError("x")):
        assert runner.invoke(broken_app(defect), ["one"]).exception is defect


@pytest.mark.parametrize("command", ["fit", "evaluate", "report", "prompts"])
def test_a_folder_that_cannot_be_looked_into_is_one_line(folder: Path, command: str) -> None:
    write_sample(folder / "data/features/clusters/mini.zarr", make_features())
    result = call(command, "--out", "x" * 300)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "file name too long" in result.stderr


@pytest.mark.parametrize("out", ["/", ".", ".."])
def test_an_output_without_a_name_is_one_line(folder: Path, workshop: Workshop, out: str) -> None:
    write_palm_folder(folder / "Tones")
    heads, store = str(workshop.heads), str(workshop.store)
    for words in (
        ("extract", "--dataset", "Tones", "--out", out),
        ("export", heads, "--to", "safetensors", "--out", out),
        ("explore", store, "--method", "pca", "--out", out),
        ("predict", heads, str(workshop.data / "audios" / "train_0_0.wav"), "--csv", out),
    ):
        assert "name" in fail(*words), words


@pytest.mark.parametrize("place", ["zip://", "github://x", "nonsense://x", "http://[::1"])
def test_a_place_that_makes_no_sense_is_one_line(place: str) -> None:
    assert "give a folder or a URL" in fail("store", "info", place)


@pytest.mark.parametrize(
    ("option", "value"), [("--views", "1000000000000"), ("--jobs", "10000000"), ("--batch-size", "10" * 9)]
)
def test_a_number_beyond_all_reason_is_one_line(folder: Path, option: str, value: str) -> None:
    write_palm_folder(folder / "Tones")
    assert f"{value} is not a whole number from" in misuse("extract", "--dataset", "Tones", option, value)


@pytest.mark.parametrize(("option", "value"), [("--lr", "nan"), ("--lr", "inf"), ("--epochs", "10" * 9)])
def test_training_beyond_all_reason_is_one_line(option: str, value: str) -> None:
    assert f"{option}: {value} is not a" in misuse("fit", option, value)


@pytest.mark.parametrize(
    "words", [("fit", f"--shots{ESCAPES}"), ("fit", "demo", ESCAPES), ("heads", "--shots", ESCAPES)]
)
def test_wrong_words_are_written_out_too(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert controls(result.stdout) == controls(result.stderr) == set()


def test_credentials_of_a_url_are_never_shown(folder: Path) -> None:
    url = "memory://key:hidden/slash@bucket/absent.zarr"
    assert "hidden" not in call("store", "info", url).output
    assert "hidden" not in call("fit", "--store", url).output
    assert "hidden" not in call("extract", "--dataset", "Tones", "--features", "nonsense://a:hidden@b").output


def test_an_output_never_takes_the_place_of_an_input(workshop: Workshop) -> None:
    shutil.copy(workshop.heads, "heads.h5")
    shutil.copy(workshop.data / "audios" / "train_0_0.wav", "0.wav")
    Path("link.csv").hardlink_to("0.wav")
    before = Path("heads.h5").read_bytes(), Path("0.wav").read_bytes()
    for words, option in (
        (("predict", "heads.h5", "0.wav", "--csv", "./0.wav"), "--csv"),
        (("predict", "heads.h5", "0.wav", "--csv", "link.csv"), "--csv"),
        (("predict", "heads.h5", "0.wav", "--csv", "heads.h5"), "--csv"),
        (("predict", "heads.h5", "0.wav", "--timeline", "--audacity", "./0.wav"), "--audacity"),
        (("predict", ".", "0.wav", "--timeline", "--audacity", "heads.h5"), "--audacity"),
        (("export", "heads.h5", "--to", "safetensors", "--out", "./heads.h5"), "--out"),
        (
            (
                "explore",
                str(workshop.store),
                "--audio",
                ".",
                "--out",
                "heads.h5",
                "--predictions",
                "heads.h5",
            ),
            "--out",
        ),
    ):
        result = call(*words)
        assert result.exit_code == 1, words
        assert option in result.stderr, words
        assert (Path("heads.h5").read_bytes(), Path("0.wav").read_bytes()) == before


def test_extraction_of_nothing_but_broken_clips_fails(folder: Path) -> None:
    write_palm_folder(folder / "Tones")
    clips = list((folder / "Tones" / "audios").iterdir())
    for clip in clips[1:]:
        clip.write_text("no sound")
    assert call("extract", "--dataset", "Tones").exit_code == 0
    clips[0].write_text("no sound")
    result = call("extract", "--dataset", "Tones")
    assert result.exit_code == 1
    assert "none of the clips could be embedded" in result.stderr


def test_a_name_is_no_pattern(folder: Path) -> None:
    write_palm_folder(folder / "birds[1]")
    write_palm_folder(folder / "birds1")
    succeed("extract", "--dataset", "birds[1]", "--dataset", "birds1")
    succeed("fit", *FIT)
    rows = json.loads(
        succeed("evaluate", "--dataset", "birds[1]", "--out", "one", "--heads", "runs", "--json").stdout
    )
    assert {row["dataset"] for row in rows} == {"birds[1]"}


def test_a_copy_of_a_store_and_a_damaged_one_are_passed_over(folder: Path) -> None:
    features = folder / "data" / "features"
    write_sample(features / "clusters" / "mini.zarr", make_features())
    shutil.copytree(features / "clusters", features / "a copy")
    shutil.copytree(features / "clusters" / "mini.zarr", features / "clusters" / "old mini.zarr")
    (features / "broken" / "mini.zarr").mkdir(parents=True)
    (features / "broken" / "mini.zarr" / "zarr.json").write_text("{}")
    result = succeed("fit", "--head", "zero-shot", "--json")
    assert len(json.loads(result.stdout)) == 1
    said = [line for line in result.stderr.splitlines() if line.startswith("note: skipped: ")]
    assert len(said) == 3
    assert (
        sum("has the dataset and encoder of data/features/clusters/mini.zarr" in line for line in said) == 2
    )


def test_a_store_that_calls_itself_a_path_writes_nothing_elsewhere(folder: Path) -> None:
    write_sample(folder / "mini.zarr", make_features())
    for name in ("../../escaped", "/escaped", "..", "", "a\x00b", "a\nb"):
        described = folder / "mini.zarr" / "zarr.json"
        header = json.loads(described.read_text())
        header["attributes"]["dataset"] = name
        described.write_text(json.dumps(header))
        before = set(folder.rglob("*"))
        assert "error: " in fail("fit", "--store", "mini.zarr", "--out", "out/runs")
        assert set(folder.rglob("*")) == before


def test_sweeps_live_side_by_side(folder: Path) -> None:
    write_sample(folder / "mini.zarr", make_features())
    words = ("fit", "--store", "mini.zarr", "--head", "palm", "--seeds", "0", "--folds", "1")
    for rate in (".005", ".05", ".5"):
        succeed(*words, "--lr", rate)
    done = json.loads(succeed("evaluate", "--store", "mini.zarr", "--json").stdout)
    assert {row["head"] for row in done} == {"palm", "palm@lr=0.005", "palm@lr=0.5"}
    scores = read_scores(Path("runs/scores.csv"))
    assert scores[["head", "variant"]].to_numpy().tolist() == [
        ["palm", ""],
        ["palm", "lr=0.005"],
        ["palm", "lr=0.5"],
    ]
    assert scores["accuracy"].nunique() > 1 or scores["loss"].nunique() == 3
    assert len(read_predictions(Path("runs/predictions.h5"))) == 3
    assert len(read_runs(Path("runs/clusters/mini/heads.h5"))) == 3
    assert "palm@lr=0.005" in Path(succeed("report").stdout.split()[-1]).read_text()
    metrics = json.loads(Path("runs/metrics.json").read_text())["clusters"]["mini"]
    assert set(metrics) == {"palm-16shots", "palm@lr=0.005-16shots", "palm@lr=0.5-16shots"}


def fit_seed(folder: Path, seed: int) -> None:
    os.chdir(folder)
    for command in ("fit", "prompts"):
        words = ["--head", "knn", "--seeds", str(seed), "--folds", "1"] if command == "fit" else []
        runner.invoke(app, [command, "--store", f"{seed % 2}.zarr", *words], catch_exceptions=False)


def test_fits_at_once_into_one_folder_lose_nothing(folder: Path) -> None:
    write_sample(folder / "0.zarr", make_features())
    write_sample(folder / "1.zarr", replace(make_features(n_classes=3), dataset="others"))
    context = multiprocessing.get_context("spawn")
    fits = [context.Process(target=fit_seed, args=(folder, seed)) for seed in range(4)]
    for process in fits:
        process.start()
    for process in fits:
        process.join()
    scores = read_scores(Path("runs/scores.csv"))
    keys = set(zip(scores["dataset"], scores["seed"], strict=True))
    assert keys == {("clusters", 0), ("others", 1), ("clusters", 2), ("others", 3)}
    assert len(read_predictions(Path("runs/predictions.h5"))) == 4
    assert len(Path("runs/prompts.csv").read_text().splitlines()) == 1 + 2 * 3 * 9
    for name in ("clusters", "others"):
        assert len(read_runs(Path("runs", name, "mini", "heads.h5"))) == 2


DEEP = b"[" * 100_000


"""JSON that Python's own recursion does not survive."""


@pytest.mark.parametrize("content", [DEEP, b'{"attributes": ' + b'{"a":' * 500 + b"1" + b"}" * 501, None])
def test_a_store_beside_that_is_nested_beyond_reason_or_a_pipe_stops_no_one(
    folder: Path, content: bytes | None
) -> None:
    write_palm_folder(folder / "Tones")
    write_palm_folder(folder / "Other")
    succeed("extract", "--dataset", "Tones")
    evil = folder / "data" / "features" / "Tones" / "evil.zarr"
    shutil.copytree(evil.with_name("mini.zarr"), evil)
    replace_by(evil / "zarr.json", content)
    for words in (
        ("extract", "--dataset", "Tones"),
        ("extract", "--dataset", "Other"),
        ("fit", *FIT),
        ("store", "gc"),
        ("cache", "info"),
    ):
        succeed(*words)
    for words in (("store", "info", str(evil)), ("store", "export", str(evil), "x.npz")):
        assert str(evil) in fail(*words)


@pytest.mark.parametrize("content", [DEEP, None])
def test_a_cache_that_is_nested_beyond_reason_or_a_pipe_is_made_anew(
    folder: Path, content: bytes | None
) -> None:
    write_palm_folder(folder / "Tones")
    succeed("extract", "--dataset", "Tones")
    for file in (folder / "data" / "features" / ".cache").glob("*/*"):
        replace_by(file, content)
    succeed("cache", "info")
    assert (
        "(0 embedded now" not in succeed("extract", "--dataset", "Tones", "--views", "2", "--out", "x").stdout
    )
    assert "recipes" in succeed("cache", "info").stdout


def replace_by(file: Path, content: bytes | None) -> None:
    """Put other bytes, or a pipe that nobody writes to, in the place of a file."""
    file.unlink()
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)


def test_a_dataset_that_was_moved_keeps_its_store_when_another_comes_in_its_old_place(folder: Path) -> None:
    write_palm_folder(folder / "here" / "Tones")
    succeed("extract", "--dataset", "here/Tones")
    (folder / "here").rename(folder / "there")
    succeed("extract", "--dataset", "there/Tones")
    write_palm_folder(folder / "here" / "Tones", classes=("other", "more"))
    assert "another dataset is called Tones" in succeed("extract", "--dataset", "here/Tones").stderr
    assert "palm" in succeed("fit", "--dataset", "there/Tones", *FIT).stdout


def test_twins_are_said_by_who_fits_too(folder: Path) -> None:
    write_palm_folder(folder / "Tones")
    audios = folder / "Tones" / "audios"
    shutil.copy(audios / "train_0_0.wav", audios / "test_0_0.wav")
    shutil.copy(audios / "train_0_0.wav", audios / "train_1_0.wav")
    succeed("extract", "--dataset", "Tones")
    noted = succeed("fit", "--dataset", "Tones", *FIT).stderr
    assert "byte for byte also training clips" in noted
    assert "1 sound bears several labels, e.g. audios/train_0_0.wav" in noted
