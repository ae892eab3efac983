"""Commands and groups of them: what ends them with one line, and what was meant by a word too many."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from palm_cache.cli.help import help_text, is_argument, usage
from palm_cache.cli.terminal import TYPED, note, say, sigterm_as_ctrl_c, stdout_for_results
from palm_cache.errors import PalmCacheError, ParameterError, did_you_mean, naming, near, visible
from palm_cache.store.layout import STORE_ENDING

_SURROUNDINGS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT),
)
"""Errors of a file that say something of the machine and its owner, never of us."""


class _OwnHelp:
    """What says of a command or a group what :mod:`palm_cache.cli.help` does."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows its name."""
        return [usage(self)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write what ``--help`` prints."""
        formatter.write(help_text(self, ctx))


class Commands(_OwnHelp, TyperGroup):
    """A group of commands, and what ends any of them with one line.

    A defect keeps its traceback; what the machine refuses, and an output that takes nothing more, are none.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command."""
        try:
            if sys.stdout is None:
                raise PalmCacheError("standard output is closed; send it somewhere, if only to /dev/null")
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):  # in a locale without some letters
                    stream.reconfigure(errors="backslashreplace")
            return super().main(*args, **kwargs)
        except PalmCacheError as error:
            note(*getattr(error, "__notes__", ()))
            _fail(error.message)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if isinstance(error.filename, str | bytes) and error.errno in _SURROUNDINGS:
                _fail(f"{os.fsdecode(error.filename)}: {reason}; change that, or choose another place")
            if not _stdout_fails():
                raise
            _fail(f"standard output: cannot write: {reason}; send it elsewhere")

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the group's own options: flags, each of which is given or not."""
        options: list[Any] = super().get_params(ctx)
        for option in options:
            option.default = bool(option.default)  # typer would load pydantic to make sense of None
        return options


class Command(_OwnHelp, TyperCommand):
    """A command that says what was meant by a word too many."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; a word that belongs to no option is often the value of one."""
        words = list(args)
        TYPED.clear()
        for item in self.params:
            TYPED[str(item.name)] = str(item.metavar) if is_argument(item) else item.opts[0]
        try:
            if ctx.resilient_parsing:  # completion refuses nothing
                return super().parse_args(ctx, args)
            self._refuse_empty_words(ctx, words)
            rest = super().parse_args(ctx, args)
            for value in ctx.params.values():
                if isinstance(value, Path) and (url := re.fullmatch(r"([a-z][a-z\d+.-]+):/(.*)", str(value))):
                    told = f"{url[1]}://{url[2]} is a URL; give a file or folder of this machine"
                    raise ParameterError(told)
            return rest
        except UsageError as error:
            if not error.message:  # something is missing; of choices click would give each its line
                raise UsageError(" ".join(error.format_message().split()), ctx) from None
            error.message = _why_refused(error)
            if "unexpected extra argument" in error.message and (meant := self._meant(words)):
                error.message += f"; did you mean {meant}?"
            if files := [word for word in words if word.startswith("-") and Path(word).exists()]:
                error.message += f"; did you mean ./{files[0]}?"
            error.message = visible(error.message)
            raise
        except ParameterError as error:  # of a check: see checks.py
            raise typer.BadParameter(naming(error.message, TYPED), ctx) from None

    def _refuse_empty_words(self, ctx: Any, words: Sequence[str]) -> None:
        """Raise where a value is no word at all, which as a path would be this folder."""
        given, _, items = self.make_parser(ctx).parse_args(list(words))
        for item in items:
            values = given.get(item.name, ())
            if "" in (values if isinstance(values, list | tuple) else (values,)):
                raise typer.BadParameter("it is empty; give a value", ctx, param_hint=TYPED[item.name])

    def _meant(self, words: Sequence[str]) -> str:
        """Return the option that a word too many belongs to, with its value."""
        takes_value = {
            name: not getattr(option, "is_flag", False) for option in self.params for name in option.opts
        }
        pieces = [[""]]
        for word in words:
            if word.startswith("-"):
                pieces.append([word])
            else:
                pieces[-1].append(word)
        for option, *values in pieces:
            if takes_value.get(option):
                if len(values) > 1:
                    return f"{option} {','.join(value.strip(',') for value in values)}"
            elif values:
                name = "--store" if values[0].endswith(STORE_ENDING) else "--dataset"
                if name in takes_value and name not in words:
                    return f"{name} {values[0]}"
        return ""


UsageError: Any = typer.BadParameter.__base__

REFUSALS = {
    "int_parsing": "{input!r} is not a whole number",
    "float_parsing": "{input!r} is not a number",
    "greater_than_equal": "{input} is less than {ge}",
    "less_than_equal": "{input} is more than {le}",
    "value_error": "{error}",
}
"""Why a value is refused, by pydantic's name of the reason; its own words are a programmer's."""


def _why_refused(error: Any) -> str:
    """Return an error of usage in our words; among choices, with the one that may be meant."""
    details: list[Any] = getattr(error.__cause__, "errors", list)()
    if not details:
        return str(error.message)
    (detail, *_) = details
    template = REFUSALS.get(detail["type"], "{msg}")
    reason = template.format(**{**detail, **detail.get("ctx", {})}).rstrip(".")
    known = re.findall("'([^']+)'", reason.partition(" is not one of ")[2])
    return "; ".join(filter(None, [reason, did_you_mean(near(str(detail["input"]), known))]))


def command(
    app: typer.Typer,
    function: Callable[..., None],
    *,
    name: str | None = None,
    panel: str | None = None,
    if_interrupted: str = "nothing was written",
) -> None:
    """Add a command to an app.

    Parameters
    ----------
    name : str, optional
        What it is called, if not as its function.
    panel : str, optional
        Below which title help lists it.
    if_interrupted : str
        What Ctrl-C, or SIGTERM, leaves.
    """

    @wraps(function)
    def run(**values: Any) -> None:
        try:
            with sigterm_as_ctrl_c(), stdout_for_results():
                function(**values)
        except KeyboardInterrupt as interrupt:
            typer.echo(err=True)
            note(*getattr(interrupt, "__notes__", ()))
            say(f"interrupted: {if_interrupted}")
            raise typer.Exit(130) from None

    app.command(name, cls=Command, rich_help_panel=panel)(run)


def group(app: typer.Typer, name: str, summary: str, panel: str) -> typer.Typer:
    """Add a group of commands to an app, in a panel of its help."""
    members = typer.Typer(cls=Commands, no_args_is_help=True, help=summary)
    app.add_typer(members, name=name, rich_help_panel=panel)
    return members


def _stdout_fails() -> bool:
    """Tell whether standard output takes nothing; if so, have nobody try again."""
    try:
        print(flush=True)  # noqa: T201
    except OSError:
        # What is still in its buffer would fail once more when Python ends.
        with suppress(io.UnsupportedOperation), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return True
    return False


def _fail(message: str) -> None:
    say(f"error: {message}", colour="red")
    sys.exit(1)
