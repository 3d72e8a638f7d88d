"""What the page's script shows, each figure once: columns of values, boards as an order of rows and a choice of
columns, and of every row what it was made of.

A column of JSON is ``{"all": value}`` where all rows have one, ``{"words": [...], "at": [...]}`` where few texts
repeat, ``{"rows": [...], "values": [...]}`` where most rows have none, ``{"inverse": key}`` where it is one over
another, and ``{"values": [...]}`` else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dstbench.report.boards import BOARDS, Board, titled
from dstbench.report.columns import COLUMNS
from dstbench.report.highlights import Card
from dstbench.report.page_cells import METHOD_PARTS, gained, metric_axis
from dstbench.report.published.beside import COLUMNS as PUBLISHED
from dstbench.report.published.beside import Beside
from dstbench.report.scores import OF_TEXTS, rankings_of, shows
from dstbench.report.table_rows import rows_of
from dstbench.report.values import Column, is_missing, ranking_of_row
from dstbench.results.measure_table import MEASURES, RARE, TIMED
from dstbench.results.ranking import TOP1
from dstbench.results.table import TUNING_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

Row = dict[Any, Any]
Encoded = dict[str, Any]

FOLDED = ("control", "reason", "note", "contended")  # said inside other cells
MORE = (*FOLDED, "bits", "p", *PUBLISHED)  # no column of a board's own, but read by plots, panels and cells
_DIGITS = {"accuracy": 7, "points": 7, "score": 7}  # significant ones; else 5, which is more than is shown
_WHERE_KNOWN = ("tier", *TUNING_COLUMNS, *RARE)  # columns of pages on which some row has them
SAID = 100  # candidates of a card whose words are in the page
_AHEAD = ("rank", "method", "", "top1", "score", "difference")  # "": what the board is ranked by


@dataclass(frozen=True)
class Listing:
    """All rows of the page in the order of the first board, and each board's order of them."""

    table: pd.DataFrame  # a row a method, published ones among them
    orders: Mapping[str, list[int]]  # board -> places in ``table``
    ranks: Mapping[str, list[float | None]]  # board -> in its order

    @cached_property
    def rows(self) -> list[Row]:
        """The rows as mappings."""
        return rows_of(self.table)


def listing(ordered: Mapping[str, pd.DataFrame], beside: Beside) -> Listing:
    """What the page lists of a summary ``in_order``, and of what was published beside it."""
    named = replace(
        beside, rows=tuple({**row, "row": float(-1 - place)} for place, row in enumerate(beside.rows))
    )
    boards = {
        name: named.within(name, table.assign(row=table.index.astype("float64")))
        for name, table in ordered.items()
    }
    first = next(iter(boards.values()))
    places = {row: place for place, row in enumerate(first["row"].tolist())}
    return Listing(
        first,
        {name: [places[row] for row in table["row"].tolist()] for name, table in boards.items()},
        {name: table["rank"].tolist() for name, table in boards.items()},
    )


def page_data(
    listed: Listing,
    blocks: Sequence[tuple[str, str]],
    questions: Sequence[Sequence[Card]],
    details: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the script reads, as JSON values. ``details``: of every row what it was made of."""
    rows = listed.rows
    shown = {column.key: column for board in BOARDS for column in page_columns(board, rows)}
    keys = dict.fromkeys(key for column in shown.values() for key in column.keys)
    more = [key for key in MORE if key in listed.table]
    values = {
        key: encoded(listed.table[key].tolist(), _DIGITS.get(_kind(key), 5))
        for key in dict.fromkeys((*keys, *more))
        if key != "rank" and not _inverse_of(key)
    } | {key: {"inverse": of} for key in keys if (of := _inverse_of(key))}
    values["gains"] = encoded([_gains(row) for row in rows])
    return {
        "rows": len(rows),
        "columns": [
            {"key": c.key, "title": c.title, "help": c.help, "kind": c.kind, "keys": c.keys, "words": not c.numeric}
            for c in shown.values()
        ],
        "values": values,
        "boards": [_board(board, listed, rows) for board in BOARDS],
        "axis": metric_axis([row for row in rows if not row.get("published")]),
        "blocks": [
            {"model": model, "dataset": dataset, **_metric(rows, model, dataset)} for model, dataset in blocks
        ],
        "cards": [[_card(card) for card in asked] for asked in questions],
        "details": details,
    }  # fmt: skip


def page_columns(board: Board, rows: Sequence[Row]) -> list[Column]:
    """A board's columns as the page orders them: what it is ranked by, and the metric, beside the method, for
    narrow screens show that first. A model or data set that is the same everywhere stands in the title."""
    ahead = [key or board.by for key in _AHEAD]
    places = {key: place for place, key in reversed(list(enumerate(ahead)))}
    listed = sorted(board.columns, key=lambda column: places.get(column.key, len(ahead)))
    metrics = {row.get("metric") for row in rows}
    said = rankings_of(row for row in rows if not row.get("published"))
    empty = {key for key in OF_TEXTS if all(is_missing(row.get(key)) for row in rows)}
    constant = {key for key in ("model", "dataset") if len({row[key] for row in rows}) < 2}
    return [
        replace(column, extra=True) if column.key in constant or column.key in METHOD_PARTS else column
        for column in (titled(column, said) for column in listed)
        if column.key not in FOLDED
        and column.key not in empty
        and shows(column.key, metrics)
        and (column.key not in _WHERE_KNOWN or any(not is_missing(row.get(column.key)) for row in rows))
    ]


def encoded(values: Sequence[Any], digits: int = 6) -> Encoded:
    """A column in the smallest of the four forms; floats with so many significant digits."""
    plain = [_plain(value, digits) for value in values]
    if not plain or all(value == plain[0] and type(value) is type(plain[0]) for value in plain):
        return {"all": plain[0] if plain else None}
    if any(isinstance(value, str) for value in plain):
        words = {word: place for place, word in enumerate(dict.fromkeys(plain))}
        return {"words": list(words), "at": [words[value] for value in plain]}
    known = [place for place, value in enumerate(plain) if value is not None]
    if 2 * len(known) < len(plain):
        return {"rows": known, "values": [plain[place] for place in known]}
    return {"values": plain}


def embedded(content: Any) -> Any:
    """JSON for a script element, which it can't end."""
    from markupsafe import Markup

    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _card(card: Card) -> dict[str, Any]:
    """A card's candidates with what they say; of those that only a filter brings to the top, the row alone."""
    return {
        "key": card.key,
        "first": [astuple(candidate) for candidate in card.candidates[:SAID]],
        "then": [candidate.row for candidate in card.candidates[SAID:]],
    }


def _metric(rows: Sequence[Row], model: str, dataset: str) -> dict[str, Any]:
    """What a block is ranked by, where that isn't top-1."""
    here = (row for row in rows if (row["model"], row["dataset"]) == (model, dataset) and row["seeds"])
    ranking = next((ranking_of_row(row) for row in here if not row.get("published")), TOP1)
    return {} if ranking is TOP1 else {"metric": ranking.title, "lower": ranking.sign < 0}


def _board(board: Board, listed: Listing, rows: Sequence[Row]) -> dict[str, Any]:
    order = listed.orders[board.name]
    columns = page_columns(board, rows)
    return {
        "name": board.name,
        "title": board.title(rankings_of(row for row in rows if not row.get("published"))),
        "columns": [column.key for column in columns],
        "extra": [column.key for column in columns if column.extra],
        "order": None if order == list(range(len(rows))) else order,
        "ranks": encoded(listed.ranks[board.name]),
    }


def _kind(key: str) -> str:
    column = COLUMNS.get(key.removesuffix("_low").removesuffix("_high"))
    return column.kind if column else ""


def _inverse_of(key: str) -> str:
    return MEASURES[key].inverse_of if key in MEASURES else ""


def _gains(row: Row) -> int:
    """Which of its measured speeds are gains, a bit each."""
    return sum(
        1 << place
        for place, timed in enumerate(TIMED)
        if not is_missing(row[f"{timed}_throughput_ratio"]) and gained(row, f"{timed}_throughput_ratio")
    )


def _plain(value: Any, digits: int) -> Any:
    if is_missing(value):
        return None
    if not isinstance(value, float):
        return value
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded
