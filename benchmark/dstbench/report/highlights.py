"""What a reader wants to know before reading a table: what is really faster, and at what accuracy, or loss?

A card is a list of candidates, the best first: the page shows the first one that its filters leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dstbench.report.boards import CLOSE, is_about_speed, is_close
from dstbench.report.page_cells import gained
from dstbench.report.scores import (
    change,
    change_in_words,
    figure,
    gain,
    keeps,
    said_of_sign,
    score_of,
    unit,
    value,
)
from dstbench.report.statistics import EVIDENCE
from dstbench.report.values import is_missing, ranking_of_row, show
from dstbench.results.printable import counted
from dstbench.results.table import LoadedResults

Row = dict[Any, Any]
Tile = dict[str, str]

_SPEEDS = {"inference": "Fastest inference", "train": "Fastest training"}


@dataclass(frozen=True)
class Candidate:
    """One row on a card: its place among the rows of the page, the figure, whose it is, and the control beside it."""

    row: int
    value: str
    who: str
    beside: str = ""


@dataclass(frozen=True)
class Card:
    """A question and its answers, the best first; ``nothing`` is shown where there is none."""

    what: str
    candidates: tuple[Candidate, ...]
    nothing: Candidate
    key: str = "top1"  # the column that it shows

    @property
    def first(self) -> Candidate:
        """What is shown before anything is filtered."""
        return self.candidates[0] if self.candidates else self.nothing


def about(rows: Sequence[Row]) -> str:
    """``small_cnn on digits at density 0.1``: what the rows are about, in one line."""
    if not rows:
        return "no results yet"
    models, datasets = (list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("model", "dataset"))
    sparse = {row["density_requested"] for row in rows if row["control"] != "dense"}
    densities = [f"{density:g}" for density in sorted(sparse, reverse=True)]
    title = f"{_several(models, 'models')} on {_several(datasets, 'data sets')}"
    if not densities:
        return title
    return f"{title} at {'density' if len(densities) == 1 else 'densities'} {_several(densities, '')}"


def facts(rows: list[Row], loaded: LoadedResults) -> list[Tile]:
    """How much went into the page."""

    def count(number: int, what: str) -> dict[str, str]:
        return {"value": f"{number:,}", "what": what if number == 1 else f"{what}s"}

    finished = sum(record["status"] == "ok" for record in loaded.records)
    counts = [
        {"value": f"{finished:,}", "what": f"of {counted(len(loaded.records), 'trial')} finished"},
        count(len({row["method"] for row in rows if not row["control"]}), "method"),
        count(len({row["model"] for row in rows}), "model"),
        count(len({row["dataset"] for row in rows}), "data set"),
        count(len({record["trial"]["seed"] for record in loaded.records}), "seed"),
        *_budget(loaded),
    ]
    return counts + ([count(len(loaded.rejected), "file") | {"what": "left out"}] if loaded.rejected else [])


def _budget(loaded: LoadedResults) -> list[Tile]:
    """How long trials trained: the steps of those that finished."""
    finished = (record["measures"].get("steps") for record in loaded.records if record["status"] == "ok")
    steps = sorted({int(number) for number in finished if number})
    if not steps:
        return []
    number = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    return [{"value": number, "what": "step a trial" if steps == [1] else "steps a trial"}]


def cards(rows: Sequence[Row], model: str, dataset: str) -> list[Card]:
    """What one model on one data set shows: speed first, and where the metric says something, at which cost.

    rows: those of the accuracy board, in its order.
    """
    here = [
        (place, row)
        for place, row in enumerate(rows)
        if (row["model"], row["dataset"]) == (model, dataset) and not row.get("published")
    ]
    sparse = [(place, row) for place, row in here if not row["control"] and not is_missing(score_of(row))]
    small = [row for _, row in here if row["control"] == "small-dense" and not is_missing(score_of(row))]
    if not sparse:
        return []
    if is_about_speed(dataset):
        return [_fastest(sparse, small, kind, None) for kind in _SPEEDS]
    standard = _standard(sparse)
    timed = [kind for kind in _SPEEDS if any(_is_timed(row, kind) for _, row in sparse)]
    speeds = [_fastest(sparse, small, kind, standard) for kind in timed]
    disturbed = any(row["contended"] is True for _, row in sparse)
    why = "every timing was disturbed by other work" if disturbed else "no network was timed"
    unknown = Card(f"{_SPEEDS['inference']}, measured", (), Candidate(-1, "not measured", why))
    return [*(speeds or [unknown]), _best(sparse), _cheapest(sparse, standard)]


@dataclass(frozen=True)
class _Standard:
    """What a network has to be as good as, but for a point or a percent."""

    whose: str
    is_met: Callable[[Row], bool]


def _standard(sparse: Sequence[tuple[int, Row]]) -> _Standard:
    """Dense, or where there is none the best sparse network that has evidence."""
    if not all(is_missing(row["difference"]) for _, row in sparse):
        return _Standard("dense", is_close)
    best = gain(_in_order(sparse, gain)[0][1])
    return _Standard("the best", lambda row: keeps(row, gain(row) - best, CLOSE))


def _fastest(
    sparse: Iterable[tuple[int, Row]], small: Sequence[Row], kind: str, standard: _Standard | None
) -> Card:
    """What is faster than dense, beyond timing noise, and as good as the standard; None: whatever it is."""
    key, accurate = f"{kind}_throughput_ratio", standard is not None
    timed = [(place, row) for place, row in sparse if _is_timed(row, kind)]
    gains = [(place, row) for place, row in timed if gained(row, key)]
    faster = [(place, row) for place, row in gains if standard is None or standard.is_met(row)]
    candidates = tuple(
        Candidate(
            place, show("speed", row[key]), _faster(row, kind, accurate), _beside(row, small, key, accurate)
        )
        for place, row in _in_order(faster, lambda row: row[key])
    )
    what = f"{_SPEEDS[kind]}{f' within {_margin(sparse)} of {standard.whose}' if standard else ', measured'}"
    beside = _beside(None, small, key, accurate)
    if gains or not timed:
        why = f"{_those(len(gains))} further behind" if gains else "no sparse network was timed"
        return Card(what, candidates, Candidate(-1, "none", why, beside), key)
    high = max((row for _, row in timed), key=lambda row: row[key])
    why = f"highest: {show('speed', high[key])}, {high[f'{kind}_path']}"
    return Card(what, candidates, Candidate(-1, "no gain", why, beside), key)


def _those(number: int) -> str:
    return "the one that is faster is" if number == 1 else f"all {number} that are faster are"


def _best(sparse: Iterable[tuple[int, Row]]) -> Card:
    """The best by the metric, with evidence where there is any."""
    order = _in_order(sparse, gain)
    level = Counter((score_of(row), row["seeds"] < EVIDENCE) for _, row in order)
    candidates = (
        Candidate(place, value(row), _accurate(row, level[score_of(row), row["seeds"] < EVIDENCE] - 1))
        for place, row in order
    )
    ranking = ranking_of_row(order[0][1])
    title = ranking.name if ranking.is_percent else ranking.title
    nothing = Candidate(-1, "none", "no sparse network has finished")
    return Card(f"Best sparse {title}", tuple(candidates), nothing, ranking.key)


def _cheapest(sparse: Iterable[tuple[int, Row]], standard: _Standard) -> Card:
    key = "training_flops_ratio"
    close = [(place, row) for place, row in sparse if standard.is_met(row) and not is_missing(row[key])]
    candidates = (
        Candidate(place, f"{show('ratio', row[key])} FLOPs", f"{_who(row)}: {_cost(row)}; in theory")
        for place, row in _in_order(close, lambda row: -row[key])
    )
    what = f"Cheapest training within {_margin(sparse)} of {standard.whose}"
    return Card(
        what,
        tuple(candidates),
        Candidate(-1, "none", "all are further behind"),
        key,
    )


def _in_order(rows: Iterable[tuple[int, Row]], value: Callable[[Row], float]) -> list[tuple[int, Row]]:
    """The highest first, but single seeds behind all that have evidence."""
    return sorted(rows, key=lambda item: (item[1]["seeds"] < EVIDENCE, -value(item[1]), item[0]))


def _is_timed(row: Row, kind: str) -> bool:
    """Whether a calm timing says something: contended ones are shown in tables alone."""
    return not is_missing(row[f"{kind}_throughput_ratio"]) and row["contended"] is not True


def _faster(row: Row, kind: str, accurate: bool) -> str:
    return f"{_who(row)}, {row[f'{kind}_path']}{f', {_cost(row)}' if accurate else ''}"


def _beside(row: Row | None, small: Sequence[Row], key: str, accurate: bool) -> str:
    """The small dense network of as many parameters: of the row's density, or the only one there is."""
    densities = {other["density_requested"] for other in small}
    density = row["density_requested"] if row else next(iter(densities)) if len(densities) == 1 else None
    there = [other for other in small if other["density_requested"] == density]
    calm = [other for other in there if not is_missing(other[key]) and other["contended"] is not True]
    if not calm:
        return ""
    same = [other for other in calm if row is not None and other["setting"] == row["setting"]]
    best = max(same or calm, key=lambda other: other[key])
    cost = f", {_cost(best)}" if accurate else ""
    return f"small-dense, as many parameters: {show('speed', best[key])}{cost}"


def _accurate(row: Row, level: int) -> str:
    """``level``: how many others are as good."""
    if is_missing(row["difference"]):
        beyond = ""
    elif is_missing(row["difference_low"]):
        beyond = f": {change_in_words(row)} against dense"
    else:
        low, high = (change(row, f"_{end}") for end in ("low", "high"))
        beyond = f": {change_in_words(row)} against dense, 95 % interval {low} to {high}"
    alone = (
        "one seed: no evidence that it is the best"
        if row["seeds"] < EVIDENCE
        else counted(round(row["seeds"]), "seed")
    )
    others = f", level with {level} other{'s' if level > 1 else ''}" if level else ""
    return f"{_who(row)}{others}{beyond}, {alone}"


def _cost(row: Row) -> str:
    """A row's figure and what it costs against dense."""
    points = "" if is_missing(row["difference"]) else f" ({_change(row)})"
    return f"{figure(row)}{points}{', one seed' if row['seeds'] < EVIDENCE else ''}"


def _change(row: Row) -> str:
    """The difference to dense behind a figure that has the unit: ``−0.84 points``, ``+0.0132, worse``."""
    ranking = ranking_of_row(row)
    sense = said_of_sign(row["difference"], ranking).strip("()")
    return ", ".join(filter(None, (f"{change(row)}{' points' * ranking.is_percent}", sense)))


def _margin(rows: Iterable[tuple[int, Row]]) -> str:
    """What counts as as good, in the words of the block's metric."""
    return next((unit(row, CLOSE) for _, row in rows), f"{CLOSE:g} point")


def _who(row: Row) -> str:
    return f"{row['method']} at density {row['density_requested']:g}"


def _several(names: Sequence[str], what: str) -> str:
    """``a, b and c``; a number where they are many."""
    if what and len(names) > 3:
        return f"{len(names)} {what}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
