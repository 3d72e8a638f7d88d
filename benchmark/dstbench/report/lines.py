"""Line plots as SVG coordinates: what a template needs to draw them, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 26  # margins, pixels

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Line:
    """One line, in its own units; ``colour`` is a CSS variable's name."""

    name: str
    colour: str
    points: Points
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot in pixels."""

    lines: tuple[tuple[Line, str], ...]  # with its points as SVG has them
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    level: float | None  # a dashed line over the whole width
    width: int = WIDTH
    height: int = HEIGHT


def plot(lines: Sequence[Line], level: float | None = None) -> Plot:
    """Lay lines out; the vertical axis starts at 0, and has room where all values are equal."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + ([] if level is None else [level])
    left, right = min(xs), max(max(xs), min(xs) + 1)
    bottom, top = min(0.0, *ys), max(ys)
    top = bottom + max(1.05 * (top - bottom), 0.01)

    def across(x: float) -> float:
        return round(LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    return Plot(
        tuple((line, " ".join(f"{across(x)},{down(y)}" for x, y in line.points)) for line in lines),
        tuple((across(x), f"{x:g}") for x in ticks(left, right, most=8) if x == int(x)),
        tuple((down(y), f"{y:g}") for y in ticks(bottom, top, most=5)),
        None if level is None else down(level),
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], at most ``most`` + 1 of them."""
    power = floor(log10((high - low) / most))
    step = next(
        factor * 10.0**exponent
        for exponent in (power, power + 1)
        for factor in (1, 2, 5)
        if (high - low) / (factor * 10.0**exponent) <= most
    )
    first, last = -floor(-low / step + 1e-9), floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(int(first), int(last) + 1)]
