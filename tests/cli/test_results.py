"""The table of results that grows while they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from palm_cache.cli.commands import Commands
from palm_cache.cli.results import ResultFormat, result_writer
from palm_cache.cli.terminal import print_json, styled
from palm_cache.prediction.answers import Answer, Failure

CLASSES = ("air conditioner", "engine idling, and the hum of a refrigerator", "siren")
PATHS = ["recordings/of-one-summer/station-12/2026-07-01T02-00-00.flac", "b.flac"]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stdout for a terminal
    monkeypatch.setenv("COLUMNS", "80")


def show(top: int) -> None:
    shape = ResultFormat(CLASSES, top, 0.0, over_time=True)
    with result_writer(shape, PATHS, None, None) as write:
        for path in PATHS:
            write(Answer(path, torch.tensor([0.1, 0.6, 0.3]), 0.0, 1.0))


def test_a_narrow_terminal_shows_every_class_that_is_asked_for_with_its_probability(
    narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    show(top=3)
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["path", "start", "end", "label", "probability"]
    columns = [[line[begin:end].strip() for line in lines[2:]] for begin, end in _columns(lines[1])]
    assert "".join(columns[0]) == "".join(PATHS)
    assert list(filter(None, columns[4])) == ["60.0 %", "30.0 %", "10.0 %"] * 2
    ranked = "".join((CLASSES[1], CLASSES[2], CLASSES[0])) * 2
    assert "".join(columns[3]).replace(" ", "") == ranked.replace(" ", "")
    assert told.err == ""


def _columns(rule: str) -> list[tuple[int, int]]:
    """Return where the columns above a rule begin and end."""
    places, begin = [], 0
    for dashes in rule.split("  "):
        places.append((begin, begin + len(dashes)))
        begin += len(dashes) + 2
    return places


def test_what_is_no_terminal_gets_a_line_for_every_class(capsys: pytest.CaptureFixture[str]) -> None:
    show(top=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3 * len(PATHS)
    assert PATHS[0] in lines[2]
    assert CLASSES[1] in lines[2]


def test_a_table_without_rows_has_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ResultFormat(CLASSES, 1, 0.0, over_time=False)
    with result_writer(shape, PATHS, None, None) as write:
        write(Failure(PATHS[0], "no such file"))
    assert capsys.readouterr().out == ""


def test_letters_that_standard_output_cannot_hold_are_written_out() -> None:
    """As in a locale that is not UTF-8: a bird's name ended with a traceback."""
    app = typer.Typer(cls=Commands)

    @app.command()
    def predict() -> None:
        shape = ResultFormat(CLASSES, 1, 0.0, over_time=False)
        with result_writer(shape, ["gelbspötter.wav"], None, None) as write:
            write(Answer("gelbspötter.wav", torch.tensor([0.1, 0.6, 0.3])))

    @app.command()
    def document() -> None:
        print_json({"path": "gelbspötter 🐦.wav"})

    runner = CliRunner(charset="ascii")
    shown = runner.invoke(app, ["predict"], catch_exceptions=False).stdout.splitlines()
    assert shown[1].startswith("---")
    assert shown[2].startswith(r"gelbsp\xf6tter.wav")
    printed = runner.invoke(app, ["document"], catch_exceptions=False).stdout
    assert json.loads(printed) == {"path": "gelbspötter 🐦.wav"}


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_colour_gets_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    for other in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(other, raising=False)
    assert styled("note", fg="yellow") == "\x1b[33mnote\x1b[0m"
    monkeypatch.setenv(name, value)
    assert styled("note", fg="yellow") == styled("note", bold=True) == "note"


def test_a_row_that_reaches_the_end_of_its_file_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ResultFormat(CLASSES, 1, 0.0, over_time=True)
    with result_writer(shape, ["b.flac"], None, None) as write:
        write(Answer("b.flac", torch.tensor([0.1, 0.6, 0.3]), 2.5))
    assert capsys.readouterr().out.splitlines()[2].split()[:4] == ["b.flac", "0:00:02.5", "its", "end"]
    with result_writer(shape, ["b.flac"], Path("-"), None) as write:
        write(Answer("b.flac", torch.tensor([0.1, 0.6, 0.3]), 2.5))
    assert capsys.readouterr().out.splitlines()[1].startswith("b.flac,2.5,,")
