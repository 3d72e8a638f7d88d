"""Two sets of results against each other: what got better, what worse, what can't be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dstbench.hookspecs import STRATEGIES
from dstbench.report.statistics import FEWEST, differences, holm, p_value, paired
from dstbench.report.values import is_missing
from dstbench.results.table import Paths, load_results

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1.0
COLUMNS = (
    "method", *STRATEGIES, "model", "dataset", "density", "setting", "control", "seeds", "before", "after",
    "difference", "difference_low", "difference_high", "p_holm", "verdict", "basis", "regressed",
)  # fmt: skip

Trials = list[dict[Any, Any]]


def compare(before: Paths, after: Paths, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """Top-1 of ``after`` minus ``before`` in percent points, paired by seed: a row per trial apart from its seed.

    ``verdict`` is ``better`` or ``worse`` where the 95 % t-interval of at least three seeds excludes zero; without
    such an interval, where the difference exceeds ``tolerance`` percent points; ``identical`` where every seed has
    the same top-1; else ``inconclusive`` (``basis`` says what was used). Trials that finished before and no longer do
    are ``worse``; what only one side has is ``only before`` or ``only after``. ``regressed`` marks what is worse.
    ``attrs["rejected"]`` lists the files left out. Raises BadInput where a folder doesn't exist.
    """
    import pandas as pd

    results = load_results(before), load_results(after)
    old, new = map(_groups, results)
    rows = [_row(old.get(key, []), new.get(key, []), tolerance) for key in sorted(old.keys() | new.keys())]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    order = table["verdict"].map({"worse": 0, "better": 1, "inconclusive": 2, "identical": 3}).fillna(4)
    table.attrs["rejected"] = [line for part in results for line in part.attrs["rejected"]]
    table = table.assign(order=order).sort_values(
        ["order", "model", "dataset", "density", "method"], kind="stable"
    )
    return table.drop(columns="order").reset_index(drop=True)


def _groups(results: pd.DataFrame) -> dict[str, Trials]:
    groups: dict[str, Trials] = {}
    for trial in results.to_dict("records"):
        groups.setdefault(trial["trial"], []).append(trial)
    return groups


def _row(old: Trials, new: Trials, tolerance: float) -> dict[str, Any]:
    first = (new or old)[0]
    was, now = top1(old), top1(new)
    common = was.keys() & now.keys()
    change = paired(now, was)
    verdict, basis = _verdict(old, new, tolerance)
    return {
        "method": min((trial["label"] for trial in (*old, *new)), key=lambda label: (len(label), label)),
        **{name: first[name] for name in (*STRATEGIES, "model", "dataset", "control")},
        "density": first["density_requested"],
        "setting": first["training"] or None,
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
    }


def top1(trials: Trials) -> dict[int, float]:
    """Seed -> top-1 in percent of the trials that finished."""
    return {t["seed"]: t["top1"] for t in trials if t["status"] == "ok" and not is_missing(t["top1"])}


def mean(values: Mapping[int, float], seeds: set[int]) -> float | None:
    """The mean over some seeds; None over none."""
    return sum(values[seed] for seed in seeds) / len(seeds) if seeds else None


def _verdict(old: Trials, new: Trials, tolerance: float) -> tuple[str, str]:
    """The verdict and what it rests on."""
    if not old or not new:
        return ("only after", "no trial before") if new else ("only before", "no trial after")
    if lost := _lost(old, new):
        return "worse", f"no result any more: {lost}"
    return judged(top1(new), top1(old), tolerance)


def judged(now: Mapping[int, float], was: Mapping[int, float], tolerance: float) -> tuple[str, str]:
    """Whether ``now`` is better than ``was``, top-1 by seed, on the seeds that both have; and what that rests on."""
    change = paired(now, was)
    if change.mean is None:
        return "inconclusive", "no seed finished on both sides"
    if not any(differences(now, was)):
        return "identical", f"the same top-1 at {change.n} seed{'s' if change.n > 1 else ''}"
    if change.n >= FEWEST and change.low is not None and change.high is not None:
        return _side(change.low, change.high, 0.0), f"95 % interval over {change.n} seeds"
    basis = f"tolerance of {tolerance:g} points: {change.n} seed{'s' if change.n > 1 else ''}, no interval to go by"
    return _side(change.mean, change.mean, tolerance), basis


def _lost(old: Trials, new: Trials) -> str:
    """How trials ended that had a result before, and their seeds; "" where none was lost."""
    lost = sorted(top1(old).keys() & {trial["seed"] for trial in new} - top1(new).keys())
    ended = sorted({f"{trial['status']}" for trial in new if trial["seed"] in lost})
    return f"{', '.join(ended)} (seed {', '.join(map(str, lost))})" if lost else ""


def _side(low: float, high: float, margin: float) -> str:
    return "better" if low > margin else "worse" if high < -margin else "inconclusive"
