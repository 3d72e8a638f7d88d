"""What the cells of the page show: text, and where it helps a badge, a tooltip or a little graphic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from dstbench.report.boards import may_gain
from dstbench.report.values import ITSELF, MISSING, Column, is_missing, show
from dstbench.results.measure_table import Kind

Row = dict[Any, Any]
Axis = tuple[float, float]

NOTICEABLE = 1.05  # a speed-up worth pointing at: timings of equal networks differ by a few percent
METHOD_PARTS = ("init", "structure", "prune", "grow")  # said in the cell of the method


@dataclass(frozen=True)
class PageCell:
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
    link: str = ""
    mark: str = ""


def accuracy_axis(rows: list[Row]) -> Axis:
    """Lowest and highest top-1 worth showing, intervals included; far outliers below (Tukey's fence) fall off."""
    keys = ("top1", "top1_low", "top1_high")
    values = [row[key] for row in rows for key in keys if not is_missing(row[key])]
    if len(values) < 2:
        return (values[0] - 1, values[0] + 1) if values else (0.0, 1.0)
    first, _, third = quantiles(values, n=4)
    return max(min(values), first - 1.5 * (third - first)), max(values)


def cell_of(column: Column, row: Row, axis: Axis) -> PageCell:
    """What one cell shows, drawn as its column's kind is. ``axis``: where the board's accuracies lie."""
    text = column.main(row)
    if text == MISSING and column.kind not in _NEVER_DIM:
        return PageCell(text, "dim")
    draw = _DRAWN.get(column.kind)
    return draw(text, column, row, axis) if draw else PageCell(text)


def gained(row: Row, key: str) -> bool:
    """Whether a measured speed is a gain: on a path that can have one, and beyond timing noise."""
    low = row[f"{key}_low"]
    path = row[key.replace("throughput_ratio", "path")]
    return may_gain(path) and row[key] >= NOTICEABLE and not is_missing(low) and low > 1


def _method(text: str, column: Column, row: Row, axis: Axis) -> PageCell:
    """A method with its parts, or why it has no result; a published one with where it was printed."""
    if row.get("published"):
        cite, _, _ = row["source"].partition(",")
        return PageCell(
            text, tip=row["source"], badge="published", sub=cite, link=row["address"], mark=row["published"]
        )
    parts = " · ".join(row[name] for name in METHOD_PARTS if row[name])
    sub = row["reason"] if not row["seeds"] else parts if parts != text else ""
    return PageCell(text, badge="control" if row["control"] else "", sub=sub or "")


def _trials(text: str, column: Column, row: Row, axis: Axis) -> PageCell:
    """How trials ended and why; where nothing finished, the reason is beside the method."""
    tone = "" if not row["reason"] else "warn" if row["seeds"] else "bad"
    reason = row["reason"] if row["seeds"] else None
    note = None if row.get("published") else row["note"]  # a published row's is below the table, as footnotes
    return PageCell(text, tone, sub="; ".join(filter(None, (reason, note))))


def _accuracy(text: str, column: Column, row: Row, axis: Axis) -> PageCell:
    """The mean, and where it and its interval lie on the board's axis; a printed one with its spread."""
    if row.get("published"):
        return PageCell(text, sub=row["spread"] or "")
    mean, low, high = (row[key] for key in column.keys)
    at = _place(mean, axis)
    if is_missing(low):
        return PageCell(text, at=f"{at:.1f}")
    left, right = _place(low, axis), _place(high, axis)
    tip = f"95 % interval: {low:.2f} to {high:.2f}, {row['seeds']:.0f} seeds"
    return PageCell(
        text,
        tip=tip,
        sub=f"±{high - mean:.2f}",
        at=f"{at:.1f}",
        low=f"{left:.1f}",
        width=f"{right - left:.1f}",
    )


def _cost(text: str, column: Column, row: Row, axis: Axis) -> PageCell:
    return PageCell(text, bar=f"{100 * min(1.0, row[column.key]):.1f}")


def _difference(text: str, column: Column, row: Row, axis: Axis) -> PageCell:
    """Coloured only where the whole interval lies on one side."""
    low, high = (row[key] for key in column.keys[1:])
    tone = "" if is_missing(low) else "good" if low > 0 else "poor" if high < 0 else ""
    return PageCell(text, tone, _interval("95 % interval", column, row))


def _speed(text: str, column: Column, row: Row, axis: Axis) -> PageCell:
    """Coloured where it is a gain, and marked where something else ran beside it."""
    badge = "contended" if row["contended"] is True else ""
    tone = "good" if gained(row, column.key) and not badge else ""
    tip = _interval("quartiles over timing rounds", column, row)
    if row.get("control") == "dense":
        return PageCell(text, tone, f"{ITSELF}\n{tip}", badge, sub="timing noise")
    return PageCell(text, tone, tip, badge)


def _interval(what: str, column: Column, row: Row) -> str:
    low, high = (row[name] for name in column.keys[1:])
    return "" if is_missing(low) else f"{what}: {show(column.kind, low)} to {show(column.kind, high)}"


def _place(value: float, axis: Axis) -> float:
    """Where a value lies on an axis, in percent; what lies off it, at its end."""
    share = (value - axis[0]) / ((axis[1] - axis[0]) or 1.0)
    return 100 * min(1.0, max(0.0, share))


_NEVER_DIM: tuple[Kind, ...] = ("method", "trials")
_DRAWN: dict[Kind, Callable[[str, Column, Row, Axis], PageCell]] = {
    "method": _method,
    "trials": _trials,
    "accuracy": _accuracy,
    "points": _difference,
    "cost": _cost,
    "speed": _speed,
}
