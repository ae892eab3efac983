from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from command_line import complete
from samples import write_palm_folder
from typer.testing import CliRunner, Result

from palm_cache.cli import app
from palm_cache.params.use import MapMethod

STORE = "data/features/Tones/mini.zarr"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, its store and predictions."""
    folder = tmp_path_factory.mktemp("work")
    write_palm_folder(folder / "Tones")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in ("extract --dataset Tones", "fit --shots 2 --seeds 0,1 --epochs 2"):
            assert CliRunner().invoke(app, words.split()).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _there(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def call(*words: str) -> Result:
    result = CliRunner().invoke(app, ["explore", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_page_is_written_and_named() -> None:
    done = call(STORE)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "12 clips -> explore.html\n", "")
    page = Path("explore.html").read_text("utf-8")
    assert "judged by a vote of its ten nearest neighbours" in page
    assert '"audio":"Tones/"' in page  # where the dataset lies


def test_a_run_is_found_in_the_usual_predictions_and_clips_in_the_dataset() -> None:
    words = (
        "--run",
        "palm-2shots-seed1",
        "--audio",
        "Tones",
        "--method",
        "pca",
        "--out",
        "a/b.html",
        "--json",
    )
    assert json.loads(call(STORE, *words).stdout) == {"page": "a/b.html", "clips": 12}
    page = Path("a/b.html").read_text("utf-8")
    assert "<b>palm@epochs=2-2shots-seed1</b>" in page
    assert '"audio":"../Tones/"' in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x.zarr",), "x.zarr: no feature store here"),
        (
            (STORE, "--run", "plam-2shots-seed0"),
            "unknown run 'plam-2shots-seed0'; did you mean palm-2shots-seed0",
        ),
        (
            (STORE, "--predictions", "runs/predictions.h5"),
            "say which run with --run: palm@epochs=2-2shots-seed0, palm@",
        ),
        (
            (STORE, "--run", "x", "--predictions", "none.h5"),
            "none.h5: no predictions for Tones/mini; make them with: palm-cache fit",
        ),
        ((STORE, "--audio", "data"), "none of the clips lies in it, e.g. audios/train_0_0.wav"),
    ],
)
def test_mistakes_are_told_in_one_line(words: tuple[str, ...], message: str) -> None:
    done = call(*words, "--out", "never.html")
    assert done.exit_code == 1
    assert message in done.stderr.strip().splitlines()[-1]
    assert not Path("never.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method mds", "'mds' is not one of"),
        ("--clusters 0", "--clusters: 0 is not a whole number from 1"),
        ("--clusters -1", "--clusters: -1 is not a whole number from 1"),
        ("--clusters 2 --text tone", "--clusters and --text: a map is coloured by one of them"),
        ("--clusters 2 --run palm", "--run and --clusters: a map is coloured by one of them"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(words: str, message: str) -> None:
    done = call(STORE, *words.split(), "--out", "never.html")
    assert done.exit_code == 2
    assert message in done.stderr
    assert not Path("never.html").exists()


def test_a_run_is_named_as_predict_takes_it() -> None:
    """A head, or the beginning of a run's name: the fold and seed that predict would take."""
    for name in ("palm", "palm-2shots", "palm@epochs=2"):
        done = call(STORE, "--run", name, "--method", "pca", "--out", "head.html")
        assert (done.exit_code, done.stdout) == (0, "12 clips -> head.html\n")
        assert "<b>palm@epochs=2-2shots-seed" in Path("head.html").read_text("utf-8")


def test_runs_and_methods_are_completed() -> None:
    runs = ["palm@epochs=2-2shots-seed0", "palm@epochs=2-2shots-seed1"]
    assert complete("explore", STORE, "--run", "palm") == runs
    assert complete("explore", STORE, "--predictions", "none.h5", "--run", "palm") == []
    assert complete("explore", STORE, "--method", "p") == ["pca"]
    assert set(get_args(MapMethod)) == {"tsne", "pca", "umap"}
