"""A recorded encoder that is somebody's own code runs only where the user names it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import PROGRAM, fail, succeed

import palm_cache

SPEC = "python:my_mini:Named"
STORE = "data/features/Tones/python-my_mini-Named.zarr"
HEADS = "runs/Tones/python-my_mini-Named/heads.h5"
REFUSED = f"is code of somebody's; to have it run, name it: --encoder {SPEC}"

CODE = """
    from palm_cache.extraction.encoders.base import EncoderCard
    from palm_cache.extraction.encoders.mini import MiniEncoder


    class Named(MiniEncoder):
        card = EncoderCard("named")
"""


@pytest.fixture(autouse=True)
def fresh_modules() -> Iterator[None]:
    """Have every test import modules of its own."""
    yield
    forget_modules()


def forget_modules() -> None:
    for name in ("my_mini", "my_front_end"):
        sys.modules.pop(name, None)


@pytest.fixture
def own(workplace: Path) -> Path:
    """A folder with a dataset, an encoder in a module and its store."""
    Path("my_mini.py").write_text(textwrap.dedent(CODE))
    succeed("extract", "--dataset", "Tones", "--encoder", SPEC)
    return workplace


def test_code_of_somebodys_runs_where_it_is_named_and_nowhere_else(own: Path) -> None:
    def both(*words: str) -> str:
        assert REFUSED in fail(*words)
        return succeed(*words, "--encoder", SPEC).stdout

    assert "2 clips embedded again" in both("store", "verify", STORE, "--recompute", "2")
    fitting = ("fit", "--store", STORE, "--shots", "2", "--seeds", "0", "--head", "coop")
    assert "heads -> " in both(*fitting, "--epochs", "1", "--no-evaluate", "--no-calibrate")
    both("calibrate", HEADS)
    # What is fitted scores without any encoder.
    succeed("evaluate")
    succeed("transfer", HEADS, STORE)
    assert "test_0_0.wav" in both("predict", HEADS, "Tones/audios/test_0_0.wav")


def test_from_python_too(own: Path) -> None:
    training = palm_cache.Training(epochs=1)
    params = palm_cache.FitParams(heads=("coop",), shots=(2,), seeds=(0,), training=training)
    with pytest.raises(palm_cache.PalmCacheError, match="name it: encoder python:my_mini:Named"):
        palm_cache.fit(STORE, params)
    fitted = palm_cache.fit(STORE, params, encoder=SPEC)
    heard = palm_cache.predict(fitted.heads, "Tones/audios/test_0_0.wav", encoder=SPEC)
    assert heard.table["error"].tolist() == [""]


def edit(file: Path, old: str, new: str) -> None:
    """Change a module as its author would, between two commands."""
    code = file.read_text()
    assert old in code
    file.write_text(code.replace(old, new))
    forget_modules()


FRONT_END = """
    from my_front_end import louder


    class Named(MiniEncoder):
        card = EncoderCard("named")

        def front_end(self, waveforms):
            return super().front_end(louder(waveforms))
"""


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("my_mini.py", ("louder(waveforms)", "louder(waveforms / 2)")),
        ("my_front_end.py", ("return waveforms", "return waveforms / 2")),
    ],
)
def test_other_code_with_the_same_weights_is_noticed(
    workplace: Path, where: str, change: tuple[str, str]
) -> None:
    Path("my_mini.py").write_text(textwrap.dedent(CODE.partition("class")[0] + FRONT_END))
    Path("my_front_end.py").write_text("def louder(waveforms):\n    return waveforms\n")
    extracting = ("extract", "--dataset", "Tones", "--encoder", SPEC)
    succeed(*extracting)
    fitting = ("fit", "--store", STORE, "--shots", "2", "--seeds", "0", "--head", "prototype")
    succeed(*fitting, "--no-evaluate", "--no-calibrate")
    said = "the code of python:my_mini:Named is not what made the store; have it made by the code as it is"
    assert said not in succeed(*fitting).stderr
    edit(Path(where), *change)
    for words in (("evaluate",), ("report",), fitting):
        (note,) = [line for line in succeed(*words).stderr.splitlines() if said in line]
    assert "my_mini" not in sys.modules  # which is not run for that
    assert "is stale: other code; make it anew with --on-stale rebuild" in fail(*extracting)
    predicting = ("predict", HEADS, "Tones/audios/test_0_0.wav", "--encoder", SPEC)
    assert f"encoder {SPEC}: other code than " in fail(*predicting)
    told = shlex.split(note[note.rindex("palm-cache ") :])
    assert "(12 embedded now" in succeed(*told[1:]).stdout


PRINTING = """
        @classmethod
        def load(cls, request):
            print("I am loaded")
            return super().load(request)

        def front_end(self, waveforms):
            print("I am listening")
            return super().front_end(waveforms)
"""


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_what_an_encoder_prints_is_no_result(workplace: Path, jobs: str) -> None:
    Path("my_mini.py").write_text(textwrap.dedent(CODE + PRINTING))

    def result_of(*words: str) -> Any:
        done = subprocess.run([*PROGRAM, *words, "--json"], capture_output=True, text=True, check=True)
        assert {"I am loaded", "I am listening"} <= set(done.stderr.splitlines())
        return json.loads(done.stdout)

    assert result_of("extract", "--dataset", "Tones", "--encoder", SPEC, "--jobs", jobs)["embedded"] == 12
    heard = result_of("predict", "Tones", "--classes", "low,high", "--encoder", SPEC)
    assert len(heard["results"]) == 12
