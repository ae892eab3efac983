"""The page of all commands, made of what they say of themselves when the site is built."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import griffe
import typer

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
    from palm_cache.cli.help import option_panels, paragraphs, usage

    prose, examples = paragraphs(command.help)
    panels = option_panels(command, command.make_context(words, [], resilient_parsing=True))
    rows = [row for panel in panels.values() for row in panel]
    table = "| takes | meaning |\n|---|---|\n" + "\n".join(
        f"| {_code(names)} | {_escaped(text)} |" for names, text in rows
    )
    return "\n\n".join(
        [
            f"### {words}",
            f"    {words} {usage(command)}",
            *map(_escaped, prose),
            *(f"    {example}" for example in examples),
            table,
        ]
    )


def _code(text: str) -> str:
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]#|])", r"\\\1", html.escape(text, quote=False))
