"""Line plots as SVG coordinates: what a template needs to draw them, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dstbench.report.axes import Frame, Ticks, round_numbers

Points = tuple[tuple[float, float], ...]

FRAME = Frame(420, 230, left=46, right=12, top=10, bottom=26)


@dataclass(frozen=True)
class Line:
    """One line, in its own units; ``colour`` is a CSS variable's name."""

    name: str
    colour: str
    points: Points
    dashed: bool = False


@dataclass(frozen=True)
class LinePlot:
    """A plot in pixels."""

    lines: tuple[tuple[Line, str], ...]  # with its points as SVG has them
    x_ticks: Ticks
    y_ticks: Ticks
    level: float | None  # a dashed line over the whole width
    frame: Frame = FRAME


def plot(lines: Sequence[Line], level: float | None = None) -> LinePlot:
    """Lay lines out; the vertical axis starts at 0, and has room where all values are equal."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + ([] if level is None else [level])
    left, right = min(xs), max(max(xs), min(xs) + 1)
    bottom, top = min(0.0, *ys), max(ys)
    top = bottom + max(1.05 * (top - bottom), 0.01)
    across, up = FRAME.x(left, right), FRAME.y(bottom, top)
    return LinePlot(
        tuple((line, " ".join(f"{across.at(x)},{up.at(y)}" for x, y in line.points)) for line in lines),
        across.ticks(x for x in round_numbers(left, right, most=8) if x == int(x)),
        up.ticks(round_numbers(bottom, top, most=5)),
        None if level is None else up.at(level),
    )
