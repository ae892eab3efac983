"""What a report is made of, before it becomes Markdown or HTML."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings; nothing in it is markup."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A vector graphic."""

    name: str
    """File name without ending."""
    caption: str
    svg: str
    lacking: frozenset[str] = frozenset()
    """Letters in it that no font here has."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with paragraphs, tables and figures below it."""

    title: str
    blocks: tuple[str | Table | Figure, ...]
