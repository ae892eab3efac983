"""What ``--help`` says, how it fits a terminal, and what it loads."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import typer
from command_line import all_commands, runner

from palm_cache.cli import app
from palm_cache.cli.help import paragraphs

GROUPS = ("", "store", "cache", "bench")
NAMES = [*GROUPS, *(name for name, _ in all_commands())]


def help_of(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = runner.invoke(app, [*name.split(), "--help"], prog_name="palm-cache")
    assert result.exit_code == 0
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "command"), all_commands(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_and_option_says_what_it_does(
    name: str, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(command.help) > 20
    shown = " ".join(" ".join(help_of(name, 80, monkeypatch)).split())
    assert " ".join(command.help.split("\n\n")[0].split()) in shown
    for option in command.params:
        assert getattr(option, "help", None), f"{name}: {option.name}"
        assert " ".join(option.help.split()) in shown
        for spelling in option.opts if option.param_type_name == "option" else [option.metavar]:
            assert spelling in shown or f"--[no-]{spelling[2:]}" in shown


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_and_lines_break_only_where_the_terminal_ends(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(name, columns, monkeypatch)
    prose = [line for line in lines if not line.startswith("  palm-cache ")]
    assert max(map(len, prose)) <= columns
    assert not [line for line in prose if re.search(r"…| None |<(int|float|str|bool|path|list)", line)]
    for line, following in pairwise(prose):
        indent, text = indent_of(following), following.lstrip()
        # Names begin two columns in, on a line of their own; what follows them is a text that goes on.
        goes_on = text and line and indent != 2 and (indent == indent_of(line) or indent_of(line) == 2)
        if goes_on and len(line) > indent:
            (word,) = re.findall(r"^(?:\[default: [^]]*\]|\S+)", text)
            assert len(line) + 1 + len(word) > columns, f"{line!r} breaks before {word!r}"


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def test_a_command_is_told_from_others_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = help_of("", 80, monkeypatch)
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.split(maxsplit=1)[1] == paragraphs(command.help)[0][0]


def test_examples_stand_on_a_line_each_and_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = help_of("predict", 60, monkeypatch)
    assert "  palm-cache predict runs/demo/mini/heads.h5 recordings/ --top 3 --threshold 0.5" in lines


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=lambda value: str(value)[:20])
def test_every_command_has_an_example_and_its_options_exist(name: str, command: Any) -> None:
    _, examples = paragraphs(command.help)
    assert examples
    known = {spelling for option in command.params for spelling in (*option.opts, *option.secondary_opts)}
    for example in examples:
        assert example.startswith(f"palm-cache {name}")
        assert {word for word in shlex.split(example) if word.startswith("--")} <= known


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from palm_cache.cli import app\n"
        "for words in ('--help', 'extract --help', 'fit --help', 'predict --help', '--version'):\n"
        "    assert CliRunner().invoke(app, words.split()).exit_code == 0\n"
        "heavy = 'torch transformers zarr h5py pandas numpy sklearn matplotlib rich pydantic'.split()\n"
        "print(*(name for name in heavy if name in sys.modules))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
