"""Values for people: one kind of column, and how each kind of figure is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dstbench.results.measure_table import RATIOS, WORDS, Kind
from dstbench.results.ranking import TOP1, Ranking, ranking_titled

MISSING = "–"
ITSELF = "its speed is dense against dense: the distance from 1× is timing noise"


@dataclass(frozen=True)
class Column:
    """One column: ``interval`` adds ``<key>_low`` and ``<key>_high`` (95 % over seeds, of speeds quartiles
    over timing rounds); ``extra`` starts hidden on the page."""

    key: str
    title: str
    help: str
    kind: Kind = "text"
    interval: bool = False
    extra: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The data columns behind it."""
        return (self.key, f"{self.key}_low", f"{self.key}_high") if self.interval else (self.key,)

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.kind not in WORDS

    def main(self, row: Mapping[Any, Any]) -> str:
        """A row's value for people, without its interval; published ratios have the two digits of print."""
        if row.get("published") and self.kind == "cost" and not is_missing(row[self.key]):
            return f"{row[self.key]:.2f}×"
        return show(self._kind(row), row[self.key])

    def _kind(self, row: Mapping[Any, Any]) -> Kind:
        """Metrics and their differences are in per cent and points, or in the unit of the row's own."""
        if self.kind == "points":
            return kind_of_differences(ranking_of_row(row))
        return kind_of(ranking_of_row(row)) if self.kind == "score" else self.kind

    def text(self, row: Mapping[Any, Any]) -> str:
        """A row's cell for people: ``91.23 [90.80, 91.66]``, or a dash where there is nothing."""
        main = self.main(row)
        if main == MISSING or not self.interval:
            return main
        low, high = (show(self._kind(row), row[key]).removesuffix("×") for key in self.keys[1:])
        return main if MISSING in (low, high) else f"{main} [{low}, {high}]"


def ranking_of_row(row: Mapping[Any, Any]) -> Ranking:
    """By what a row is ranked; one that nobody says it of, by top-1."""
    title = row.get("metric")
    return TOP1 if is_missing(title) else ranking_titled(str(title), str(row.get("better")))


def kind_of(metric: Ranking) -> Kind:
    """How values of a metric are written."""
    return "percent" if metric.is_percent else "score"


def kind_of_differences(metric: Ranking) -> Kind:
    """How differences of a metric are written."""
    return "points" if metric.is_percent else "change"


def show(kind: Kind, value: Any) -> str:
    """A value for people; a dash where it is missing."""
    if is_missing(value):
        return MISSING
    return _SHOW[kind](value)


def is_missing(value: Any) -> bool:
    """None, NaN, pandas' NA, or no text."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or value == "" or (not isinstance(value, int) and str(value) == "<NA>")


def significant(value: float, digits: int) -> str:
    """So many significant digits, and all before the point: ``1.880``, ``0.0021``, ``1235``, ``2.1e-7``."""
    size = math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    if not -5 <= size < 15:
        text = f"{value:.{digits - 1}e}".replace("e-0", "e-")
    else:
        text = f"{value:.{max(0, digits - 1 - size)}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def plus_minus(half: float, metric: Ranking) -> str:
    """Half of an interval: ``±0.44``, two significant digits of what isn't in per cent."""
    return f"±{half:.2f}" if metric.is_percent else f"±{significant(half, 2)}"


def _change(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{'+' * (value > 0)}{significant(value, 3)}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def _si(value: float) -> str:
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}" if value % 1 else f"{value:.0f}"


def _seconds(value: float) -> str:
    if value < 0.1:
        return f"{1000 * value:.3g} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _ratio(value: float) -> str:
    return f"{value:.3f}×" if value < 1 else f"{value:.2f}×"


_SHOW: dict[Kind, Callable[[Any], str]] = {
    **dict.fromkeys(WORDS, str),
    "integer": lambda value: f"{value:,.0f}",
    "rank": lambda value: f"{value:.0f}" if value == round(value) else f"{value:.1f}",
    "percent": lambda value: f"{value:.2f}",
    "accuracy": lambda value: f"{value:.2f}",
    "points": _signed,
    "score": lambda value: significant(value, 4),
    "change": _change,
    "fraction": lambda value: f"{round(value, 3) + 0.0:.3f}".replace("-", "−"),
    **dict.fromkeys(RATIOS, _ratio),
    "si": _si,
    "bytes": lambda value: f"{_si(value)}B" if value >= 1000 else f"{value:.0f} B",
    "seconds": _seconds,
    "p": lambda value: "<0.001" if value < 0.001 else f"{value:.3f}",
    "flag": lambda value: "yes" if value else "",
}
