"""What is given in the wrong place, or misspelt, is told with what is there and what may be meant."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import all_commands, call, fail, misuse, run_and_name_heavy_modules, succeed
from samples import write_tone

import palm_cache
from palm_cache.store.root import UNFINISHED_MARK

STORE = "data/features/Tones/mini.zarr"
OTHER = "data/features/Other/mini.zarr"
HEADS = "runs/Tones/mini/heads.h5"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("data", f"data: a folder, no feature store; did you mean {OTHER} or {STORE}?"),
        ("data/features/", f"data/features: a folder, no feature store; did you mean {OTHER} or {STORE}?"),
        ("data/features/Tones", f"a folder, no feature store; did you mean {STORE}?"),
        (
            "data/features/Tonse/mini.zarr",
            f"here; did you mean {STORE}? If not, make it with: palm",
        ),
        ("data/features/Tones/mimi.zarr", f"no feature store here; did you mean {STORE}?"),
        ("Tones", f"no feature store here; did you mean {STORE}?"),
        ("tones", f"no feature store here; did you mean {STORE}?"),
        ("own/Tones", f"a folder, no feature store; did you mean {STORE}?"),
        ("runs/Tones/mini", f"fitted heads, no feature store; did you mean {STORE}?"),
        ("own/Tones/train.csv", f"a file (.csv), no feature store; did you mean {STORE}?"),
        ("new", "a folder, no feature store; make it with: palm-cache extract --dataset new"),
        ("x.zarr", "no feature store here; make it with: palm-cache extract"),
        ("half.zarr", "a folder, no feature store; make it with: palm-cache extract --dataset NAME_OR_DIR"),
    ],
)
def test_a_store_that_is_none_is_told_with_those_that_are_meant(project: Path, given: str, told: str) -> None:
    for folder in ("new", "half.zarr"):
        (project / folder).mkdir()
    for words in (("search", given, "--row", "0"), ("store", "info", given), ("fit", "--store", given)):
        assert told in fail(*words), words


@pytest.mark.parametrize("given", ["data/features/x.zarr", "./data/features/x.zarr"])
def test_nobody_is_asked_whether_what_was_given_was_meant(project: Path, given: str) -> None:
    Path(given).mkdir()
    told = fail("store", "info", given)
    assert f"{Path(given)}: a folder, no feature store; make it with: palm-cache extract" in told
    assert "x.zarr" not in fail("store", "info", "data")


def test_a_store_that_was_never_finished_is_not_told_with_itself(project: Path) -> None:
    root = Path(OTHER, "zarr.json")
    root.write_text(json.dumps({**json.loads(root.read_text()), UNFINISHED_MARK: True}))
    told = fail("store", "info", OTHER)
    assert f"{OTHER}: no finished feature store here; " in told
    assert f"did you mean {OTHER}" not in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("runs", f"runs: a folder, no heads; did you mean {HEADS}?"),
        ("runs/Tones/", f"runs/Tones: a folder, no heads; did you mean {HEADS}?"),
        ("runs/Tonse/mini/heads.h5", f"no heads here; did you mean {HEADS}?"),
        ("runs/Tones/mimi", f"no heads here; did you mean {HEADS}?"),
        (STORE, f"a feature store, no heads; did you mean {HEADS}?"),
        ("Tones", f"no heads here; did you mean {HEADS}?"),
        (OTHER, f"a feature store, no heads; fit some with: palm-cache fit --store {OTHER}"),
    ],
)
def test_heads_that_are_none_are_told_with_those_that_are_meant(project: Path, given: str, told: str) -> None:
    for words in (
        ("predict", given, "own/Tones/audios"),
        ("predict", given, "--store", STORE),
        ("export", given, "--to", "onnx"),
        ("calibrate", given),
        ("search", STORE, "--head", given, "--uncertain"),
    ):
        assert told in fail(*words), words


@pytest.mark.parametrize("given", [".", "{here}", "../{name}"])
def test_a_project_s_folder_is_told_with_its_stores_and_heads(project: Path, given: str) -> None:
    given = given.format(here=project, name=project.name)
    meant = [str(Path(given) / store) for store in (OTHER, STORE)]
    assert f"a folder, no feature store; did you mean {' or '.join(meant)}?" in fail(
        "search", given, "--row", "0"
    )
    assert f"a folder, no heads; did you mean {Path(given) / HEADS}?" in fail("calibrate", given)


def test_nobody_is_told_to_make_a_store_of_what_is_no_dataset(project: Path, tmp_path: Path) -> None:
    for folder in ("data", "own"):
        shutil.rmtree(folder)
    Path("README.md").touch()
    for given in (".", "README.md"):
        assert fail("search", given, "--row", "0").endswith("palm-cache extract --dataset NAME_OR_DIR")


def test_a_place_of_credentials_is_never_looked_into_for_what_was_meant(project: Path) -> None:
    assert "no feature store here; make it with" in fail("store", "info", "memory://nowhere/mini.zarr")


@pytest.mark.parametrize("features", ["data", "data/features/Tones", STORE])
def test_the_folder_of_stores_is_found_at_another_level(project: Path, features: str) -> None:
    told = f"{features}: no feature store here; did you mean --features data/features?"
    assert told in fail("fit", "--features", features)
    assert told in fail("fit", "--features", features, "--dataset", "own/Tones")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--features", ("extract", "--dataset", "own/Tones")),
        ("--cache", ("extract", "--dataset", "own/Tones")),
        ("--features", ("fit",)),
        ("--features", ("fit", "--dataset", "own/Tones")),
        ("--features", ("evaluate",)),
        ("--features", ("prompts",)),
        ("--features", ("store", "gc")),
        ("--features", ("cache", "info")),
        ("--cache", ("cache", "prune")),
        ("--out", ("evaluate",)),
        ("--heads", ("evaluate",)),
        ("--out", ("report",)),
        ("--heads", ("report",)),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_told_as_the_option_that_it_was_given_as(
    project: Path, option: str, words: tuple[str, ...]
) -> None:
    Path("file").touch()
    Path("runs/scores.csv").touch()
    assert fail(*words, option, "file").endswith(f"error: {option} file: a file; give a folder")


def test_a_dataset_with_stores_of_another_encoder_alone_is_told_so(project: Path) -> None:
    told = fail("fit", "--dataset", "Tones", "--encoder", "clap:me/other")
    assert "did you mean --encoder mini? If not, make it with: palm-cache extract --dataset Tones" in told


@pytest.mark.parametrize("words", [("dog", "bark"), ("--text", "dog", "bark"), ("bark", "--text", "dog")])
def test_a_text_without_quotes_is_told_with_the_command_that_has_them(
    project: Path, words: tuple[str, ...]
) -> None:
    told = misuse("search", STORE, *words)
    assert f"a text of several words needs quotes: palm-cache search {STORE} --text 'dog bark'" in told


def test_of_several_words_those_that_are_paths_stay_stores(project: Path) -> None:
    assert "data/features/nowhere: no feature store here" in fail(
        "search", STORE, "data/features/nowhere", "--text", "dog"
    )


def test_one_head_is_shown_by_its_name(project: Path) -> None:
    assert json.loads(succeed("heads", "palm", "--json").stdout)["name"] == "palm"
    assert "did you mean palm?" in fail("heads", "plam")


def test_a_store_of_some_clips_says_so_wherever_it_is_used(project: Path) -> None:
    succeed("extract", "--dataset", "own/Tones", "--on-stale", "rebuild")
    told = "holds of every class the first 1 to train on and the first 1 to test on alone, of 12 clips in all"
    assert f"{told} (limit 1); it held 12 before" in (
        succeed("extract", "--dataset", "own/Tones", "--limit", "1").stderr
    )
    assert f"  clips: 4 (it {told}" in succeed("store", "info", STORE).stdout
    shutil.rmtree("runs")
    fitted = succeed("fit", "--store", STORE, "--head", "prototype", "--shots", "1", "--seeds", "0")
    assert f"note: {STORE} {told}" in fitted.stderr
    assert f"note: Tones, mini: {STORE} {told}" in succeed("report").stderr
    text = Path("runs/report/report.md").read_text(encoding="utf-8")
    assert "## Scores that are of some clips alone" in text
    assert "Tones, mini (of some clips alone)" in text


def test_a_store_of_windows_is_not_replaced_without_a_word(project: Path) -> None:
    succeed("extract", "--dataset", "own/Tones", "--window", "0.2", "--on-stale", "rebuild")
    rows = json.loads(succeed("store", "info", STORE, "--json").stdout)["clips"]
    assert rows > 12
    whole = succeed("extract", "--dataset", "own/Tones")
    assert (
        f"note: this store held {rows} rows and holds 12 now, of the same files: they were cut"
        in whole.stderr
    )
    assert "note: this store held" not in succeed("extract", "--dataset", "own/Tones").stderr


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "--dataset", "nope"),
        ("fit", "--features", "nowhere"),
        ("fit", "--store", "data"),
        ("prompts", "--dataset", "nope"),
        ("extract", "--dataset", "nope"),
        ("heads", "--dataset", "nope"),
        ("heads", "nope"),
        ("encoders", "nope"),
        ("datasets", "nope"),
        ("download", "nope"),
        ("push", "nowhere", "hf://me/x"),
        ("predict", "nowhere", "x.wav"),
        ("predict", HEADS, "nowhere.wav"),
        ("predict", HEADS, "own/empty"),
        ("export", "nowhere", "--to", "onnx"),
        ("calibrate", "nowhere"),
        ("search", "data", "--text", "dog"),
        ("explore", "data"),
        ("label", "data"),
        ("store", "info", "data"),
        ("store", "verify", "data"),
        ("store", "export", "data", "x.h5"),
        ("transfer", "nowhere", STORE),
        ("report", "--out", "nowhere"),
        ("evaluate", "--out", "rnus"),
        ("export", HEADS, "--to", "onnx", "--run", "nope"),
    ],
    ids=" ".join,
)
def test_wrong_words_are_told_before_torch_is_loaded(project: Path, words: tuple[str, ...]) -> None:
    ended = run_and_name_heavy_modules(*words)
    assert ended.returncode in (1, 3), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout.strip() == ""


def test_a_file_of_another_name_is_never_said_to_be_removed(project: Path) -> None:
    Path("own/night.h5").write_bytes(b"RIFF")
    assert fail("calibrate", "own/night.h5").endswith("; give a heads.h5 or its folder")
    Path(HEADS).write_bytes(b"RIFF")
    assert fail("calibrate", HEADS).endswith("; remove it and fit again with: palm-cache fit --dataset Tones")


def test_a_store_without_its_option_is_told_as_a_store(project: Path) -> None:
    assert f"did you mean --store {STORE}?" in call("fit", STORE).stderr
    assert "did you mean --shots 1,4?" in call("fit", "--shots", "1,", "4").stderr


def test_a_file_that_is_called_like_an_option_is_told_as_a_file(project: Path) -> None:
    Path("-dog.wav").touch()
    assert call("predict", HEADS, "-dog.wav", "x.wav").stderr.endswith("did you mean ./-dog.wav?\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("extract", "--dataset", "x", "--cluster", "dask://a:1", "--jobs", "4"), "leave --jobs at 0, --dev"),
        (("fit", "--device", "gpu"), "--device 'gpu': use auto"),
        (("fit", "--batch-size", "0"), "--batch-size: 0 is not a whole number from 1"),
        (("extract", "--dataset", "own/Tones", "--window", "0.001"), "--window: 0.001 is not a number from"),
        (("extract", "--dataset", "own/Tones", "--window", "1", "--hop", "0"), "--hop: 0.0 is not a number"),
        (
            ("predict", "nowhere", "x", "--classes", "a,b", "--timeline", "--hop", "1e-9"),
            "--hop: 1e-09",
        ),
        (("predict", "a", "b", "--window", "3"), "--window and --hop: go with --timeline"),
        (("search", STORE), "give one of --text, --like, --row, --head and --diverse"),
        (("search", STORE, "--text", "a", "--class", "b"), "--class, --uncertain and --run: go with --head"),
        (("store", "export", STORE, "own/Tones/train.csv/x.h5"), "choose another folder with TARGET"),
        (("explore", STORE, "--method", "pca", "--clusters", "9999"), "--clusters: 9999 of"),
        (("explore", STORE, "--predictions", "own"), "own: no predictions here; make them with: palm-cache"),
        (
            ("extract", "--dataset", "own/Tones", "--templates", "own"),
            "own: not a regular file; name another",
        ),
    ],
)
def test_errors_name_options_as_they_are_typed(project: Path, words: tuple[str, ...], told: str) -> None:
    result = call(*words)
    assert result.exit_code in (1, 2)
    assert told in " ".join(result.stderr.split())


def test_notes_name_options_as_they_are_typed_and_parameters_elsewhere(project: Path) -> None:
    write_tone(Path("own/Tones/audios/train_0_0.wav"), frequency=300, seconds=60)
    told = "(--long mean hears all, --window cuts)"
    extracted = succeed("extract", "--dataset", "own/Tones", "--on-stale", "rebuild", "--json")
    assert told in extracted.stderr
    assert any(told in note for note in json.loads(extracted.stdout)["notes"])
    Path("own/Other").mkdir()
    write_tone(Path("own/Other/a.wav"), frequency=300)
    Path("own/Other/plain.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    checked = succeed("datasets", "--check", "own/Other", "--json")
    assert any(
        "; --columns path=NAME says which does" in note for note in json.loads(checked.stdout)["notes"]
    )
    for file in Path(palm_cache.__file__).parent.glob("extraction/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                assert not re.search(r"[(;] ?--[a-z]", ast.unparse(node)), (file, node.lineno)


def test_errors_of_a_parameter_file_name_its_keys(project: Path) -> None:
    Path("params.yaml").write_text("resources: {cluster: 'dask://a:1', jobs: 4}", encoding="utf-8")
    told = fail("extract", "--params", "params.yaml")
    assert "section resources: cluster: its workers are the processes; leave jobs at 0, device at one" in told


@pytest.mark.parametrize(
    "package", ["adaptation", "api", "explore", "label", "prediction", "report", "retrieval"]
)
def test_no_error_of_the_library_names_an_option_but_in_a_command(package: str) -> None:
    for file in (Path(palm_cache.__file__).parent / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                texts = [text.value for text in ast.walk(node) if isinstance(text, ast.Constant)]
                message = " ".join(text for text in texts if isinstance(text, str))
                assert "palm-cache " in message or not re.search(r"--[a-z]", message), (file, message)


def test_every_parameter_that_an_error_names_is_one_of_a_command() -> None:
    known = {item.name for _, command in all_commands() for item in command.params}
    named = {
        name
        for file in Path(palm_cache.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
        for text in ast.walk(node)
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
        for name in re.findall(r"`(\w+)`", text.value)
    }
    assert "cluster" in named
    assert named - known == set()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("extract", "--dataset", "own/Tones", "--views", "0"), "--views: 0 is not a whole number from 1"),
        (("extract", "--dataset", "own/Tones", "--jobs", "-1"), "--jobs: -1 is not a whole number from 0"),
        (("extract", "--dataset", "own/Tones", "--device", "tpu"), "--device 'tpu': use auto, cpu, cuda"),
        (("extract", "--dataset", "own/Tones", "--cluster", "dask"), "--cluster: 'dask' is not dask://"),
        (
            ("extract", "--dataset", "own/Tones", "--make-folds", "1"),
            "--make-folds: 1 is not a whole number from 2",
        ),
        (("datasets", "--check", "own/Tones", "--columns", "file"), "--columns: 'file' is not field=column"),
        (("datasets", "--check", "own/Tones", "--columns", "file=x"), "field of --columns: 'file'"),
        (("synthesise", "--clips-per-class", "1"), "--clips-per-class: 1 is not a whole number from 5"),
        (("bench", "extract", "--rounds", "0"), "--rounds: 0 is not a whole number from 1"),
        (("fit", "--shots", "0"), "--shots: 0 is not a whole number from 1"),
        (("fit", "--folds", "0"), "--folds: 0 is not a whole number from 1"),
        (("fit", "--lr", "0"), "--lr 0.0 must be above 0"),
        (("heads", "--dataset", "Tones", "--shots", "0"), "--shots: 0 is not a whole number from 1"),
        (
            ("predict", "nowhere", "x", "--classes", "a,b", "--threshold", "2"),
            "--threshold: 2.0 is not",
        ),
        (("search", STORE, "--text", "dog", "--top", "0"), "--top: 0 is not a whole number from 1"),
        (("label", STORE, "--device", "tpu"), "--device 'tpu': use auto, cpu, cuda"),
        (("explore", STORE, "--device", "tpu"), "--device 'tpu': use auto, cpu, cuda"),
        (("store", "verify", STORE, "--dataset", "own/Tones", "--device", "tpu"), "--device 'tpu': use auto"),
        (
            ("synthesise", "--clips-per-class", "9" * 20),
            f"--clips-per-class: {'9' * 20} is not a whole number",
        ),
        (("fit", "--features", ""), "--features: it is empty; give a value"),
        (("extract", "--dataset", ""), "--dataset: it is empty"),
        (("extract", "--dataset", "own/Tones", "--cache="), "--cache: it is empty"),
        (("label", STORE, "--labels", ""), "--labels: it is empty"),
        (("search", STORE, "", "--row", "0"), "STORE...: it is empty"),
        (("search", STORE, "-k", ""), "--top: it is empty"),
        (("explore", STORE, "--audio", ""), "--audio: it is empty"),
        (("calibrate", ""), "HEADS: it is empty"),
        (("fit", "--out", "s3://bucket/runs"), "s3://bucket/runs is a URL; give a file or folder of this"),
        (("search", STORE, "--row", "0", "--csv", "s3://bucket/x.csv"), "s3://bucket/x.csv is a URL"),
        (("calibrate", "hf://me/sounds"), "hf://me/sounds is a URL; give a file or folder of this machine"),
        (("fit", "--store", STORE, "--dataset", "Tones"), "for --store: give --store or --dataset, not both"),
        (("prompts", "--store", STORE, "--dataset", "x"), "give --store or --dataset, not both"),
        (("store", "verify", STORE, "--root", "own"), "for --root: goes with --dataset or --recompute"),
        (("pull", "x"), "x: write hf://user/name"),
    ],
)
def test_a_value_that_makes_no_sense_is_wrong_usage_and_names_its_option(
    project: Path, words: tuple[str, ...], told: str
) -> None:
    assert told in misuse(*words)
