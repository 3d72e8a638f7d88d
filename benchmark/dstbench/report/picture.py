"""The leaderboard as one picture for a README: an SVG without scripts, made from the same tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from dstbench.report.axes import Axis, round_numbers
from dstbench.report.boards import is_about_speed
from dstbench.report.highlights import about
from dstbench.report.jinja import templates
from dstbench.report.scores import gain, rankings_of, score_of
from dstbench.report.table_rows import rows_of
from dstbench.report.values import is_missing, kind_of, plus_minus, show
from dstbench.results.printable import shortened
from dstbench.results.ranking import TOP1, Ranking

if TYPE_CHECKING:
    import pandas as pd

Row = dict[Any, Any]

WIDTH, TOP, LINE = 1060, 92, 30
AXIS = (392.0, 610.0)  # where the plot of the metric lies, in pixels
PATH = 17  # characters that fit beside a speed


@dataclass(frozen=True)
class Plotted:
    """What the dots show, and what its axis is called."""

    key: str
    title: str
    least: float  # what the axis never goes below, and above
    most: float
    pad: float = 0.1  # at least, around what is shown
    metric: Ranking | None = None  # None: a speed

    def limits(self, rows: Sequence[Row]) -> tuple[float, float]:
        """The axis: methods and dense with their intervals; a control far from these would squeeze them all."""
        rows = [row for row in rows if row["control"] in (None, "", "dense")] or rows
        keys = (self.key, f"{self.key}_low", f"{self.key}_high")
        values = [row[key] for row in rows for key in keys if not is_missing(row[key])]
        if not values:
            low = max(self.least, 0.0)
            return low, min(self.most, low + 1)
        pad = max(0.05 * (max(values) - min(values)), self.pad) or 0.05 * abs(values[0]) or 1.0
        return max(self.least, min(values) - pad), min(self.most, max(values) + pad)


TITLE = 30  # characters of a metric over its axis
TOP1_PLOTTED = Plotted("top1", "top-1 %, test", 0.0, 100.0, metric=TOP1)
SPEED = Plotted("inference_throughput_ratio", "inference speed", 0.0, inf)


def render_picture(tables: Mapping[str, pd.DataFrame], methods: int = 12) -> str:
    """The best methods and the controls of the largest block (model × data set × lowest density measured there)."""
    board = rows_of(tables["accuracy"])
    rows = _block(board)
    measure = SPEED if rows and is_about_speed(rows[0]["dataset"]) else _metric(rows or board)
    rows = [row for row in rows if not is_missing(row[measure.key])]
    best = (lambda row: row[measure.key]) if measure is SPEED else gain
    order = sorted(rows, key=lambda row: (-best(row), row["method"]))
    ranked = [row for row in order if not row["control"]]
    shown = [*ranked[:methods], *(row for row in order if row["control"])]
    low, high = measure.limits(shown)
    axis = Axis(low, high, *AXIS)
    return (
        templates()
        .get_template("picture.svg.j2")
        .render(
            width=WIDTH,
            height=TOP + LINE * len(shown) + 56,
            top=TOP,
            line=LINE,
            axis=AXIS,
            title=about(rows),
            measure=measure,
            mean=measure is not SPEED,
            total=len(ranked),
            off=any(row[measure.key] != min(max(row[measure.key], low), high) for row in shown),
            ticks=axis.ticks(tick for tick in round_numbers(low, high, most=7) if tick > low),
            rows=[
                _line(row, measure, axis) | {"method": name}
                for row, name in zip(shown, _names(shown), strict=True)
            ],
        )
    )


def _metric(rows: Sequence[Row]) -> Plotted:
    """Of a block: top-1, or its own metric."""
    ranking = rankings_of(rows)[0]
    if ranking is TOP1:
        return TOP1_PLOTTED
    better = "← better" if ranking.sign < 0 else "better →"
    ends = (0.0, 100.0) if ranking.is_percent else (-inf, inf)
    return Plotted(
        "score", f"{shortened(ranking.title, TITLE)}, test · {better}", *ends, pad=0.0, metric=ranking
    )


def _names(rows: list[Row]) -> list[str]:
    """The methods' names without their innermost parameters, but for those that would read the same."""
    short = [re.sub(r"\([^()]*\)", "", row["method"]) for row in rows]
    known = Counter(short)
    return [name if known[name] == 1 else row["method"] for name, row in zip(short, rows, strict=True)]


def _block(rows: list[Row]) -> list[Row]:
    """Rows with a result of the block that has most methods, at its lowest density; dense comes along."""
    measured = [row for row in rows if not is_missing(score_of(row))]
    sizes: dict[tuple[str, str, float], int] = {}
    for row in measured:
        place = (row["model"], row["dataset"], row["density_requested"])
        sizes[place] = sizes.get(place, 0) + (not row["control"])
    if not sizes:
        return []
    model, dataset, density = min(sizes, key=lambda place: (-sizes[place], place[2], place[0], place[1]))
    here = [row for row in measured if (row["model"], row["dataset"]) == (model, dataset)]
    return [row for row in here if row["density_requested"] == density or row["control"] == "dense"]


def _line(row: Row, measure: Plotted, axis: Axis) -> dict[str, Any]:
    """One line of the picture."""
    low, high = (row[f"{measure.key}_{end}"] for end in ("low", "high"))
    interval = not is_missing(low)
    return {
        "place": "" if row["control"] or measure is SPEED else show("rank", row["rank"]),
        "control": bool(row["control"]),
        "x": axis.at(row[measure.key]),
        "off": (row[measure.key] > axis.high) - (row[measure.key] < axis.low),
        "low": axis.at(low) if interval else None,
        "high": axis.at(high) if interval else None,
        "value": _value(row[measure.key], high if interval else None, measure.metric),
        "cost": show("ratio", row["training_flops_ratio"]),
        "bar": 0
        if is_missing(row["training_flops_ratio"])
        else round(60 * min(1, row["training_flops_ratio"]), 1),
        "speed": show("ratio", row["inference_throughput_ratio"])
        + (" *" if row["contended"] is True else ""),
        "path": shortened(row["inference_path"] or "", PATH),
    }


def _value(value: float, high: float | None, metric: Ranking | None) -> str:
    if metric is None:
        return f"{value:.2f}"
    return show(kind_of(metric), value) + ("" if high is None else f" {plus_minus(high - value, metric)}")
