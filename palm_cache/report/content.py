"""What a report is made of, before it becomes Markdown or HTML."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

_NUMBER = re.compile(r"[-+<]? ?\d|-?$|all$")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings; nothing in it is markup."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers; the first names what a row is of."""
        return (
            False,
            *(all(_NUMBER.match(row[n]) for row in self.rows) for n in range(1, len(self.headings))),
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """A vector graphic."""

    name: str
    """File name without ending."""
    caption: str
    svg: str
    inches: float
    """Its width."""
    lacking: frozenset[str] = frozenset()
    """Letters in it that no font here has."""

    @property
    def address(self) -> str:
        """Itself as the address of an image: inside one, its names cannot clash with another's."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with paragraphs, tables and figures below it."""

    title: str
    blocks: tuple[str | Table | Figure, ...]
