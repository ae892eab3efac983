"""Pages in one frame and one look; styles and scripts lie inside, admitted by their hashes alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

FRAME = Path(__file__).parent


def render(
    templates: Path,
    template: str,
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    **values: object,
) -> str:
    """Fill a template that extends ``frame.html.j2``.

    Parameters
    ----------
    templates : Path
        The folder of template, styles and scripts.
    styles, scripts : sequence of str
        Files there, put together in their order behind those that all pages have.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, FRAME]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # With Jinja's "tojson", "<", ">" and "&" of names cannot end the script element that holds them.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": True}
    style = stylesheet(templates, *styles)
    script = program(templates, *scripts) if scripts else ""
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
        **values,
    )


def stylesheet(templates: Path, *styles: str) -> str:
    """Return the styles that all pages have, and further ones of a folder behind them."""
    return _together(FRAME, ("frame.css",)) + _together(templates, styles)


def program(templates: Path, *scripts: str) -> str:
    """Return the script that all pages with one have, and further ones of a folder behind it."""
    return _together(FRAME, ("frame.js",)) + _together(templates, scripts)


def _together(folder: Path, names: Sequence[str]) -> str:
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


def _source_hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
