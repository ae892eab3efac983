"""What ``--help`` says: usage, text, examples, and a panel for every kind of option or command.

It is plain text, wrapped at blanks alone: options, paths and commands can be copied from it.
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import typer

from palm_cache.cli.terminal import styled

NARROWEST, WIDEST = 40, 100
"""Columns that help is written in, whatever a terminal has."""

NAMES_WIDTH = 26
"""Columns for names: the text of longer ones begins on the next line."""

NO_BREAK = "\N{NO-BREAK SPACE}"

Panels = dict[str, list[tuple[str, str]]]
"""Names and what they mean, below the title of their panel."""


def help_text(command: Any, context: typer.Context) -> str:
    """Return what ``--help`` prints of a command or a group of them."""
    columns = shutil.get_terminal_size().columns
    return "\n".join(_lines(command, context, max(NARROWEST, min(columns, WIDEST))))


def usage(command: Any) -> str:
    """Return what follows the name of a command or a group: ``[OPTIONS] STORE...``."""
    if hasattr(command, "commands"):
        return "COMMAND [OPTIONS]"
    arguments = [option for option in command.params if is_argument(option)]
    names = (option.metavar if option.required else f"[{option.metavar}]" for option in arguments)
    return " ".join(["[OPTIONS]", *names])


def paragraphs(text: str) -> tuple[list[str], list[str]]:
    """Part the help of a command into its paragraphs and the command lines that are its examples."""
    prose: list[str] = []
    examples: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        line = " ".join(paragraph.split())
        example = re.sub(r"^Examples?: ", "", line)
        (examples if examples or example != line else prose).append(example)
    return prose, examples


def option_panels(command: Any, context: typer.Context) -> Panels:
    """Return the arguments and options of a command."""
    panels: Panels = {}
    for option in sorted(command.get_params(context), key=lambda option: not is_argument(option)):
        title = option.rich_help_panel or ("Arguments" if is_argument(option) else "Options")
        panels.setdefault(title, []).append((_names(option), _meaning(option)))
    return panels


def _command_panels(group: Any) -> Panels:
    panels: Panels = {}
    for name, command in getattr(group, "commands", {}).items():
        summary = paragraphs(command.help)[0][0]
        panels.setdefault(command.rich_help_panel or "Commands", []).append((name, summary))
    return panels


def _lines(command: Any, context: typer.Context, width: int) -> Iterator[str]:
    prose, examples = paragraphs(command.help)
    yield f"{styled('Usage:', bold=True)} {context.command_path} {usage(command)}"
    for paragraph in prose:
        yield from ["", *_wrapped(paragraph, width)]
    if examples:
        yield from ["", styled("Examples", bold=True), *(f"  {example}" for example in examples)]
    yield from _panel_lines(_command_panels(command), width)
    yield from _panel_lines(option_panels(command, context), width)


def _panel_lines(panels: Panels, width: int) -> Iterator[str]:
    longest = max((len(names) for rows in panels.values() for names, _ in rows), default=0)
    indent = 2 + min(longest, NAMES_WIDTH) + 2
    for title, rows in panels.items():
        yield from ["", styled(title, bold=True)]
        for names, meaning in rows:
            first, *others = _wrapped(meaning, width - indent)
            if len(names) > NAMES_WIDTH:
                yield f"  {names}"
                yield " " * indent + first
            else:
                yield f"  {names:{indent - 2}}{first}"
            yield from (" " * indent + line for line in others)


def _wrapped(text: str, width: int) -> list[str]:
    # A short default stays in one piece.
    text = re.sub(r"\[default: [^]]{,30}\]", lambda default: default[0].replace(" ", NO_BREAK), text)
    lines = wrap(text, width, break_on_hyphens=False, break_long_words=False)
    return [line.replace(NO_BREAK, " ") for line in lines]


def is_argument(option: Any) -> bool:
    """Tell whether it is an argument, which is given without a name."""
    return bool(option.param_type_name == "argument")


def _names(option: Any) -> str:
    if is_argument(option):
        return str(option.metavar)
    names = ", ".join(sorted(option.opts, key=len))
    if option.is_flag:
        return f"--[no-]{names[2:]}" if option.secondary_opts else names
    return f"{names} {option.metavar}"


def _meaning(option: Any) -> str:
    if option.required and not is_argument(option):
        return f"{option.help} [required]"
    default = option.show_default
    if default is True:
        default = "yes" if option.default is True else option.default
    return f"{option.help} [default: {default}]" if default else str(option.help)
