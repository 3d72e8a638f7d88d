"""What ``compare`` found, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dstbench.report.sheet import Entry, Field, Sheet
from dstbench.report.table_rows import rows_of
from dstbench.report.text import place_of
from dstbench.report.values import Column, kind_of, ranking_of_row, show
from dstbench.results.printable import counted
from dstbench.results.ranking import TOP1

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType


def render_comparison(table: pd.DataFrame) -> RenderableType:
    """What ``compare`` found, the worst first; below it every block, and all together."""
    from rich.console import Group
    from rich.text import Text

    if table.empty:
        return Text("Nothing to compare: no results on either side.")
    entries = []
    for row in rows_of(table):
        change = Column("difference", "", "", "points", interval=True).text(row)
        kind = kind_of(ranking_of_row(row))
        numbers = (show(kind, row["before"]), show(kind, row["after"]), change, row["verdict"])
        places = (row["model"], row["dataset"], f"{row['density']:g}")
        style = {"worse": "red", "better": "green"}.get(row["verdict"], "")
        entries.append(Entry(row["method"], (*places, *numbers), remark=row["basis"], style=style))
    fields = (
        Field("model", right=False), Field("dataset", right=False), Field("density"), Field("before"),
        Field("after"), Field("change"), Field("verdict", right=False),
    )  # fmt: skip
    said = "; ".join(
        f"{one.title}, {one.direction}; changes in {one.unit_of_differences}"
        for one in dict.fromkeys(map(ranking_of_row, rows_of(table[["metric", "better"]])))
    )
    blocks = _changes(table.attrs.get("blocks", []))
    return Group(Sheet(fields, (tuple(entries),)), "", Text(said, style="dim"), *blocks)


def _changes(blocks: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """What ``compare`` found of each block, and of all together, a line each."""
    from rich.text import Text

    lines: list[RenderableType] = []
    for row in blocks:
        change = Column("difference", "", "", "points", interval=True).text(row)
        change += " points" if (metric := ranking_of_row(row)) is TOP1 else f" of {metric.title}"
        place = f"all {counted(row['of'], 'method')} of {place_of(row['model'], row['dataset'])}"
        place = (
            f"all {counted(row['of'], 'block')}"
            if row["model"] is None
            else f"{place} at density {row['density']:g}"
        )
        style = {"worse": "red", "better": "green"}.get(row["verdict"], "")
        lines.append(Text(f"{row['verdict']}: {change}, {place} ({row['basis']})", style=style))
    return lines
