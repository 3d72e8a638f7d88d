"""What a row is ranked by: the metric of its data set's task, and in which direction it is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dstbench.report.values import (
    is_missing,
    kind_of,
    kind_of_differences,
    ranking_of_row,
    show,
)
from dstbench.results.ranking import TOP1, Ranking

Row = Mapping[Any, Any]

OF_OTHERS = ("score", "score_validation", "metric", "better", "perplexity", "bits_per_character")
"""Columns of rows that are ranked by something else than top-1; those where all are have ``OF_TOP1`` instead."""
OF_TEXTS = ("perplexity", "bits_per_character")
"""Columns that are there where a row has a figure in them."""
OF_TOP1 = ("top1", "top1_validation")


def score_of(row: Row, end: str = "") -> Any:
    """The ranking figure, or with ``_low`` or ``_high`` an end of its interval."""
    key = f"score{end}"
    return row[key] if key in row else row[f"top1{end}"]


def gain(row: Row) -> float:
    """The ranking figure, turned so that more is better."""
    return float(score_of(row)) * ranking_of_row(row).sign


def keeps(row: Row, lead: float, percent: float) -> bool:
    """Whether a row that leads another by so much, below 0 where it is behind, is as good: at most so many points of
    a metric in per cent behind, or so many percent of any other."""
    other = float(score_of(row)) - lead * ranking_of_row(row).sign
    margin = percent if ranking_of_row(row).is_percent else percent / 100 * abs(other)
    return bool(round(lead + margin, 9) >= 0)


def unit(row: Row, percent: float) -> str:
    """What ``keeps`` allows, in words: ``1 point``, ``1 %``."""
    return f"{percent:g} point" if ranking_of_row(row).is_percent else f"{percent:g} %"


def value(row: Row) -> str:
    """The ranking figure, where its metric is named beside it: ``91.23 %``, ``1.880``."""
    ranking = ranking_of_row(row)
    return show(kind_of(ranking), score_of(row)) + " %" * ranking.is_percent


def figure(row: Row) -> str:
    """The ranking figure in words: ``91.23 %``, ``loss 1.880 nats per token``, ``mIoU 71.20 %``."""
    ranking = ranking_of_row(row)
    parts = ("" if ranking is TOP1 else ranking.name, value(row), "" if ranking.is_percent else ranking.unit)
    return " ".join(filter(None, parts))


def change(row: Row, end: str = "") -> str:
    """The difference to dense: ``−0.84`` points, or in the metric's own unit."""
    return show(kind_of_differences(ranking_of_row(row)), row[f"difference{end}"])


def change_in_words(row: Row) -> str:
    """The difference to dense with its unit, and of what is better lower in which sense: ``−0.84 points``,
    ``−0.0132 nats per token (better)``."""
    ranking = ranking_of_row(row)
    unit = "points" if ranking.is_percent else ranking.unit
    return " ".join(filter(None, (change(row), unit, said_of_sign(row["difference"], ranking))))


def said_of_sign(difference: float, ranking: Ranking) -> str:
    """``(better)`` or ``(worse)`` where a sign may be taken for its opposite: of a metric that is better lower."""
    if ranking.sign > 0 or not difference:
        return ""
    return "(better)" if difference < 0 else "(worse)"


def below_zero(metrics: Sequence[Ranking]) -> str:
    """``below 0 is better``, of which metrics where it isn't so of all; "" where it is so of none."""
    lower = [metric.name for metric in metrics if metric.sign < 0]
    whose = "" if len(lower) == len(metrics) else f" for {joined(lower)}"
    return f"below 0 is better{whose}" if lower else ""


def capital(text: str) -> str:
    """As a sentence begins; a name that has its own capitals, such as ``mIoU``, keeps them."""
    return text[:1].upper() + text[1:] if text.split(" ")[0].islower() else text


def joined(names: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def rankings_of(rows: Iterable[Row]) -> list[Ranking]:
    """By what rows with a result are ranked, in their order; where there are none, by what failed ones would have
    been, as far as they say, else by top-1."""
    rows = list(rows)
    ranked = [row for row in rows if row["seeds"]] or [
        row for row in rows if not is_missing(row.get("metric"))
    ]
    return list(dict.fromkeys(map(ranking_of_row, ranked))) or [TOP1]


def shows(key: str, metrics: Iterable[Any]) -> bool:
    """Whether a column says something of rows of these metrics."""
    said = {metric for metric in metrics if not is_missing(metric)}
    if key in OF_OTHERS:
        return bool(said - {TOP1.title})
    return key not in OF_TOP1 or not said or TOP1.title in said
