"""What the looks of cells follow from: the axis of the metric, and which speeds are gains."""

from __future__ import annotations

from statistics import quantiles
from typing import Any

from dstbench.report.boards import may_gain
from dstbench.report.scores import score_of
from dstbench.report.values import is_missing

Row = dict[Any, Any]
Axis = tuple[float, float]

NOTICEABLE = 1.05  # a speed-up worth pointing at: timings of equal networks differ by a few percent
METHOD_PARTS = ("init", "structure", "prune", "grow")  # said in the cell of the method


def metric_axis(rows: list[Row]) -> Axis:
    """The least and the most worth showing, intervals included, of top-1, or of another metric where no row has one;
    far outliers below (Tukey's fence) fall off."""
    of_top1 = [row for row in rows if not is_missing(row["top1"])]
    ends = [score_of(row, end) for row in of_top1 or rows for end in ("", "_low", "_high")]
    values = [value for value in ends if not is_missing(value)]
    if len(values) < 2:
        return (values[0] - 1, values[0] + 1) if values else (0.0, 1.0)
    first, _, third = quantiles(values, n=4)
    return max(min(values), first - 1.5 * (third - first)), max(values)


def gained(row: Row, key: str) -> bool:
    """Whether a measured speed is a gain: on a path that can have one, and beyond timing noise."""
    low = row[f"{key}_low"]
    path = row[key.replace("throughput_ratio", "path")]
    return may_gain(path) and row[key] >= NOTICEABLE and not is_missing(low) and low > 1
