"""What stands below a board that shows published rows: ours against them, and the sources with footnotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dstbench.report.columns import COLUMNS
from dstbench.report.markdown import escaped, harmless, header, line
from dstbench.report.published.beside import Beside, Source
from dstbench.report.sheet import Entry, Field, Sheet
from dstbench.report.values import Column, show

if TYPE_CHECKING:
    from rich.console import RenderableType

LEAD = (
    "Rows marked published are figures printed elsewhere, as printed. They are shown, never ranked: seeds, data "
    "splits, training and FLOPs conventions are their source's own."
)
COMPARED = (
    Column("method", "ours", "Our method of the same name, with what its parameters are."),
    Column("model", "model", "The network."),
    Column("dataset", "dataset", "The data."),
    COLUMNS["density_requested"],
    Column("published", "source", "The source's number below, and its footnotes."),
    COLUMNS["seeds"],
    Column("top1", "top-1 %", "Ours: mean over seeds.", "percent"),
    Column("published_top1", "published %", "The printed figure.", "percent"),
    Column("difference", "ours − published", "Percent points. No test: the two differ in more than seeds.", "points"),
    Column("protocol", "training", "Which training settings are known to differ."),
)  # fmt: skip


def compared(comparisons: Sequence[Mapping[Any, Any]]) -> list[list[str]]:
    """The cells of the comparison, row by row."""
    return [[show(column.kind, row[column.key]) for column in COMPARED] for row in comparisons]


def markdown(beside: Beside, compare: bool) -> list[str]:
    """The lines below a Markdown board."""
    lines = ["", LEAD]
    if compare and beside.comparisons:
        lines += ["", "## Ours and published", "", *header(COMPARED)]
        lines += [
            line(
                (escaped if column.numeric or column.key == "published" else harmless)(cell)
                for column, cell in zip(COMPARED, cells, strict=True)
            )
            for cells in compared(beside.comparisons)
        ]
    lines += ["", "## Published sources"]
    for source in beside.sources:
        table = source.table
        lines += ["", f"[{source.number}] {table.cite}, *{table.title}*, {table.where}. "
                  f"{', '.join(f'<{place}>' for place in table.places)}, {table.grade}.", ""]  # fmt: skip
        lines += [f"- {note}" for note in table.notes]
        lines += [f"- **{letter}** {text}" for letter, text in source.footnotes]
    return lines


def render(beside: Beside) -> list[RenderableType]:
    """The same for the terminal."""
    from rich.text import Text

    parts: list[RenderableType] = []
    if beside.comparisons:
        lines = compared(beside.comparisons)
        shown = [
            i
            for i, column in enumerate(COMPARED)
            if i and not _is_constant(column, [cells[i] for cells in lines])
        ]
        fields = tuple(
            Field(COMPARED[i].title, int(COMPARED[i].key == "protocol"), COMPARED[i].numeric) for i in shown
        )
        entries = tuple(Entry(cells[0], tuple(cells[i] for i in shown)) for cells in lines)
        parts.append(Sheet(fields, (entries,), title="\nours and published", name="ours", gap=1))
    texts = [LEAD, *(text for source in beside.sources for text in _source(source))]
    return [*parts, Text("\n" + "\n".join(texts), style="dim")]


def _is_constant(column: Column, cells: Sequence[str]) -> bool:
    """Whether a place says nothing: the table above names it."""
    return column.key in ("model", "dataset") and len(set(cells)) == 1


def _source(source: Source) -> list[str]:
    table = source.table
    first = f"[{source.number}] {table.cite}, {table.where}, {', '.join(table.places)} ({table.grade})"
    notes = [f"    {note}" for note in table.notes]
    return [first, *notes, *(f"    {letter}: {text}" for letter, text in source.footnotes)]
