"""The page of all commands, made of what they say of themselves when the site is built."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import griffe
import typer
from rich.text import Text
from typer.core import MARKUP_MODE_KEY

MODULE = "palm_cache.cli"
"""The module in whose place the page shows the commands."""


class Commands(griffe.Extension):
    """Make the help of every command the docstring of the command line's module."""

    def on_module_instance(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        """Replace one module's docstring."""
        if mod.path == MODULE and mod.docstring:
            mod.docstring.value = describe_commands()


def describe_commands() -> str:
    """Return all commands in Markdown, below the headings under which ``palm-cache --help`` lists them."""
    from palm_cache.cli import app

    root = typer.main.get_command(app)
    panels: dict[str, list[str]] = {}
    for panel, words, command in _commands(root, "palm-cache"):
        panels.setdefault(panel, []).append(_describe(words, command))
    return "\n\n".join(f"## {panel}\n\n" + "\n\n".join(texts) for panel, texts in panels.items())


def _commands(group: Any, prefix: str, panel: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield panel, full name and command of every command in a group, those of groups in it too."""
    for name, command in group.commands.items():
        words, its_panel = f"{prefix} {name}", panel or str(command.rich_help_panel)
        if hasattr(command, "commands"):
            yield from _commands(command, words, its_panel)
        else:
            yield its_panel, words, command


def _describe(words: str, command: Any) -> str:
    context = command.make_context(words, [], resilient_parsing=True)
    context.obj = {MARKUP_MODE_KEY: "rich"}  # or defaults, which stand in brackets, count as markup
    usage = f"    {words} {' '.join(command.collect_usage_pieces(context))}"
    records = [(one.get_help_record(context), one.param_type_name) for one in command.params]
    rows = [
        (names, Text.from_markup(text).plain)
        for (names, text), _ in sorted(records, key=lambda record: record[1] != "argument")
    ]
    table = "| | |\n|---|---|\n" + "\n".join(f"| {_code(names)} | {_escaped(text)} |" for names, text in rows)
    return "\n\n".join([f"### {words}", usage, *_paragraphs(command.help), table])


def _paragraphs(help_text: str) -> Iterator[str]:
    """Part help into paragraphs; lines of a shell become code."""
    for paragraph in Text.from_markup(help_text).plain.split("\n\n"):
        text = " ".join(paragraph.split())
        label, line = re.fullmatch(r"(Examples?: )?(.*)", text, re.DOTALL).groups()
        if line.startswith("palm-cache ") and (label or line == text):
            yield f"    {line}"
        else:
            yield _escaped(text)


def _code(text: str) -> str:
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]#|])", r"\\\1", html.escape(text, quote=False))
