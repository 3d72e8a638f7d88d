"""What a row is ranked by: the metric of its data set's task, and in which direction it is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dstbench.report.values import is_missing, show
from dstbench.results.ranking import TOP1, Ranking

Row = Mapping[Any, Any]

OF_OTHERS = ("score", "score_validation", "metric", "better", "perplexity", "bits_per_character")
"""Columns of rows that are ranked by something else than top-1; those where all are have ``OF_TOP1`` instead."""
OF_TOP1 = ("top1", "top1_validation")


def score_of(row: Row, end: str = "") -> Any:
    """The ranking figure, or with ``_low`` or ``_high`` an end of its interval."""
    key = f"score{end}"
    return row[key] if key in row else row[f"top1{end}"]


def ranking_of_row(row: Row) -> Ranking:
    """By what it is ranked; a row that nobody says it of, by top-1."""
    title = row.get("metric")
    if is_missing(title) or title == TOP1.title:
        return TOP1
    return Ranking("score", str(title), str(row.get("better")))


def gain(row: Row) -> float:
    """The ranking figure, turned so that more is better."""
    return float(score_of(row)) * ranking_of_row(row).sign


def keeps(row: Row, lead: float, percent: float) -> bool:
    """Whether a row that leads another by so much, below 0 where it is behind, is as good: at most so many points of
    top-1 behind, or so many percent of any other metric."""
    other = float(score_of(row)) - lead * ranking_of_row(row).sign
    margin = percent if ranking_of_row(row) is TOP1 else percent / 100 * abs(other)
    return bool(round(lead + margin, 9) >= 0)


def unit(row: Row, percent: float) -> str:
    """What ``keeps`` allows, in words: ``1 point``, ``1 %``."""
    return f"{percent:g} point" if ranking_of_row(row) is TOP1 else f"{percent:g} %"


def figure(row: Row) -> str:
    """The ranking figure with its unit: ``91.23 %``, ``loss (nats per token) 1.880``."""
    ranking = ranking_of_row(row)
    if ranking is TOP1:
        return f"{show('percent', score_of(row))} %"
    return f"{ranking.title} {show('score', score_of(row))}"


def change(row: Row, end: str = "") -> str:
    """The difference to dense: ``−0.84`` points, or in the metric's own unit."""
    return show("points" if ranking_of_row(row) is TOP1 else "change", row[f"difference{end}"])


def shows(key: str, metrics: Iterable[Any]) -> bool:
    """Whether a column says something of rows of these metrics."""
    said = {metric for metric in metrics if not is_missing(metric)}
    if key in OF_OTHERS:
        return bool(said - {TOP1.title})
    return key not in OF_TOP1 or not said or TOP1.title in said
