from __future__ import annotations

from pathlib import Path

import pytest

from palm_cache.errors import ParameterError, UnknownNameError
from palm_cache.params import FitParams, Params, Recipe, Resources, override, read_params
from palm_cache.types import Training

ROOT = Path(__file__).parents[1]


def write(folder: Path, text: str) -> Path:
    file = folder / "params.yaml"
    file.write_text(text)
    return file


def test_every_key_has_a_default(tmp_path: Path) -> None:
    assert read_params(write(tmp_path, "")) == Params()


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


def test_the_projects_own_parameters_are_valid() -> None:
    assert read_params(ROOT / "params.yaml").datasets == ("demo",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encodr: mini", r"unknown key in .*params\.yaml: 'encodr'; did you mean encoder\?"),
        ("fit: {shot: 1}", r"section fit: 'shot'; did you mean shots"),
        ("extract: {precision: fp16}", r"value of extract\.precision in .*'fp16'; did you mean"),
    ],
)
def test_unknown_names_are_refused_with_near_matches(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        read_params(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extract: {views: two}", "extract.views is 'two', expected int"),
        ("extract: {views: true}", "extract.views is True, expected int"),
        ("extract: {views: 0}", "views: 0 is not a whole number from 1"),
        (
            "extract: {jobs: 2}",
            "section extract: jobs decides no number; it belongs in the section resources",
        ),
        ("extract: {long: mean, views: 2}", "a mean covers the whole clip"),
        ("resources: {jobs: 0}", "section resources: jobs: 0 is not a whole number from 1"),
        ("resources: {cluster: 'dask://x:1', jobs: 2}", "leave jobs at 1 and device to one"),
        ("fit: {shots: [0]}", "shots: 0 is not a whole number from 1"),
        ("fit: {shots: []}", "give at least one"),
        ("fit: {training: {lr: -1}}", "lr -1.0 must be above 0"),
        ("fit: 3", "expected keys and values, found 3"),
        ("- a", "expected keys and values"),
        ("a: [", "cannot read the parameters"),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message.replace(".", r"\.")):
        read_params(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"nowhere\.yaml: cannot read the parameters: No such file"):
        read_params(tmp_path / "nowhere.yaml")


def test_the_command_line_wins_only_where_it_speaks() -> None:
    assert override(Resources(batch_size=3, jobs=2), batch_size=None, jobs=4) == Resources(
        batch_size=3, jobs=4
    )
