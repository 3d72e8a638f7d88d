"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dstbench.report.values import Column


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def header(columns: Sequence[Column]) -> list[str]:
    """The first two lines of a table: titles, and numbers to the right."""
    return [
        line(column.title for column in columns),
        line("--:" if column.numeric else ":--" for column in columns),
    ]


def escaped(text: str) -> str:
    """A cell's text as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
