"""The page of commands, as the site's builder makes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
import pytest
from command_line import all_commands

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """What the page shows of every command."""
    extensions = griffe.load_extensions(DOCS / "commands.py")
    file = DOCS.parent / "palm_cache" / "cli" / "__init__.py"
    module = griffe.visit("palm_cache.cli", file, file.read_text(encoding="utf-8"), extensions=extensions)
    assert module.docstring
    _, *texts = module.docstring.value.split("### palm-cache ")
    return {text.partition("\n")[0]: text for text in texts}


@pytest.mark.parametrize(("name", "command"), all_commands())
def test_every_command_and_option_is_on_the_page(name: str, command: Any, sections: dict[str, str]) -> None:
    text = sections[name]
    assert f"    palm-cache {name}" in text
    assert command.help.split(".")[0] in text
    for parameter in command.params:
        options = parameter.param_type_name == "option"
        shown = parameter.opts if options else [parameter.metavar or parameter.name]
        assert all(
            re.search(rf"<code>(-\w, )?(--(\[no-\])?)?{re.escape(name.removeprefix('--'))}", text)
            for name in shown
        ), f"{shown} in {text}"


def test_defaults_are_shown_in_their_brackets(sections: dict[str, str]) -> None:
    assert r"\[default: data/raw/demo\]" in sections["synthesise"]
    assert r"pip install 'palm-cache\[" in sections["extract"]


def test_the_site_shows_it() -> None:
    assert "\n::: palm_cache.cli\n" in (DOCS / "pages" / "commands.md").read_text(encoding="utf-8")
    settings = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    assert "commands.py" in settings
    assert "commands.md" in settings
