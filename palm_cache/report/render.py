"""A report's sections as Markdown with figures beside it, and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palm_cache.errors import visible
from palm_cache.pages.rendering import render
from palm_cache.report.content import Figure, Section, Table
from palm_cache.store.outputs import REPORT_MARK


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
    return render(
        Path(__file__).with_name("template"),
        "report.html.j2",
        styles=("report.css",),
        command="report",
        verdict=verdict,
        sections=sections,
    )


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown; what is special to Markdown or HTML in a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(text: str) -> str:
    return visible(text.replace("\n", " ")).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
