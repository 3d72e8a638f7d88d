"""Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dstbench.report.values import Column

_MARKS = re.compile(r"[\\|\[\]*`~$&]")
_ADDRESS = re.compile(r"(?<=[a-z])(:)(?=//)|(?<=www)(\.)|(?<=[\w.+-])(@)(?=[\w-])", re.IGNORECASE)
"""The character without which what looks like an address is no link."""


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def header(columns: Sequence[Column]) -> list[str]:
    """The first two lines of a table: titles, and numbers to the right."""
    return [
        line(harmless(column.title) for column in columns),
        line("--:" if column.numeric else ":--" for column in columns),
    ]


def escaped(text: str) -> str:
    """A cell's text as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def harmless(text: str) -> str:
    """The same of a text that others wrote: no link, no image and no markup comes of it."""
    marked = _ADDRESS.sub(r"\\\g<0>", _MARKS.sub(r"\\\g<0>", text))
    return marked.replace("\n", " ").replace("<", "&lt;")
