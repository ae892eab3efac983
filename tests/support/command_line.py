"""Commands as a user calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import typer
from typer.testing import CliRunner, Result

from palm_cache.cli import app

runner = CliRunner()

PROGRAM = (sys.executable, "-c", "from palm_cache.cli import app; app()")
"""What the words of a command follow, in a process of its own."""


def call(*words: str, stdin: bytes = b"") -> Result:
    """Run a command; a defect keeps its traceback."""
    result = runner.invoke(app, list(words), input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*words: str, stdin: bytes = b"") -> Result:
    """Run a command that must succeed."""
    result = call(*words, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result


@contextmanager
def at_a_terminal() -> Iterator[None]:
    """Let what commands are given on their standard input be typed by somebody."""
    with patch("typer.testing._NamedTextIOWrapper.isatty", lambda stream: stream.name == "<stdin>"):
        yield


def fail(*words: str, stdin: bytes = b"") -> str:
    """Run a command that must fail with one line, and return the line."""
    result = call(*words, stdin=stdin)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert "Traceback" not in result.output
    return message


def misuse(*words: str) -> str:
    """Run a command with a value that makes no sense, and return the line that says so."""
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("Error: Invalid value")
    return message


def run_and_name_heavy_modules(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, which ends by naming the heavy libraries that it has loaded."""
    code = (
        "import sys\nfrom palm_cache.cli import app\n"
        "try:\n    app()\nfinally:\n    print(*{'torch', 'pandas', 'zarr'} & sys.modules.keys())\n"
    )
    environment = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, check=False
    )


def complete(*words: str) -> list[str]:
    """Return what a shell is offered for the last word of a command."""
    variables = {
        "_PALM_CACHE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["palm-cache", *words]),
        "COMP_CWORD": str(len(words)),
    }
    return runner.invoke(app, env=variables, prog_name="palm-cache").stdout.split()


def all_commands() -> list[tuple[str, Any]]:
    """Return name and command of everything that can be called."""
    found: list[tuple[str, Any]] = []

    def walk(group: Any, prefix: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, f"{prefix}{name} ")
            else:
                found.append((prefix + name, command))

    walk(typer.main.get_command(app), "")
    return found
