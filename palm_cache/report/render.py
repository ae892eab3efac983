"""A report's sections as Markdown with figures beside it, and as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from palm_cache.errors import visible
from palm_cache.report.content import Figure, Section, Table
from palm_cache.store.outputs import REPORT_MARK

TITLE = "palm-cache report"


def as_markdown(verdict: str, sections: Sequence[Section]) -> str:
    """Lay verdict and sections out in Markdown; figures are links to SVG files in the same folder."""
    lines = [f"# {_escape(verdict)}", REPORT_MARK]
    for section in sections:
        lines.append(f"## {_escape(section.title)}")
        for block in section.blocks:
            if isinstance(block, Table):
                lines += [f"{_escape(block.caption)}:"] if block.caption else []
                lines.append(markdown_table(block.headings, block.rows))
            elif isinstance(block, Figure):
                lines.append(f"![{_escape(block.caption)}]({block.name}.svg)")
            else:
                lines.append(_escape(block))
    return "\n\n".join(lines) + "\n"


def as_page(verdict: str, sections: Sequence[Section]) -> str:
    """Lay verdict and sections out as one HTML page; what comes from data is escaped by the template."""
    environment = Environment(
        loader=PackageLoader("palm_cache.report", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.tests |= {
        "table": lambda block: isinstance(block, Table),
        "figure": lambda block: isinstance(block, Figure),
    }
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("page.html.jinja").render(title=TITLE, verdict=verdict, sections=sections)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown; what is special to Markdown or HTML in a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _data_uri(svg: str) -> Markup:
    """Return a graphic as the address of an image: inside one, its names cannot clash with another's."""
    return Markup("data:image/svg+xml;base64,") + base64.b64encode(svg.encode()).decode()


def _escape(text: str) -> str:
    return visible(text.replace("\n", " ")).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
