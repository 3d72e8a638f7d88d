"""The three leaderboards as tables: a row is a method on a model, a data set and a density, over seeds."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import TYPE_CHECKING, Any

from dstbench.hookspecs import STRATEGIES
from dstbench.report.apart import apart
from dstbench.report.boards import BOARDS, Board
from dstbench.report.columns import COLUMNS
from dstbench.report.scores import gain
from dstbench.report.statistics import (
    MeanInterval,
    differences,
    holm,
    mean_interval,
    mean_ranks,
    p_value,
    paired,
    pareto,
)
from dstbench.report.table_rows import rows_of
from dstbench.report.values import ITSELF, is_missing, ranking_of_row
from dstbench.results.measure_table import MEASURES, RARE, TIMED, Aggregate
from dstbench.results.table import TUNING_COLUMNS, settings_text
from dstbench.results.verdicts import TIERS

if TYPE_CHECKING:
    import pandas as pd

PLACE = ("model", "dataset", "density_requested")
_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.@+-]+/)+(?=[\w.@+-])")

Trials = list[dict[Any, Any]]  # rows of load_results
Course = tuple[str, str, str]  # model, data set and training
Dense = Mapping[Course, Mapping[int, float]]
SAME_TRAINING = ("storage",)  # settings that change how a training is computed, not which one it is


def leaderboards(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables ``accuracy``, ``flops`` and ``throughput`` of a frame from ``load_results``."""
    return arranged(summarise(results))


def arranged(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The three boards of a summary."""
    return shown_columns(in_order(summary))


def shown_columns(ordered: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Of what ``in_order`` gives, each board's own columns."""
    columns = {
        board.name: [key for column in board.shown(ordered[board.name]) for key in column.keys]
        for board in BOARDS
    }
    return {
        name: table[list(dict.fromkeys(columns[name]))].reset_index(drop=True)
        for name, table in ordered.items()
    }


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """One row per method × model × data set × density × setting, aggregated over the seeds that finished.

    A row whose trials all failed or were skipped is there too, with its reason and no measures.
    """
    return summary_of(apart(rows_of(results)))


def summary_of(trials: Trials) -> pd.DataFrame:
    """``summarise`` of rows that are ``apart``."""
    import pandas as pd

    trials = with_versions(trials)
    dense = _dense_control(trials)
    groups: dict[tuple[str, str], Trials] = {}
    for trial in sorted(trials, key=lambda trial: trial["seed"]):
        groups.setdefault((trial["trial"], trial["version"]), []).append(trial)
    versions = Counter(trial for trial, _ in groups)
    rows = [_row(groups[key], dense, named=versions[key[0]] > 1) for key in sorted(groups)]
    _correct(rows)
    _mark_front(rows)
    keys = dict.fromkeys(key for column in COLUMNS.values() for key in column.keys)
    return _typed(pd.DataFrame(rows, columns=[*keys, "group", "trial"]))


def in_order(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each board all columns of a summary and ``rank``, in its order: by model, data set, density, then its own
    measure. The index says where in the summary a row stood."""
    rows = rows_of(summary)
    return {board.name: _in_order(summary, rows, board) for board in BOARDS}


def _in_order(summary: pd.DataFrame, rows: Sequence[Mapping[Any, Any]], board: Board) -> pd.DataFrame:
    import pandas as pd

    unknown = [name for name in ("tier", *TUNING_COLUMNS, *RARE) if summary[name].isna().all()]
    table = summary.drop(columns=unknown)
    table["rank"] = pd.Series(_ranks(rows, board), index=summary.index, dtype="float64")
    noise = [board.is_noise(row) for row in rows]
    table["last"] = pd.Series(noise, index=summary.index, dtype="int64") + 2 * table[board.by].isna()
    table["gain"] = pd.Series(
        [math.nan if is_missing(row[board.by]) else board.gain(row) for row in rows], summary.index, "float64"
    )
    table["tie"] = pd.Series(
        [math.nan if is_missing(row["score"]) else gain(row) for row in rows], summary.index, "float64"
    )
    return table.sort_values(
        ["model", "dataset", "density_requested", "last", "gain", "tie", "method", "group"],
        ascending=[True, True, False, True, False, False, True, True],
        kind="stable",
    ).drop(columns=["last", "gain", "tie"])


def with_versions(trials: Trials) -> Trials:
    """Add ``version``; a trial that failed before it had one joins its siblings where they agree."""
    known: dict[str, set[str]] = {}
    for trial in trials:
        known.setdefault(trial["trial"], set()).update({trial["versions"]} - {None})
    only = {trial: next(iter(versions)) if len(versions) == 1 else "" for trial, versions in known.items()}
    return [{**trial, "version": trial["versions"] or only[trial["trial"]]} for trial in trials]


def group_of(trial: Mapping[Any, Any]) -> str:
    """Which row a trial ``with_versions`` belongs to."""
    return f"{trial['trial']} {trial['version']}"


def _course(trial: Mapping[Any, Any]) -> Course:
    """What a trial shares with its dense control: trainings that differ in storage alone are the same."""
    return trial["model"], trial["dataset"], settings_text(json.loads(trial["trial"]), SAME_TRAINING)


def _dense_control(trials: Trials) -> dict[Course, dict[int, float]]:
    """The metric of the dense control: course -> seed -> figure."""
    by_place: dict[Course, dict[int, float]] = {}
    for trial in trials:
        if trial["control"] == "dense" and trial["status"] == "ok" and not is_missing(trial["score"]):
            seeds = by_place.setdefault(_course(trial), {})
            seeds.setdefault(trial["seed"], trial["score"])
    return by_place


def _row(group: Trials, dense: Dense, named: bool) -> dict[str, Any]:
    """One row of the boards. ``named``: the component versions have to be told apart."""
    first = group[0]
    finished = [trial for trial in group if trial["status"] == "ok"]
    scores = {trial["seed"]: trial["score"] for trial in finished if not is_missing(trial["score"])}
    control = next((trial["control"] for trial in group if trial["control"]), None)
    reference = {} if control == "dense" else dense.get(_course(first), {})
    return {
        "group": group_of(first),
        "trial": first["trial"],
        "method": min((trial["label"] for trial in group), key=lambda label: (len(label), label)),
        "control": control,
        **{name: first[name] for name in (*STRATEGIES, *PLACE)},
        "setting": _setting(first, named),
        "seeds": len(finished),
        **(measures := _measures(finished)),
        **(
            {} if finished else {name: next(iter(_known(group, name)), None) for name in ("metric", "better")}
        ),
        **_interval("difference", paired(scores, reference)),
        "p": p_value(differences(scores, reference)),
        "tier": _least_verified(finished),
        **{name: next(iter(_known(group, name)), None) for name in TUNING_COLUMNS},
        "statuses": ", ".join(f"{count} {status}" for status, count in _counts(group)),
        "reason": _reasons(group),
        "note": _note(
            measures, control, sorted({trial["outdated"] for trial in group if trial.get("outdated")})
        ),
    }


def _setting(trial: Mapping[Any, Any], named: bool) -> str | None:
    kept = trial["dense_layers"] and f"dense: {trial['dense_layers']}"
    parts = (trial["training"], kept, trial["version"] if named else None)
    return ", ".join(filter(None, parts)) or None


def _measures(finished: Trials) -> dict[str, Any]:
    """Every measure over the trials that finished, as its row in the table of measures says."""
    calm = _calm(finished)
    values: dict[str, Any] = {}
    for key, row in MEASURES.items():
        if row.framed:
            values |= _OVER_SEEDS[row.over_seeds](calm if row.timed else finished, key)
    return values | {key: _inverse(values[row.inverse_of]) for key, row in MEASURES.items() if row.inverse_of}


def _calm(finished: Trials) -> Trials:
    """The timed trials that nothing disturbed; the disturbed ones where there are no others."""
    timed = [trial for trial in finished if any(trial[f"{kind}_path"] for kind in TIMED)]
    return [trial for trial in timed if not trial["contended"]] or timed


def _known(trials: Trials, name: str) -> list[Any]:
    return [  # as ``is_missing``, without a call for each of a million figures
        value for trial in trials if (value := trial[name]) is not None and value == value and value != ""
    ]


def _mean(trials: Trials, name: str) -> dict[str, float | None]:
    if len(trials) == 1:
        value = trials[0][name]
        return {name: None if is_missing(value) else value}
    known = _known(trials, name)
    return {name: fsum(known) / len(known) if known else None}


def _geometric(trials: Trials, name: str) -> dict[str, float | None]:
    """The geometric mean with its interval: of e to a loss, what the losses' own come to."""
    known = _known(trials, name)
    logarithms = map(math.log, known) if known and min(known) > 0 else ()
    interval = _interval(name, mean_interval(list(logarithms)))
    return {key: value if value is None else math.exp(value) for key, value in interval.items()}


def _with_interval(trials: Trials, name: str) -> dict[str, float | None]:
    if name == "score" and trials and ranking_of_row(trials[0]).is_exponential:
        return _geometric(trials, name)
    return _interval(name, mean_interval(_known(trials, name)))


def _union(trials: Trials, name: str) -> dict[str, str | None]:
    return {name: "; ".join(sorted({str(trial[name]) for trial in trials if trial[name]})) or None}


def _any(trials: Trials, name: str) -> dict[str, bool | None]:
    return {name: any(trial[name] for trial in trials) if trials else None}


def _interval(name: str, value: MeanInterval) -> dict[str, float | None]:
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}


def _inverse(ratio: float | None) -> float | None:
    return 1 / ratio if ratio else None


_OVER_SEEDS: dict[Aggregate, Callable[[Trials, str], dict[str, Any]]] = {
    "mean": _mean,
    "geometric": _geometric,
    "interval": _with_interval,
    "union": _union,
    "any": _any,
}


def _note(measures: Mapping[str, Any], control: str | None, outdated: Sequence[str]) -> str | None:
    notes = [ITSELF] if control == "dense" and any(measures[f"{kind}_path"] for kind in TIMED) else []
    notes += [f"unstructured in {names}" for names in (measures["fallbacks"] or "").split("; ") if names]
    notes += [f"taken at random in {names}" for names in (measures["unscored"] or "").split("; ") if names]
    if "; " in (measures["conditions"] or ""):
        notes.append("timed under different conditions: not ranked by speed")
    notes += [f"older than this code: {which}" for which in outdated]
    return "; ".join(notes) or None


def _reasons(group: Trials) -> str | None:
    """Why trials are missing, without the folders of the machine on which they failed."""
    failed = [trial for trial in group if trial["status"] != "ok"]
    texts = [" ".join((trial["reason"] or "no reason given").split()) for trial in failed]
    reasons = {
        f"{trial['status']}: {_PATH.sub('…/', text)[:300]}" for trial, text in zip(failed, texts, strict=True)
    }
    return "; ".join(sorted(reasons)) or None


def _least_verified(finished: Trials) -> str | None:
    known = [trial["tier"] for trial in finished if trial.get("tier")]
    return min(known, key=TIERS.index) if known else None


def _counts(group: Trials) -> list[tuple[str, int]]:
    counts = Counter(trial["status"] for trial in group)
    return sorted(counts.items(), key=lambda item: (item[0] != "ok", item[0]))


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction over all comparisons with one dense control."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["model"], row["dataset"]), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p


def _mark_front(rows: list[dict[str, Any]]) -> None:
    """Mark what is on the front of the metric against training FLOPs within its model and data set."""
    known = [row for row in rows if not (is_missing(row["training_flops_ratio"]) or is_missing(row["score"]))]
    for place in {(row["model"], row["dataset"]) for row in known}:
        here = [row for row in known if (row["model"], row["dataset"]) == place]
        front = pareto([(row["training_flops_ratio"], gain(row)) for row in here])
        for row, on_front in zip(here, front, strict=True):
            row["pareto"] = on_front


def _ranks(rows: Sequence[Mapping[Any, Any]], board: Board) -> list[float | None]:
    """The mean rank of each row's method over complete blocks of its metric; None for what isn't ranked."""
    ranked = [board.ranks(row) for row in rows]
    blocks: dict[Any, dict[str, dict[str, float]]] = {}
    for row, counts in zip(rows, ranked, strict=True):
        if counts:
            value = float(f"{board.gain(row):.9g}")  # sums' last bits part no tie
            here = blocks.setdefault(row["metric"], {}).setdefault(str([row[name] for name in PLACE]), {})
            here[_identity(row)] = value
    means = {metric: mean_ranks(of_metric) for metric, of_metric in blocks.items()}
    return [
        means[row["metric"]].get(_identity(row)) if counts else None
        for row, counts in zip(rows, ranked, strict=True)
    ]


def _identity(row: Mapping[Any, Any]) -> str:
    """What makes a method the same method on another model, data set or density."""
    return str([row[name] for name in ("method", *STRATEGIES, "setting")])


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as float64 (missing = NaN), the rest as objects (missing = None)."""
    for column in COLUMNS.values():
        for key in column.keys:
            values = table[key]
            table[key] = (
                values.astype("float64")
                if column.numeric
                else values.astype(object).where(values.notna(), None)
            )
    return table
