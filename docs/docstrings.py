"""From the docstrings' reStructuredText to what the site shows.

Equations become MathML, which browsers draw without scripts or fonts from elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

SCROLLING = '<div style="overflow-x: auto">{}</div>\n\n'
"""Around an equation, so that a long one does not widen the page on a telephone."""


class Docstrings(griffe.Extension):
    """Turn ``.. math::``, ``:math:`` and roles such as ``:class:`` into what Markdown knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring before it is parsed."""
        if not obj.docstring:
            return
        text = re.sub(
            r"^\.\. math::[ ]*(.*(?:\n(?:[ ]+.*)?)*)",
            lambda match: SCROLLING.format(convert(" ".join(match[1].split()), display="block")),
            obj.docstring.value,
            flags=re.MULTILINE,
        )
        text = re.sub(r":math:`([^`]+)`", lambda match: convert(match[1]), text)
        obj.docstring.value = re.sub(r":\w+:`(?:~(?:\w+\.)*)?([\w.]+)`", r"`\1`", text)
