"""Axes of plots: where values lie in pixels, and which round numbers are written beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, log, log10

Ticks = tuple[tuple[float, str], ...]  # pixels, label


@dataclass(frozen=True)
class Axis:
    """From ``low`` at pixel ``start`` to ``high`` at pixel ``end``; pixels count downwards, values upwards."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """A value's pixel, to a tenth; what lies off the axis, at its end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = log(value / self.low) / log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, values: Iterable[float], unit: str = "") -> Ticks:
        """Those of the values that lie on the axis, with their labels."""
        return tuple(
            (self.at(value), f"{value:g}{unit}") for value in values if self.low <= value <= self.high
        )


@dataclass(frozen=True)
class Frame:
    """A plot's size and margins in pixels."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what the axes enclose."""
        return self.left, self.top, self.width - self.right, self.height - self.bottom

    def x(self, low: float, high: float, logarithmic: bool = False) -> Axis:
        """The horizontal axis."""
        left, _, right, _ = self.inside
        return Axis(low, high, left, right, logarithmic)

    def y(self, low: float, high: float, logarithmic: bool = False) -> Axis:
        """The vertical axis."""
        _, top, _, bottom = self.inside
        return Axis(low, high, bottom, top, logarithmic)


def round_numbers(low: float, high: float, most: int) -> list[float]:
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
