"""Boards as text: CSV for machines, Markdown for repositories, a rich table for the terminal."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dstbench.report.boards import Board, is_about_speed, titled
from dstbench.report.columns import COLUMNS
from dstbench.report.markdown import escaped, harmless, header, line
from dstbench.report.published.below import markdown as published_markdown
from dstbench.report.published.below import render as render_published
from dstbench.report.published.beside import Beside
from dstbench.report.scores import below_zero, rankings_of, score_of
from dstbench.report.sheet import Entry, Field, Sheet
from dstbench.report.table_rows import rows_of
from dstbench.report.values import (
    ITSELF,
    MISSING,
    Column,
    is_missing,
    kind_of,
    plus_minus,
    ranking_of_row,
    show,
)
from dstbench.results.measure_table import Kind
from dstbench.results.printable import cell, shortened
from dstbench.results.ranking import TOP1, Ranking
from dstbench.results.tuning import EDGE

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

TERMINAL = tuple(  # with what each is titled, and when it goes where room is short
    (COLUMNS[key], Field(title, spare))
    for key, title, spare in (
        ("density", "density", 0),
        ("seeds", "n", 0),
        ("top1", "top-1 %", 0),
        ("difference", "Δ dense", 0),
        ("r_s", "R_s", 4),
        ("training_flops_ratio", "FLOPs\ntrain", 3),
        ("inference_flops_ratio", "FLOPs\ninfer", 2),
        ("train_throughput_ratio", "speed\ntrain", 1),
        ("inference_throughput_ratio", "speed\ninfer", 0),
    )
)
NOTHING = Beside()
_QUOTED = re.compile('[",\r\n]')
NAME = 80  # characters of a name in headings
LONGEST = 1000  # rows of a Markdown table: longer ones are shown nowhere


def to_csv(table: pd.DataFrame) -> str:
    """Six significant digits, missing empty, one line ending everywhere: the same results, the same bytes. No text is
    a formula where a spreadsheet opens it."""
    columns = [map(csv_text, table[name].tolist()) for name in table.columns]
    lines = [",".join(map(csv_text, table.columns)), *map(",".join, zip(*columns, strict=True))]
    return "\n".join(lines) + "\n"


def csv_text(value: Any) -> str:
    """One field of a CSV file (RFC 4180)."""
    if isinstance(value, float):
        return _float_text(value) if value else f"{value:.6g}"  # -0.0 is equal to 0.0
    if not isinstance(value, str):
        return "" if is_missing(value) else str(value)
    text = cell(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


@lru_cache(1 << 14)  # the same figures stand in row after row
def _float_text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def to_markdown(table: pd.DataFrame, board: Board, beside: Beside = NOTHING) -> str:
    """The board's main columns as one Markdown table; the CSV beside it has all of them.

    ``beside`` says where the published rows that ``table`` holds are from.
    """
    rows = rows_of(table)
    metrics = rankings_of(rows)
    columns = [titled(column, metrics) for column in board.shown(table)]
    columns = [column for column in columns if not column.extra and column.key not in _SAID]
    lines = [
        f"# {harmless(board.title(metrics))}",
        "",
        f"{harmless(board.summary(metrics))} Controls are in italics. [low, high] is a 95 % t-interval over n seeds, "
        f"for speed the quartiles over timing rounds; {MISSING} is not measured or, under #, not ranked.",
        "",
        *header(columns),
        *(line(_markdown(column, row) for column in columns) for row in rows[:LONGEST]),
    ]
    if len(rows) > LONGEST:
        lines += ["", f"The first {LONGEST:,} of {len(rows):,} rows: the CSV beside this file has all."]
    if "published" in table:
        lines += published_markdown(beside, compare=board.by_metric)
    return "\n".join(lines) + "\n"


def by_its_metric(table: pd.DataFrame) -> pd.DataFrame:
    """A board for machines: where all rows are ranked by one metric that isn't top-1, its columns have its name,
    ``loss`` and ``loss_low`` in place of ``score`` and ``score_low``, and what is timed are samples, not images."""
    metrics = _metrics(table) if "score" in table and "seeds" in table else [TOP1]
    name = re.sub(r"[^a-z0-9]+", "_", metrics[0].name.lower()).strip("_")
    ends = {f"score{end}": f"{name}{end}" for end in ("", "_low", "_high")}
    taken = {key for key in ends.values() if key in table} - ({name} if name in _SAME else set())
    if len(metrics) > 1 or metrics[0] is TOP1 or not name or taken:
        return table
    rates = {key: key.replace("images", "samples") for key in map(str, table) if key.endswith(_RATE)}
    return table.drop(columns=name, errors="ignore").rename(columns=ends | rates)


_RATE = "images_per_second"
_SAME = ("loss", "perplexity", "bits_per_character")
"""Measures that repeat the metric where it is what rows are ranked by."""


def to_json(table: pd.DataFrame) -> str:
    """An array of objects, ``name`` first; missing is null."""
    named = table.drop(columns="label", errors="ignore") if "method" in table else table
    named = named.rename(columns={"method": "name", "label": "name"})
    named = named[["name", *(key for key in named.columns if key != "name")]]
    return json.dumps(
        json.loads(named.to_json(orient="records", double_precision=6)), indent=1, ensure_ascii=False
    )


def render_text(
    tables: Mapping[str, pd.DataFrame], limit: int | None = 20, beside: Beside = NOTHING
) -> RenderableType:
    """The boards for a terminal of any width: a table per model and data set, best first.

    ``limit`` is how many methods, and how many published ones, a table shows at each density (None: all);
    controls and failed rows are always there.
    """
    from rich.console import Group
    from rich.text import Text

    table = beside.within("accuracy", tables["accuracy"])
    if table.empty:
        return Text("No results yet.")
    metrics = _metrics(table)
    speeds = _ranks(tables["throughput"]) if "throughput" in tables else {}
    blocks = [
        _block(str(model), str(dataset), _ordered(rows_of(rows), str(dataset), speeds), limit)
        for (model, dataset), rows in table.groupby(["model", "dataset"], sort=True)
    ]
    legend = (
        "◂ control · # mean rank over models, data sets and densities, shared where equal\n"
        f"{_said_of_metrics(metrics)}, mean ± 95 % t-interval over n seeds\n"
        f"Δ dense: {_said_of_changes(metrics)}, paired by seed\n"
        "FLOPs: theory, against dense · speed: measured, against dense, above 1× is faster, "
        "in brackets where something else ran"
    )
    if ((table["control"] == "dense") & table["inference_throughput_ratio"].notna()).any():
        legend += f"\ndense: {ITSELF}"
    if any(is_about_speed(dataset) for dataset in table["dataset"]):
        legend += "\nsynthetic: noise to be timed on, in order of inference speed; what is learnt of it means nothing"
    if (table["seeds"] == 1).any():
        legend += (
            f"\none seed (n = 1): in order of {' or '.join(one.name for one in metrics)} but not numbered, for such "
            "differences are no evidence"
        )
    if "tuned" in table and table["tuned"].notna().any():
        legend += f"\ntuned: chosen on validation data before the seeds ran; * {EDGE}"
    parts = [*blocks, Text(legend, style="dim")]
    return Group(*parts, *render_published(beside)) if beside.rows else Group(*parts)


def _metrics(table: pd.DataFrame) -> list[Ranking]:
    return rankings_of(rows_of(table[[key for key in ("metric", "better", "seeds") if key in table]]))


def _said_of_metrics(metrics: Sequence[Ranking]) -> str:
    named = ("top-1: test" if one is TOP1 else f"{one.title}: test, {one.direction}" for one in metrics)
    return " · ".join(named)


def _said_of_changes(metrics: Sequence[Ranking]) -> str:
    units = dict.fromkeys(one.unit_of_differences for one in metrics)
    return ", ".join(filter(None, (" or ".join(units), below_zero(metrics))))


def render_trials(trials: pd.DataFrame) -> RenderableType:
    """One line a trial, as ``results show`` lists them, with the reason below where one is missing."""
    rows = rows_of(trials.assign(seeds=trials["status"] == "ok"))
    entries, metrics = [], rankings_of(rows)
    for key, row in trials.to_dict("index").items():
        cells = (row["model"], row["dataset"], f"{row['density_requested']:g}", str(row["seed"]),
                 _figure(row), row["status"])  # fmt: skip
        entries.append(Entry(row["label"], cells, lead=str(key)[:12], remark=row["reason"] or ""))
    fields = (
        Field("model", right=False), Field("dataset", right=False), Field("density"), Field("seed"),
        Field(" or ".join(one.title for one in metrics)), Field("status", right=False),
    )  # fmt: skip
    return Sheet(fields, (tuple(entries),), lead="key")


def _figure(row: Mapping[Any, Any]) -> str:
    return show(kind_of(ranking_of_row(row)), score_of(row))


def _block(model: str, dataset: str, rows: list[dict[Any, Any]], limit: int | None) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    left_out: Counter[str] = Counter()
    tuned = any(not is_missing(row.get("tuned")) for row in rows)
    parts: dict[float, dict[str, list[dict[Any, Any]]]] = {}
    for row in rows:
        parts.setdefault(row["density_requested"], {}).setdefault(_part(row), []).append(row)
    sections: list[tuple[Entry, ...]] = []
    for here in parts.values():
        entries: list[Entry] = []
        for part, style in _STYLES.items():
            listed = here.get(part, [])
            shown = listed if part == "controls" else listed[:limit]
            entries += [_entry(row, style, tuned) for row in shown]
            left_out[part] += len(listed) - len(shown)
        sections.append(tuple(entries))
    ranking = rankings_of(rows)[0]
    table = Sheet(
        (*_fields(sections, ranking), *_TUNED[:tuned]), tuple(filter(None, sections)),
        title=place_of(model, dataset), lead="#",
    )  # fmt: skip
    troubled = [row for row in rows if row["reason"]]
    left_out["rows with failed or skipped trials"] = len(troubled) - len(troubled[:limit])
    notes = [Text.assemble((f"{row['method']}  ", "yellow"), _why(row)) for row in troubled[:limit]]
    notes += [Text(f"… and {count} more {part}", style="dim") for part, count in left_out.items() if count]
    return Group(table, "", *notes)


def place_of(model: str | None, dataset: str | None) -> str:
    """A model and a data set in a heading, which a record may call anything."""
    return f"{shortened(str(model), NAME)} on {shortened(str(dataset), NAME)}"


_STYLES = {"controls": "cyan", "methods": "", "published figures": "magenta"}  # in the order of a table


def _part(row: Mapping[Any, Any]) -> str:
    """The part of a table that a row is in; "" where nothing finished."""
    if row.get("published"):
        return "published figures"
    return "" if not row["seeds"] else "controls" if row["control"] else "methods"


def _why(row: Mapping[Any, Any]) -> str:
    reason = str(row["reason"]) if len(str(row["reason"])) <= 160 else f"{row['reason'][:157]}..."
    return f"{reason} ({row['statuses']})" if row["seeds"] else reason


def _identity(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("method", "model", "dataset", "density_requested", "setting"))


def _ranks(table: pd.DataFrame) -> dict[tuple[Any, ...], tuple[int, Any]]:
    """Each row's place and rank on another board."""
    return {_identity(row): (place, row["rank"]) for place, row in enumerate(rows_of(table))}


def _ordered(
    rows: list[dict[Any, Any]], dataset: str, speeds: Mapping[Any, tuple[int, Any]]
) -> list[dict[Any, Any]]:
    """What was trained on noise in order of speed, with the ranks of that board; the rest as it is."""
    if not is_about_speed(dataset) or not speeds:
        return rows
    ours = [row for row in rows if _identity(row) in speeds]
    others = [row for row in rows if _identity(row) not in speeds]
    ours.sort(key=lambda row: speeds[_identity(row)][0])
    return [*({**row, "rank": speeds[_identity(row)][1]} for row in ours), *others]


def _fields(sections: Sequence[Sequence[Entry]], ranking: Ranking) -> tuple[Field, ...]:
    """The columns of a block, whose metric has the name it goes by there; one in which nothing was measured is the
    first to go."""
    cells = list(zip(*(entry.cells for section in sections for entry in section), strict=True))
    named = [
        Field(ranking.title, field.spare) if column.key == "top1" else field for column, field in TERMINAL
    ]
    return tuple(
        replace(field, spare=9) if cells and set(cells[i]) == {MISSING} else field
        for i, field in enumerate(named)
    )


_TUNED = (Field("tuned", 8, right=False),)


def _entry(row: dict[Any, Any], style: str, tuned: bool = False) -> Entry:
    """A row of the terminal; what has no rank has a dash, but for what never has one. tuned: with what was chosen."""
    outside = row["control"] or row.get("published")
    method = f"{row['method']} ◂" if row["control"] else row["method"]
    if row.get("published"):
        method += f" published {row['published']}"
        row = {**row, "density": row["density_requested"]}
    own = COLUMNS["top1" if ranking_of_row(row) is TOP1 else "score"]
    cells = tuple(_compact(own if column.key == "top1" else column, row) for column, _ in TERMINAL)
    if tuned:
        cells += (show("text", row.get("tuned")).replace(f" ({EDGE})", "*"),)
    return Entry(method, cells, lead="" if outside else show("rank", row["rank"]), style=style)


def _compact(column: Column, row: Mapping[Any, Any]) -> str:
    """A cell with its symmetric interval as ``91.23 ±0.44``; a contended speed in brackets."""
    text = column.main(row)
    add = _COMPACT.get(column.kind)
    return text if add is None or text == MISSING else add(text, column, row)


def _with_spread(text: str, column: Column, row: Mapping[Any, Any]) -> str:
    high = row[column.keys[-1]]
    interval = "" if is_missing(high) else f" {plus_minus(high - row[column.key], ranking_of_row(row))}"
    return f"{text}{interval} {row['spread']}" if row.get("spread") else f"{text}{interval}"


def _in_brackets(text: str, column: Column, row: Mapping[Any, Any]) -> str:
    return f"({text})" if row["contended"] is True else text


_COMPACT: dict[Kind, Callable[[str, Column, Mapping[Any, Any]], str]] = {
    "accuracy": _with_spread,
    "score": _with_spread,
    "speed": _in_brackets,
}
_SAID = ("control", "contended")  # Markdown says these with italics and beside the speed


def _markdown(column: Column, row: Mapping[Any, Any]) -> str:
    text = column.text(row) or MISSING
    if add := (_PUBLISHED if row.get("published") else _OURS).get(column.kind):
        text = add(text, row)
    ours = column.numeric or row.get("published")  # written by us: links and emphasis in it are meant
    text = escaped(text) if ours else harmless(text)
    return f"*{text}*" if column.kind == "method" and row["control"] else text


_OURS: dict[Kind, Callable[[str, Mapping[Any, Any]], str]] = {
    "speed": lambda text, row: f"{text} (contended)" if row.get("contended") is True else text,
}
_PUBLISHED: dict[Kind, Callable[[str, Mapping[Any, Any]], str]] = {
    "method": lambda text, row: f"{text}, *published* {row['published']}",
    "accuracy": lambda text, row: f"{text} ({row['spread']})" if row["spread"] else text,
    "note": lambda *_: MISSING,  # its footnotes stand below the table
}
