"""Commands as a user calls them."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from palm_cache.cli import app

runner = CliRunner()


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


def fail(*words: str, stdin: bytes = b"") -> str:
    """Run a command that must fail with one line, and return the line."""
    result = call(*words, stdin=stdin)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert "Traceback" not in result.output
    return message
