"""The leaderboard files: three boards as CSV and Markdown, one offline HTML page, one picture.

All are derived from the records alone: no clock, no paths of the machine, a fixed order. The same results
give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench.report.columns import BOARDS, MISSING, Board, Column, is_missing, show
from dstbench.report.provenance import provenance, reading
from dstbench.report.results import Loaded, Paths, frame, read
from dstbench.report.tables import leaderboards
from dstbench.report.text import to_csv, to_markdown

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

Row = dict[Any, Any]

COMPONENTS = ("init", "structure", "prune", "grow")
FILTERS = (*COMPONENTS, "model", "dataset", "density_requested")
_FOLDED = ("control", "reason", "note", "contended")  # said inside other cells
_LOGO = [
    (x, y, on)
    for y, line in zip((7, 12, 17), ("101", "011", "100"), strict=True)
    for x, on in zip((7, 12, 17), map(int, line), strict=True)
]


@dataclass(frozen=True)
class Cell:
    """One cell of the page; ``at``, ``low``, ``width`` and ``bar`` are percentages of its little graphics."""

    text: str
    tone: str = ""
    tip: str = ""
    badge: str = ""
    sub: str = ""
    at: str | None = None
    low: str | None = None
    width: str | None = None
    bar: str | None = None


@dataclass(frozen=True)
class Written:
    """What ``write_leaderboards`` made."""

    tables: dict[str, pd.DataFrame]
    files: tuple[Path, ...]
    rejected: tuple[str, ...]


def write_leaderboards(results: Paths, out: str | Path) -> Written:
    """Write ``<board>.csv`` and ``.md``, ``index.html`` and ``leaderboard.svg`` of results folders into ``out``.

    Raises BadInput where a results folder doesn't exist.
    """
    from dstbench.report.picture import render_picture

    loaded = read(results)
    tables = leaderboards(frame(loaded.records))
    contents = {"index.html": render_page(tables, loaded), "leaderboard.svg": render_picture(tables)}
    for board in BOARDS:
        contents[f"{board.name}.csv"] = to_csv(tables[board.name])
        contents[f"{board.name}.md"] = to_markdown(tables[board.name], board)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
    return Written(tables, tuple(folder / name for name in contents), tuple(map(str, loaded.rejected)))


def render_page(tables: Mapping[str, pd.DataFrame], loaded: Loaded) -> str:
    """The HTML page: tables rendered here, sorting, filters and the scatter by the script inside it."""
    rows = {board.name: tables[board.name].to_dict("records") for board in BOARDS}
    accuracy = rows["accuracy"]
    blocks = _blocks(accuracy)
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            css=_part("page.css"),
            js=_part("page.js"),
            data=_data(rows, tables, blocks),
            logo=_LOGO,
            facts=_facts(accuracy, loaded),
            blocks=[{"title": f"{m} on {d}", "tiles": _tiles(_of_block(accuracy, m, d))} for m, d in blocks],
            filters=_filters(accuracy),
            boards=[_board(board, rows[board.name]) for board in BOARDS],
            reading=reading(loaded.records),
            provenance=provenance(loaded.records),
            rejected=[f"{'/'.join(item.path.parts[-3:])}: {item.reason}" for item in loaded.rejected],
        )
    )


@cache
def templates() -> jinja2.Environment:
    """The templates of this package; everything put into them is escaped."""
    import jinja2

    loader = jinja2.PackageLoader("dstbench.report", "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )


def _part(name: str) -> Any:
    """Our own CSS or script, put into the page as it is."""
    from markupsafe import Markup

    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8").rstrip())


def _data(
    rows: Mapping[str, list[Row]], tables: Mapping[str, pd.DataFrame], blocks: Sequence[tuple[str, str]]
) -> Any:
    """The figures for the script, as JSON that can't end its script element."""
    from markupsafe import Markup

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
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _plain(value: Any) -> Any:
    if is_missing(value):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _blocks(rows: list[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["model"], row["dataset"]) for row in rows))


def _of_block(rows: list[Row], model: str, dataset: str) -> list[Row]:
    return [row for row in rows if (row["model"], row["dataset"]) == (model, dataset)]


def _facts(rows: list[Row], loaded: Loaded) -> list[dict[str, str]]:
    def count(number: int, what: str) -> dict[str, str]:
        return {"value": f"{number:,}", "what": what if number == 1 else f"{what}s"}

    finished = sum(record["status"] == "ok" for record in loaded.records)
    facts = [
        {"value": f"{finished:,}", "what": f"of {len(loaded.records):,} trials finished"},
        count(len({row["method"] for row in rows if not row["control"]}), "method"),
        count(len({row["model"] for row in rows}), "model"),
        count(len({row["dataset"] for row in rows}), "data set"),
        count(len({record["trial"]["seed"] for record in loaded.records}), "seed"),
    ]
    return facts + ([count(len(loaded.rejected), "file") | {"what": "left out"}] if loaded.rejected else [])


def _tiles(rows: list[Row]) -> list[dict[str, str]]:
    """What a reader wants to know first about one model on one data set."""
    sparse = [row for row in rows if not row["control"] and not is_missing(row["top1"])]
    if not sparse:
        return []
    best = max(sparse, key=lambda row: row["top1"])
    tiles = [{"what": "Best sparse top-1", "value": f"{best['top1']:.2f} %", "who": _who(best)}]
    if not is_missing(best["difference"]):
        tiles.append(
            {
                "what": "Its difference to dense, paired",
                "value": f"{show('points', best['difference'])} points",
                "who": _seeds(best),
            }
        )
    near = [
        row
        for row in sparse
        if row["top1"] >= best["top1"] - 1 and not is_missing(row["training_flops_ratio"])
    ]
    if near:
        cheap = min(near, key=lambda row: row["training_flops_ratio"])
        tiles.append(
            {
                "what": "Cheapest training within 1 point of it",
                "value": f"{show('ratio', cheap['training_flops_ratio'])} FLOPs",
                "who": _who(cheap),
            }
        )
    timed = [
        row
        for row in sparse
        if not is_missing(row["inference_throughput_ratio"]) and row["contended"] is not True
    ]
    if timed:
        fast = max(timed, key=lambda row: row["inference_throughput_ratio"])
        who = f"{_who(fast)}, {fast['path']}, {show('percent', fast['top1'])} %"
        tiles.append(
            {
                "what": "Fastest inference, measured",
                "value": show("ratio", fast["inference_throughput_ratio"]),
                "who": who,
            }
        )
    return tiles


def _who(row: Row) -> str:
    return f"{row['method']} at density {row['density_requested']:g}"


def _seeds(row: Row) -> str:
    if is_missing(row["difference_low"]):
        return "one seed: no interval"
    low, high = show("points", row["difference_low"]), show("points", row["difference_high"])
    return f"95 % interval {low} to {high}, {row['seeds']:.0f} seeds"


def _filters(rows: list[Row]) -> list[dict[str, Any]]:
    titles = {"density_requested": "density", "dataset": "data set"}
    found = []
    for key in FILTERS:
        values = sorted({row[key] for row in rows if not is_missing(row[key])})
        choices = [
            {
                "value": f"{value:.6g}" if isinstance(value, float) else value,
                "text": f"{value:g}" if isinstance(value, float) else value,
            }
            for value in values
        ]
        found.append({"key": key, "title": titles.get(key, key), "choices": choices})
    return found


def _board(board: Board, rows: list[Row]) -> dict[str, Any]:
    columns = [_on_page(column, rows) for column in board.columns if column.key not in _FOLDED]
    scale = _scale(rows)
    return {
        "name": board.name,
        "title": board.title,
        "summary": board.summary,
        "columns": columns,
        "rows": [
            {
                "control": row["control"],
                "absent": not row["seeds"],
                "cells": [_cell(column, row, scale) for column in columns],
            }
            for row in rows
        ],
    }


def _on_page(column: Column, rows: list[Row]) -> Column:
    """Components stand in the method's cell, and a model or data set that is the same everywhere in the title."""
    constant = column.key in ("model", "dataset") and len({row[column.key] for row in rows}) < 2
    return replace(column, extra=True) if constant or column.key in COMPONENTS else column


def _scale(rows: list[Row]) -> tuple[float, float]:
    """Lowest and highest top-1 on the board, intervals included: the axis of the little interval bars."""
    keys = ("top1", "top1_low", "top1_high")
    values = [row[key] for row in rows for key in keys if not is_missing(row[key])]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _cell(column: Column, row: Row, scale: tuple[float, float]) -> Cell:
    """What one cell shows."""
    key, text = column.key, show(column.kind, row[column.key])
    if key == "method":
        parts = " · ".join(row[name] for name in COMPONENTS if row[name])
        sub = row["reason"] if not row["seeds"] else parts if parts != text else ""
        return Cell(text, badge="control" if row["control"] else "", sub=sub or "")
    if key == "statuses":
        tone = "" if not row["reason"] else "warn" if row["seeds"] else "bad"
        details = (
            row["reason"] if row["seeds"] else None,
            row["note"],
        )  # nothing finished: beside the method
        return Cell(text, tone, sub="; ".join(filter(None, details)))
    if text == MISSING:
        return Cell(text, "dim")
    if key == "top1":
        return _accuracy(text, row, scale)
    if key.endswith("flops_ratio"):
        return Cell(text, bar=f"{100 * min(1.0, row[key]):.1f}")
    if not column.interval:
        return Cell(text)
    low, high = (row[name] for name in column.keys[1:])
    if key == "difference":  # coloured only where the whole interval lies on one side
        tone = "" if is_missing(low) else "good" if low > 0 else "poor" if high < 0 else ""
        return Cell(text, tone, _interval("95 % interval", column, row))
    badge = "contended" if row["contended"] is True else ""
    tone = "good" if not badge and not is_missing(low) and low > 1 else ""
    return Cell(text, tone, _interval("over timing rounds", column, row), badge)


def _interval(what: str, column: Column, row: Row) -> str:
    low, high = (row[name] for name in column.keys[1:])
    return "" if is_missing(low) else f"{what}: {show(column.kind, low)} to {show(column.kind, high)}"


def _accuracy(text: str, row: Row, scale: tuple[float, float]) -> Cell:
    """The mean, and where it and its interval lie on the board's axis."""
    width = (scale[1] - scale[0]) or 1.0
    at = f"{100 * (row['top1'] - scale[0]) / width:.1f}"
    if is_missing(row["top1_low"]):
        return Cell(text, at=at)
    half = row["top1_high"] - row["top1"]
    low = f"{100 * (row['top1_low'] - scale[0]) / width:.1f}"
    tip = f"95 % interval: {row['top1_low']:.2f} to {row['top1_high']:.2f}, {row['seeds']:.0f} seeds"
    return Cell(text, tip=tip, sub=f"±{half:.2f}", at=at, low=low, width=f"{200 * half / width:.1f}")
