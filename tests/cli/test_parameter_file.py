from __future__ import annotations

import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

from palm_cache.cli.parameter_file import read_params
from palm_cache.errors import ParameterError, UnknownNameError
from palm_cache.params import FitParams, Params, ReadingParams, Recipe, Resources
from palm_cache.types.runs import Training

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    file = folder / "params.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("text", ["", "fit:\n  # shots: 4\n", "fit: {training: }"])
def test_every_key_has_a_default(tmp_path: Path, text: str) -> None:
    assert read_params(write(tmp_path, text)) == Params()


def test_values_arrive_where_they_belong(tmp_path: Path) -> None:
    text = (
        "encoder: mini\nextract: {views: 2}\nresources: {jobs: 3, cache: 's3://bucket/known'}\n"
        "fit: {shots: [1, 2], seeds: 7, training: {lr: 1, epochs: 3}}\n"
    )
    assert read_params(write(tmp_path, text)) == Params(
        extract=Recipe(views=2),
        resources=Resources(jobs=3, cache="s3://bucket/known"),
        fit=FitParams(shots=(1, 2), seeds=(7,), training=Training(lr=1.0, epochs=3)),
    )


def test_shots_may_be_all_and_a_rate_is_written_as_elsewhere(tmp_path: Path) -> None:
    text = "fit: {shots: [4, all], training: {lr: 5e-3}}"
    assert read_params(write(tmp_path, text)).fit == FitParams(shots=(4, "all"), training=Training(lr=0.005))
    assert read_params(write(tmp_path, "fit: {shots: all}")).fit == FitParams(shots=("all",))


def test_how_a_dataset_is_read_is_part_of_the_parameters(tmp_path: Path) -> None:
    text = "reading: {layout: table, columns: [path=file, label=], group: site, test: none, window: 5}"
    reading = read_params(write(tmp_path, text)).reading
    assert reading == ReadingParams(
        layout="table", columns=("path=file", "label="), group="site", test="none", window=5.0
    )
    assert reading.named_columns == {"path": "file", "label": ""}
    assert read_params(write(tmp_path, "reading: {window: }")).reading == ReadingParams()


@pytest.mark.parametrize("file", [*ROOT.glob("params.yaml"), *ROOT.glob("pipelines/**/params.yaml")], ids=str)
def test_the_projects_own_parameters_are_valid_and_repeat_no_default(file: Path) -> None:
    read_params(file)
    written = yaml.safe_load(file.read_text())
    defaults = asdict(Params())
    for section in ("reading", "synthesise", "prompts", "extract", "resources", "fit"):
        for key, value in written.get(section, {}).items():
            default = defaults[section][key]
            assert value != (list(default) if isinstance(default, tuple) else default), f"{section}.{key}"


def test_the_file_that_the_documentation_shows_has_every_section(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "pages" / "commands.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n")[2].partition("```")[0]
    assert set(yaml.safe_load(text)) == {field.name for field in fields(Params)}
    assert read_params(write(tmp_path, text)).fit.shots == (4, "all")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encodr: mini", r"unknown key in .*params\.yaml: 'encodr'; did you mean encoder\?"),
        ("fit: {shot: 1}", r"section fit: 'shot'; did you mean shots"),
    ],
)
def test_unknown_names_are_refused_with_near_matches(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        read_params(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extract: {views: two}", "section extract: views: 'two' is not a whole number from 1"),
        ("extract: {views: true}", "section extract: views: True is not a whole number"),
        ("datasets: 3", "datasets: 3 is not text"),
        ("resources: {prune: 1}", "section resources: prune: 1 is not true or false"),
        ("reading: {window: long}", "section reading: window: 'long' is not a number"),
        ("extract: {precision: fp16}", "section extract: precision: 'fp16' is not one of fp32, tf32, bf16"),
        ("extract: {views: 0}", "views: 0 is not a whole number from 1"),
        (
            "extract: {jobs: 2}",
            "section extract: jobs changes no number; it belongs in the section resources",
        ),
        ("extract: {long: mean, views: 2}", "a mean covers the whole clip"),
        ("resources: {jobs: -1}", "section resources: jobs: -1 is not a whole number from 0"),
        ("resources: {cluster: 'dask://x:1', jobs: 2}", "leave jobs at 0, device at one"),
        ("fit: {shots: [0]}", "shots: 0 is not a whole number from 1 to 2147483646 or all"),
        ("fit: {shots: []}", "give at least one"),
        ("reading: {columns: path}", "'path' is not field=column"),
        ("reading: {columns: [path=a, path=b]}", "columns: path is given twice"),
        ("reading: {folds: 1}", "folds: 1 is not a whole number from 2"),
        ("reading: {window: -1}", "is not a number from 0.02"),
        ("reading: {window: .inf}", "is not a number from 0.02"),
        ("reading: {hop: 1}", "hop: goes with window"),
        ("fit: {training: {lr: -1}}", "lr -1.0 must be above 0"),
        ("fit: {shots: 1}\nfit: {seeds: 1}", "'fit' is there twice"),
        (
            "fit: {shots: many}",
            "section fit: shots: 'many' is not a whole number from 1 to 2147483646 or all",
        ),
        ("fit: 3", "expected keys and values, found 3"),
        ("- a", "expected keys and values"),
        ("a: [", "cannot read the parameters"),
        ("fit: {training: {lr: .inf}}", "section fit.training: lr: inf is not a number"),
        ("fit: {training: {lr: .nan}}", "section fit.training: lr: nan is not a number"),
        (
            "fit: {training: {epochs: 1000000000}}",
            "epochs: 1000000000 is not a whole number from 1 to 100000",
        ),
        ("fit: {training: {lr: 1" + 400 * "0" + "}}", "lr: 1000"),
        ("extract: {views: 1000000000000}", "views: 1000000000000 is not a whole number from 1 to 1000"),
        ("resources: {jobs: 100000}", "jobs: 100000 is not a whole number from 0 to 1024"),
        ("extract: {views: " + 5000 * "9" + "}", "cannot read the parameters: Exceeds the limit"),
        ("encoder: 2001-99-99", "cannot read the parameters: month must be in 1..12"),
        ("datasets: &a [*a]", "...]]]]]]] is not text"),
        ("a: " + 5000 * "[" + 5000 * "]", "it is nested too deeply, or repeats itself too often"),
        ("#" * 2_000_000, "cannot read the parameters: more than 100,000 bytes"),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        read_params(write(tmp_path, text))


@pytest.mark.parametrize("level", ["[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", "{{<<: [{0}, {0}]}}"])
@pytest.mark.parametrize("deepest", [9, 39])
def test_aliases_of_aliases_are_refused_before_they_grow(tmp_path: Path, level: str, deepest: int) -> None:
    lines = ["a0: &a0 {" + ", ".join(f"key{number}: 1" for number in range(4000)) + "}"]
    lines += [f"a{one}: &a{one} {level.format(f'*a{one - 1}')}" for one in range(1, deepest + 1)]
    with pytest.raises(ParameterError, match="repeats itself too often"):
        read_params(write(tmp_path, "\n".join([*lines, f"datasets: *a{deepest}"])))


def test_an_alias_that_stands_for_a_little_is_read(tmp_path: Path) -> None:
    text = "datasets: [demo, &name mini]\nencoder: *name\nfit: {shots: &few [1, 2], seeds: *few}\n"
    params = read_params(write(tmp_path, text))
    assert (params.encoder, params.fit.shots, params.fit.seeds) == ("mini", (1, 2), (1, 2))


def test_what_is_shown_of_a_wrong_value_is_short(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="encoder: ") as told:
        read_params(write(tmp_path, f"encoder: [{', '.join(['x'] * 30_000)}]"))
    assert len(str(told.value)) < 500


def test_a_file_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(ParameterError, match="more than 100,000 bytes"):
        read_params(Path("/dev/zero"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"nowhere\.yaml: cannot read the parameters: no such file"):
        read_params(tmp_path / "nowhere.yaml")
    there = write(tmp_path, "encoder: mini\n")
    with pytest.raises(ParameterError, match=rf"no such file or directory; did you mean {there}\?"):
        read_params(there.with_suffix(".yml"))
    with pytest.raises(ParameterError, match="cannot read the parameters: is a directory"):
        read_params(tmp_path)
