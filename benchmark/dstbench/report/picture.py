"""The leaderboard as one picture for a README: an SVG without scripts, made from the same tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dstbench.report.axes import Axis, round_numbers
from dstbench.report.jinja import templates
from dstbench.report.statistics import EVIDENCE
from dstbench.report.values import MISSING, is_missing, show

if TYPE_CHECKING:
    import pandas as pd

Row = dict[Any, Any]

WIDTH, TOP, LINE = 1060, 92, 30
AXIS = (392.0, 610.0)  # where the accuracy plot lies, in pixels


def render_picture(tables: Mapping[str, pd.DataFrame], methods: int = 12) -> str:
    """The best methods and the controls of the largest block (model × data set × lowest density measured there)."""
    rows = _block(tables["accuracy"].to_dict("records"))
    controls = [row for row in rows if row["control"]]
    ranked = sorted(
        (row for row in rows if not row["control"]), key=lambda row: (-row["top1"], row["method"])
    )
    shown = [*ranked[:methods], *sorted(controls, key=lambda row: (-row["top1"], row["method"]))]
    low, high = _limits(shown)
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
            title=_title(rows),
            total=len(ranked),
            ticks=axis.ticks(tick for tick in round_numbers(low, high, most=7) if tick > low),
            rows=[
                _line(place, row, axis) | {"method": name}
                for (place, row), name in zip(enumerate(shown, 1), _names(shown), strict=True)
            ],
        )
    )


def _names(rows: list[Row]) -> list[str]:
    """The methods' names without their innermost parameters, but for those that would read the same."""
    short = [re.sub(r"\([^()]*\)", "", row["method"]) for row in rows]
    known = Counter(short)
    return [name if known[name] == 1 else row["method"] for name, row in zip(short, rows, strict=True)]


def _block(rows: list[Row]) -> list[Row]:
    """Rows with a result of the block that has most methods, at its lowest density; dense comes along."""
    measured = [row for row in rows if not is_missing(row["top1"])]
    sizes: dict[tuple[str, str, float], int] = {}
    for row in measured:
        place = (row["model"], row["dataset"], row["density_requested"])
        sizes[place] = sizes.get(place, 0) + (not row["control"])
    if not sizes:
        return []
    model, dataset, density = min(sizes, key=lambda place: (-sizes[place], place[2], place[0], place[1]))
    here = [row for row in measured if (row["model"], row["dataset"]) == (model, dataset)]
    return [row for row in here if row["density_requested"] == density or row["control"] == "dense"]


def _title(rows: list[Row]) -> str:
    if not rows:
        return "no results yet"
    sparse = [row for row in rows if row["control"] != "dense"] or rows
    return f"{sparse[0]['model']} on {sparse[0]['dataset']} at density {sparse[0]['density_requested']:g}"


def _limits(rows: list[Row]) -> tuple[float, float]:
    """The axis in percent: within 0 and 100, also where the interval of few seeds reaches far beyond."""
    values = [
        row[key] for row in rows for key in ("top1", "top1_low", "top1_high") if not is_missing(row[key])
    ]
    if not values:
        return 0.0, 100.0
    pad = max(0.05 * (max(values) - min(values)), 0.1)
    return max(0.0, min(values) - pad), min(100.0, max(values) + pad)


def _line(place: int, row: Row, axis: Axis) -> dict[str, Any]:
    """One line of the picture."""
    interval = not is_missing(row["top1_low"])
    return {
        "place": "" if row["control"] else place if row["seeds"] >= EVIDENCE else MISSING,
        "control": bool(row["control"]),
        "x": axis.at(row["top1"]),
        "low": axis.at(row["top1_low"]) if interval else None,
        "high": axis.at(row["top1_high"]) if interval else None,
        "top1": f"{row['top1']:.2f}" + (f" ±{row['top1_high'] - row['top1']:.2f}" if interval else ""),
        "cost": show("ratio", row["training_flops_ratio"]),
        "bar": 0
        if is_missing(row["training_flops_ratio"])
        else round(60 * min(1, row["training_flops_ratio"]), 1),
        "speed": show("ratio", row["inference_throughput_ratio"])
        + (" *" if row["contended"] is True else ""),
        "path": row["inference_path"] or "",
    }
