"""Two sets of results against each other: what got better, what worse, what can't be told or be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstbench.hookspecs import STRATEGIES
from dstbench.report.apart import MEASURED, apart
from dstbench.report.statistics import FEWEST, differences, holm, p_value, paired
from dstbench.report.table_rows import rows_of
from dstbench.report.values import is_missing, ranking_of_row
from dstbench.results.printable import counted
from dstbench.results.ranking import TOP1, Ranking
from dstbench.results.table import Paths, load_results

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1.0
UNTOLD = "can't tell"
COLUMNS = (
    "method", *STRATEGIES, "model", "dataset", "density", "setting", "control", "metric", "better", "seeds", "before",
    "after", "difference", "difference_low", "difference_high", "p_holm", "verdict", "basis", "regressed",
)  # fmt: skip

Trials = list[dict[Any, Any]]


def compare(before: Paths, after: Paths, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """The metric of ``after`` minus that of ``before``, in its own sense and unit (percent points of top-1), paired
    by seed: a row per trial apart from its seed.

    ``verdict`` is ``better`` or ``worse``, by the metric's direction, where the 95 % t-interval of at least three
    seeds excludes zero; without such an interval, where the difference exceeds ``tolerance``: points of a metric in
    per cent, percent of any other; ``identical`` where every seed has the same figure; else ``can't tell`` (``basis``
    says what was used). Trials that finished before and no longer do are ``worse``; what only one side has is ``only
    before`` or ``only after``, and ``not comparable`` what both have on other data or by other rules. ``regressed``
    marks what is worse. ``attrs["rejected"]`` lists the files left out, ``attrs["blocks"]`` what
    ``over_blocks`` says. Raises BadInput where a folder doesn't exist.
    """
    import pandas as pd

    results = load_results(before), load_results(after)
    old, new = map(_groups, _apart(*map(rows_of, results)))
    rows = [_row(old.get(key, []), new.get(key, []), tolerance) for key in sorted(old.keys() | new.keys())]
    _mark_others(rows, old, new)
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    places = {"worse": 0, "better": 1, UNTOLD: 2, "not comparable": 3, "identical": 4}
    order = table["verdict"].map(places).fillna(5)
    table.attrs["blocks"] = over_blocks(old, new, tolerance)
    for which in ("rejected", "faults"):
        table.attrs[which] = [line for part in results for line in part.attrs[which]]
    table = table.assign(order=order).sort_values(
        ["order", "model", "dataset", "density", "method"], kind="stable"
    )
    return table.drop(columns="order").reset_index(drop=True)


def _apart(old: Trials, new: Trials) -> tuple[Trials, Trials]:
    """Both sides, with what was measured on other data or by other rules under names of its own. Other versions of
    components are no reason: how a change of code tells is what is asked."""
    named = apart([{**trial, "asked": trial["trial"]} for trial in (*old, *new)], MEASURED)
    return named[: len(old)], named[len(old) :]


def _mark_others(rows: list[dict[str, Any]], old: Mapping[str, Trials], new: Mapping[str, Trials]) -> None:
    """Say so of what only one side has, though the other has the same trial on other data or by other rules."""
    sides = [{trial["asked"] for group in side.values() for trial in group} for side in (old, new)]
    for row in rows:
        if row["verdict"].startswith("only ") and all(row["asked"] in side for side in sides):
            row["verdict"], row["basis"] = "not comparable", "the other side has other data or other rules"


def with_blocks(table: pd.DataFrame) -> pd.DataFrame:
    """``compare``'s table with its blocks as rows of ``all methods``; the last, of no model, is of all blocks."""
    import pandas as pd

    blocks = [{"method": "all methods", **row} for row in table.attrs["blocks"]]
    rows = [*rows_of(table), *blocks]
    return pd.DataFrame(rows, columns=[*table.columns, "of"])


def over_blocks(
    old: Mapping[str, Trials], new: Mapping[str, Trials], tolerance: float = TOLERANCE
) -> list[dict[str, Any]]:
    """The change of every block, a model on a data set at a density, and of all blocks together, which comes last.

    For each seed the mean change over the methods that finished on both sides, and for all blocks the mean over
    these; the interval is over seeds, for seeds are what was drawn at random, methods and blocks are not. A seed that
    a method lacks is left out, so that every seed's mean is over the same methods; where none is left, all are used.
    ``of`` says how many methods, or blocks, it is of; controls are among them. Blocks of different metrics are never
    put together: there is a row of all blocks for each.
    """
    blocks: dict[tuple[Any, ...], list[Change]] = {}
    metrics: dict[tuple[Any, ...], Ranking] = {}
    for key in sorted(old.keys() & new.keys()):
        first, was, now = new[key][0], scores(old[key]), scores(new[key])
        if was.keys() & now.keys():
            place = (first["model"], first["dataset"], first["density_requested"])
            metrics[place] = metric_of(new[key])
            blocks.setdefault(place, []).append(change_of(now, was))
    ordered = sorted(blocks.items(), key=lambda item: (*item[0][:2], -item[0][2]))
    changes = {place: _together(members) for place, members in ordered}
    rows = [
        _block(place, len(members), changes[place], tolerance, metrics[place]) for place, members in ordered
    ]
    return [*rows, *all_together([(metrics[place], change) for place, change in changes.items()], tolerance)]


def all_together(
    changes: Sequence[tuple[Ranking, Change]], tolerance: float = TOLERANCE
) -> list[dict[str, Any]]:
    """The changes of blocks as one, a row a metric: the last rows of ``over_blocks``."""
    rows = []
    for metric in dict.fromkeys(metric for metric, _ in changes):
        alike = [change for other, change in changes if other == metric]
        rows.append(_block((None, None, None), len(alike), _together(alike), tolerance, metric))
    return rows


def is_judged(verdicts: Iterable[str]) -> bool:
    """Whether any of these says something of trials that both sides have."""
    return not {"better", "worse", UNTOLD, "identical"}.isdisjoint(verdicts)


@dataclass(frozen=True)
class Change:
    """Of one method, or of several together: by seed, the difference, and what there was before."""

    difference: dict[int, float]
    before: dict[int, float]


def change_of(now: Mapping[int, float], was: Mapping[int, float]) -> Change:
    """From one side to the other, at the seeds that both have."""
    seeds = sorted(now.keys() & was.keys())
    return Change({seed: now[seed] - was[seed] for seed in seeds}, {seed: was[seed] for seed in seeds})


def _together(changes: list[Change]) -> Change:
    return Change(
        *(_by_seed([getattr(change, name) for change in changes]) for name in ("difference", "before"))
    )


def _by_seed(changes: list[dict[int, float]]) -> dict[int, float]:
    """Seed -> mean over what has that seed: of the seeds that all have, or if there is none, of any."""
    shared = set.intersection(*(set(change) for change in changes)) or set().union(*changes)
    known = {seed: [change[seed] for change in changes if seed in change] for seed in sorted(shared)}
    return {seed: sum(values) / len(values) for seed, values in known.items()}


def _block(
    place: tuple[Any, ...], count: int, change: Change, tolerance: float, metric: Ranking
) -> dict[str, Any]:
    was = dict.fromkeys(change.difference, 0.0) if metric.is_percent else change.before
    now = {seed: was[seed] + value for seed, value in change.difference.items()}
    effect, (verdict, basis) = (
        paired(change.difference, dict.fromkeys(now, 0.0)),
        judged(now, was, tolerance, metric),
    )
    return {
        **dict(zip(("model", "dataset", "density"), place, strict=True)),
        "of": count,
        "metric": metric.title,
        "better": metric.better,
        "seeds": effect.n,
        "difference": effect.mean,
        "difference_low": effect.low,
        "difference_high": effect.high,
        "verdict": verdict,
        "basis": basis,
    }


def _groups(trials: Trials) -> dict[str, Trials]:
    groups: dict[str, Trials] = {}
    for trial in trials:
        groups.setdefault(trial["trial"], []).append(trial)
    return groups


def _row(old: Trials, new: Trials, tolerance: float) -> dict[str, Any]:
    first = (new or old)[0]
    was, now = scores(old), scores(new)
    common = was.keys() & now.keys()
    change = paired(now, was)
    verdict, basis = _verdict(old, new, tolerance)
    return {
        "method": min((trial["label"] for trial in (*old, *new)), key=lambda label: (len(label), label)),
        **{name: first[name] for name in (*STRATEGIES, "model", "dataset", "control")},
        "density": first["density_requested"],
        "setting": first["training"] or None,
        "metric": (metric := metric_of([*new, *old])).title,
        "better": metric.better,
        "seeds": len(common),
        "before": mean(was, common),
        "after": mean(now, common),
        "difference": change.mean,
        "difference_low": change.low,
        "difference_high": change.high,
        "p": p_value(differences(now, was)),
        "verdict": verdict,
        "basis": basis,
        "regressed": verdict == "worse",
        "asked": first["asked"],
    }


def scores(trials: Trials) -> dict[int, float]:
    """Seed -> the metric of the trials that finished."""
    return {t["seed"]: t["score"] for t in trials if t["status"] == "ok" and not is_missing(t["score"])}


def metric_of(trials: Trials) -> Ranking:
    """What trials are ranked by: those that finished say it."""
    return next((ranking_of_row(trial) for trial in trials if not is_missing(trial["metric"])), TOP1)


def mean(values: Mapping[int, float], seeds: set[int]) -> float | None:
    """The mean over some seeds; None over none."""
    return sum(values[seed] for seed in seeds) / len(seeds) if seeds else None


def _verdict(old: Trials, new: Trials, tolerance: float) -> tuple[str, str]:
    """The verdict and what it rests on."""
    if not old or not new:
        return ("only after", "no trial before") if new else ("only before", "no trial after")
    if lost := _lost(old, new):
        return "worse", f"no result any more: {lost}"
    return judged(scores(new), scores(old), tolerance, metric_of([*new, *old]))


def judged(
    now: Mapping[int, float], was: Mapping[int, float], tolerance: float, metric: Ranking = TOP1
) -> tuple[str, str]:
    """Whether ``now`` is better than ``was``, the metric by seed, on the seeds that both have; and what that rests
    on. tolerance: points of a metric in per cent, percent of any other."""
    change = paired(now, was)
    if change.mean is None:
        return UNTOLD, "no seed finished on both sides"
    if not any(differences(now, was)):
        return "identical", f"the same {metric.name} at {counted(change.n, 'seed')}"
    if change.n >= FEWEST and change.low is not None and change.high is not None:
        low, high = sorted((metric.sign * change.low, metric.sign * change.high))
        return _side(low, high, 0.0), f"95 % interval over {change.n} seeds"
    unit, margin = " point" if tolerance == 1 else " points", tolerance
    if not metric.is_percent:
        common = was.keys() & now.keys()
        unit, margin = " %", tolerance / 100 * abs(sum(was[seed] for seed in common) / len(common))
    basis = f"tolerance of {tolerance:g}{unit}: {counted(change.n, 'seed')}, no interval to go by"
    change_for_better = metric.sign * change.mean
    return _side(change_for_better, change_for_better, margin), basis


def _lost(old: Trials, new: Trials) -> str:
    """How trials ended that had a result before, and their seeds; "" where none was lost."""
    lost = sorted(scores(old).keys() & {trial["seed"] for trial in new} - scores(new).keys())
    ended = sorted({f"{trial['status']}" for trial in new if trial["seed"] in lost})
    return f"{', '.join(ended)} (seed {', '.join(map(str, lost))})" if lost else ""


def _side(low: float, high: float, margin: float) -> str:
    return "better" if low > margin else "worse" if high < -margin else UNTOLD
