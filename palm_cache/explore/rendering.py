"""Pages of one file: templates with their styles and scripts inside, admitted by their hashes alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("template")


def render(template: str, *, styles: Sequence[str], scripts: Sequence[str] = (), **values: object) -> str:
    """Fill a template; it is also given ``style``, ``script`` and their hashes for a content security policy.

    Parameters
    ----------
    styles, scripts : sequence of str
        Files beside the template, put together in their order.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # With Jinja's "tojson", "<", ">" and "&" of names cannot end the script element that holds them.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": True}
    style, script = (
        "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
        for names in (styles, scripts)
    )
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
        **values,
    )


def _source_hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
