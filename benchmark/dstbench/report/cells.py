"""What the cells of the page show: text, and where it helps a badge, a tooltip or a little graphic."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from dstbench.report.columns import may_gain
from dstbench.report.values import MISSING, Column, is_missing, show

Row = dict[Any, Any]
Axis = tuple[float, float]

NOTICEABLE = 1.05  # a speed-up worth pointing at: timings of equal networks differ by a few percent
METHOD_PARTS = ("init", "structure", "prune", "grow")  # said in the cell of the method


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


def cell_of(column: Column, row: Row, axis: Axis) -> Cell:
    """What one cell shows."""
    key, text = column.key, column.main(row)
    if row.get("published") and key in ("method", "top1"):
        return _published(text, row) if key == "method" else Cell(text, sub=row["spread"] or "")
    if key == "method":
        parts = " · ".join(row[name] for name in METHOD_PARTS if row[name])
        sub = row["reason"] if not row["seeds"] else parts if parts != text else ""
        return Cell(text, badge="control" if row["control"] else "", sub=sub or "")
    if key == "statuses":
        tone = "" if not row["reason"] else "warn" if row["seeds"] else "bad"
        details = (
            row["reason"] if row["seeds"] else None,
            None if row.get("published") else row["note"],  # below the table, as footnotes
        )  # nothing finished: beside the method
        return Cell(text, tone, sub="; ".join(filter(None, details)))
    if text == MISSING:
        return Cell(text, "dim")
    if key == "top1":
        return _accuracy(text, row, axis)
    if key.endswith("flops_ratio"):
        return Cell(text, bar=f"{100 * min(1.0, row[key]):.1f}")
    if not column.interval:
        return Cell(text)
    if key == "difference":  # coloured only where the whole interval lies on one side
        low, high = (row[name] for name in column.keys[1:])
        tone = "" if is_missing(low) else "good" if low > 0 else "poor" if high < 0 else ""
        return Cell(text, tone, _interval("95 % interval", column, row))
    badge = "contended" if row["contended"] is True else ""
    tone = "good" if gained(row, key) and not badge else ""
    return Cell(text, tone, _interval("quartiles over timing rounds", column, row), badge)


def _published(text: str, row: Row) -> Cell:
    """A published method: where it was printed, and the mark of its source and footnotes."""
    cite, _, _ = row["source"].partition(",")
    return Cell(
        text, tip=row["source"], badge="published", sub=cite, link=row["address"], mark=row["published"]
    )


def gained(row: Row, key: str) -> bool:
    """Whether a measured speed is a gain: on a path that can have one, and beyond timing noise."""
    low = row[f"{key}_low"]
    path = row[key.replace("throughput_ratio", "path")]
    return may_gain(path) and row[key] >= NOTICEABLE and not is_missing(low) and low > 1


def _interval(what: str, column: Column, row: Row) -> str:
    low, high = (row[name] for name in column.keys[1:])
    return "" if is_missing(low) else f"{what}: {show(column.kind, low)} to {show(column.kind, high)}"


def _accuracy(text: str, row: Row, axis: Axis) -> Cell:
    """The mean, and where it and its interval lie on the board's axis."""
    at = _place(row["top1"], axis)
    if is_missing(row["top1_low"]):
        return Cell(text, at=f"{at:.1f}")
    low, high = _place(row["top1_low"], axis), _place(row["top1_high"], axis)
    tip = f"95 % interval: {row['top1_low']:.2f} to {row['top1_high']:.2f}, {row['seeds']:.0f} seeds"
    sub = f"±{row['top1_high'] - row['top1']:.2f}"
    return Cell(text, tip=tip, sub=sub, at=f"{at:.1f}", low=f"{low:.1f}", width=f"{high - low:.1f}")


def _place(value: float, axis: Axis) -> float:
    """Where a value lies on an axis, in percent; what lies off it, at its end."""
    share = (value - axis[0]) / ((axis[1] - axis[0]) or 1.0)
    return 100 * min(1.0, max(0.0, share))
