"""The leaderboard files: three boards as CSV and Markdown, one offline HTML page, one picture.

All are derived from the records alone: no clock, no paths of the machine, a fixed order. The same results
give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench.report.boards import BOARDS, Board, is_about_speed
from dstbench.report.highlights import Card, about, cards, facts
from dstbench.report.isolation import isolated
from dstbench.report.jinja import part, templates
from dstbench.report.leaderboards import arranged, summarise
from dstbench.report.notes import provenance, reading
from dstbench.report.page_cells import METHOD_PARTS, accuracy_axis, cell_of
from dstbench.report.picture import render_picture
from dstbench.report.published.below import COMPARED, LEAD, compared
from dstbench.report.published.beside import Beside, stand_beside
from dstbench.report.section import Material, Section
from dstbench.report.sections import sections
from dstbench.report.speedup import speedups
from dstbench.report.text import to_csv, to_markdown
from dstbench.report.trajectories import exploration_files
from dstbench.report.values import Column, is_missing
from dstbench.results.files import write_all
from dstbench.results.printable import printable
from dstbench.results.table import LoadedResults, Paths, frame, read

if TYPE_CHECKING:
    import pandas as pd

Row = dict[Any, Any]


FILTERS = (*METHOD_PARTS, "model", "dataset", "density_requested")
_FOLDED = ("control", "reason", "note", "contended")  # said inside other cells
_LOGO = [
    (x, y, on)
    for y, line in zip((7, 12, 17), ("101", "011", "100"), strict=True)
    for x, on in zip((7, 12, 17), map(int, line), strict=True)
]


@dataclass(frozen=True)
class Written:
    """What ``write_leaderboards`` made: ``tables`` hold our rows alone, files the published ones beside them."""

    tables: dict[str, pd.DataFrame]
    beside: Beside
    files: tuple[Path, ...]
    rejected: tuple[str, ...]


def write_leaderboards(results: Paths, out: str | Path) -> Written:
    """Write ``<board>.csv`` and ``.md``, ``index.html`` and ``leaderboard.svg`` of results folders into ``out``,
    and the page and the tables about exploration where records say how it went.

    A record that no board can show is left out by name. Raises BadInput where a results folder doesn't exist or
    ``out`` is a file; where the disk is full, what was in ``out`` stays.
    """
    (tables, beside, contents), loaded = isolated(read(results), _contents)
    folder = Path(out)
    write_all(folder, contents)
    return Written(
        tables, beside, tuple(folder / name for name in contents), tuple(map(str, loaded.rejected))
    )


def boards_of(loaded: LoadedResults) -> tuple[dict[str, pd.DataFrame], Beside]:
    """The boards' tables, and what was published beside them."""
    return _boards_of(_material(loaded))


def _material(loaded: LoadedResults) -> Material:
    trials = frame(loaded.records)
    return Material(loaded, trials, summarise(trials))


def _boards_of(material: Material) -> tuple[dict[str, pd.DataFrame], Beside]:
    return arranged(material.summary), stand_beside(material.summary)


def _contents(loaded: LoadedResults) -> tuple[dict[str, pd.DataFrame], Beside, dict[str, str]]:
    """The tables, what was published beside them, and the texts of all files by name."""
    material = _material(loaded)
    tables, beside = _boards_of(material)
    explored = exploration_files(loaded)
    page = render_page(tables, loaded, beside, explored=bool(explored), below=sections(material))
    contents = {"index.html": page, "leaderboard.svg": render_picture(tables), **explored}
    for board in BOARDS:
        whole = beside.within(board.name, tables[board.name])
        contents[f"{board.name}.csv"] = to_csv(whole)
        contents[f"{board.name}.md"] = to_markdown(whole, board, beside)
    return tables, beside, contents


def render_page(
    tables: Mapping[str, pd.DataFrame],
    loaded: LoadedResults,
    beside: Beside,
    explored: bool = False,
    below: Sequence[Section] = (),
) -> str:
    """The HTML page: tables rendered here, sorting, filters and the scatter by the script inside it.

    explored: whether there is a page about exploration beside it, to link to; below: what follows the tables.
    """
    whole = {name: beside.within(name, table) for name, table in tables.items()}
    rows = {name: table.to_dict("records") for name, table in whole.items()}
    accuracy = tables["accuracy"].to_dict("records")  # ours: what summaries, filters and axes go by
    blocks = _blocks(accuracy)
    questions = [cards(rows["accuracy"], model, dataset) for model, dataset in blocks]
    speed_alone = bool(blocks) and all(is_about_speed(dataset) for _, dataset in blocks)
    boards = sorted(BOARDS, key=lambda board: speed_alone and board.name != "throughput")
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            explored=explored,
            sections=below,
            embedded=embedded,
            css=part("page.css"),
            js=part("page.js"),
            data=_data(rows, whole, blocks, questions),
            logo=_LOGO,
            about=about(accuracy),
            speed_alone=speed_alone,
            facts=facts(accuracy, loaded),
            blocks=[
                {"title": f"{model} on {dataset}", "cards": asked}
                for (model, dataset), asked in zip(blocks, questions, strict=True)
            ],
            filters=_filters(accuracy),
            boards=[_board(board, rows[board.name]) for board in boards],
            speedups=speedups(rows["throughput"], _structures(accuracy)),
            sources=beside.sources,
            published_lead=LEAD,
            compared=COMPARED,
            comparisons=compared(beside.comparisons),
            reading=reading(loaded.records),
            provenance=provenance(loaded.records),
            rejected=[f"{item.place}: {printable(item.reason)}" for item in loaded.rejected],
        )
    )


def embedded(content: Any) -> Any:
    """JSON for a script element, which it can't end."""
    from markupsafe import Markup

    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _data(
    rows: Mapping[str, list[Row]],
    tables: Mapping[str, pd.DataFrame],
    blocks: Sequence[tuple[str, str]],
    questions: Sequence[Sequence[Card]],
) -> Any:
    """The figures for the script."""
    boards = {
        name: {
            "keys": list(tables[name].columns),
            "rows": [[_plain(value) for value in row.values()] for row in listed],
        }
        for name, listed in rows.items()
    }
    content = {
        "boards": boards,
        "blocks": [{"model": model, "dataset": dataset} for model, dataset in blocks],
        "cards": [[[astuple(c) for c in card.candidates] for card in asked] for asked in questions],
    }
    return embedded(content)


def _plain(value: Any) -> Any:
    if is_missing(value):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _structures(rows: list[Row]) -> list[str]:
    """In the order that gives them their colours, here and in the script."""
    return sorted({row["structure"] for row in rows if not is_missing(row["structure"])})


def _blocks(rows: list[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["model"], row["dataset"]) for row in rows))


def _filters(rows: list[Row]) -> list[dict[str, Any]]:
    titles = {"density_requested": "density", "dataset": "data set"}
    filters = []
    for key in FILTERS:
        values = sorted({row[key] for row in rows if not is_missing(row[key])})
        choices = [
            {
                "value": f"{value:.6g}" if isinstance(value, float) else value,
                "text": f"{value:g}" if isinstance(value, float) else value,
            }
            for value in values
        ]
        filters.append({"key": key, "title": titles.get(key, key), "choices": choices})
    return filters


def _board(board: Board, rows: list[Row]) -> dict[str, Any]:
    listed = sorted(board.columns, key=lambda column: _place(column.key, board))
    columns = [_on_page(column, rows) for column in listed if column.key not in _FOLDED]
    scale = accuracy_axis([row for row in rows if not row.get("published")])
    return {
        "name": board.name,
        "title": board.title,
        "summary": board.summary,
        "drawing": board.drawing,
        "columns": columns,
        "rows": [
            {
                "kind": _kind(row),
                "cells": [cell_of(column, row, scale) for column in columns],
            }
            for row in rows
        ],
    }


def _place(key: str, board: Board) -> int:
    """What a board is ranked by stands beside the method, with the accuracy: narrow screens show that first."""
    ahead = ("rank", "method", board.by, "top1", "difference")
    return ahead.index(key) if key in ahead else len(ahead)


def _kind(row: Row) -> str:
    """What the row's look says."""
    if row.get("published"):
        return "published"
    return "control" if row["control"] else "" if row["seeds"] else "absent"


def _on_page(column: Column, rows: list[Row]) -> Column:
    """Components stand in the method's cell, and a model or data set that is the same everywhere in the title."""
    constant = column.key in ("model", "dataset") and len({row[column.key] for row in rows}) < 2
    return replace(column, extra=True) if constant or column.key in METHOD_PARTS else column
