"""The three leaderboards as tables: a row is a method on a model, a data set and a density, over seeds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dstbench.report.columns import BOARDS, COLUMNS, Board, is_missing
from dstbench.report.results import COMPONENTS
from dstbench.report.statistics import differences, estimate, holm, mean_ranks, p_value, paired, pareto

if TYPE_CHECKING:
    import pandas as pd

MEANS = (
    "density", "top1_validation", "loss", "r_s", "updates", "churn", "collapsed", "training_flops_ratio",
    "inference_flops_ratio", "hardware_flops_ratio", "training_flops", "inference_flops", "parameters",
    "active_parameters", "bits", "peak_memory", "seconds",
)  # fmt: skip
SPEEDS = tuple(
    f"{kind}_{name}"
    for kind in ("train", "inference")
    for name in ("images_per_second", "throughput_ratio", "throughput_ratio_low", "throughput_ratio_high")
)
PLACE = ("model", "dataset", "density_requested")
_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.@+-]+/)+(?=[\w.@+-])")

Dense = Mapping[tuple[str, str, str], Mapping[int, float]]


def leaderboards(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables ``accuracy``, ``flops`` and ``throughput`` of a frame from ``load_results``."""
    summary = summarise(results)
    return {board.name: arrange(summary, board) for board in BOARDS}


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """One row per method × model × data set × density × setting, aggregated over the seeds that finished.

    A row whose trials all failed or were skipped is there too, with its reason and no measures.
    """
    import pandas as pd

    results = results.assign(version=_known_versions(results))
    versions = results.groupby("trial")["version"].nunique()
    several = set(versions.index[versions > 1])
    dense = _dense_control(results)
    groups = results.groupby(["trial", "version"], sort=True)
    rows = [_row(group, dense, named=trial in several) for (trial, _), group in groups]
    _correct(rows)
    _mark_front(rows)
    keys = dict.fromkeys(key for column in COLUMNS.values() for key in column.keys)
    return _typed(pd.DataFrame(rows, columns=[*keys, "group"]))


def arrange(summary: pd.DataFrame, board: Board) -> pd.DataFrame:
    """One board's columns, ranked and ordered: by model, data set, density, then its own measure."""
    import pandas as pd

    table = summary.copy()
    table["rank"] = pd.Series(_ranks(summary, board), index=summary.index, dtype="float64")
    table = table.sort_values(
        ["model", "dataset", "density_requested", board.by, "method", "group"],
        ascending=[True, True, False, not board.higher, True, True],
        na_position="last",
        kind="stable",
    )
    keys = dict.fromkeys(key for column in board.columns for key in column.keys)
    return table[list(keys)].reset_index(drop=True)


def _known_versions(results: pd.DataFrame) -> pd.Series[str]:
    """Component versions; a trial that failed before it had any joins its siblings where they agree."""
    known = results.groupby("trial")["versions"]
    only = known.transform("first").where(known.transform("nunique") == 1)
    return results["versions"].astype(object).where(results["versions"].notna(), only).fillna("").astype(str)


def _dense_control(results: pd.DataFrame) -> dict[tuple[str, str, str], dict[int, float]]:
    """Top-1 of the dense control: (model, data set, training) -> seed -> percent."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    ours = results[(results["control"] == "dense") & (results["status"] == "ok") & results["top1"].notna()]
    for row in ours.to_dict("records"):
        found.setdefault((row["model"], row["dataset"], row["training"]), {}).setdefault(
            row["seed"], row["top1"]
        )
    return found


def _row(group: pd.DataFrame, dense: Dense, named: bool) -> dict[str, Any]:
    """One row of the boards. ``named``: the component versions have to be told apart."""
    first = group.iloc[0]
    finished = group[group["status"] == "ok"]
    top1 = dict(zip(finished["seed"], finished["top1"], strict=True))
    top1 = {seed: value for seed, value in top1.items() if not is_missing(value)}
    control = next((name for name in group["control"] if name), None)
    reference = (
        {} if control == "dense" else dense.get((first["model"], first["dataset"], first["training"]), {})
    )
    differing = differences(top1, reference)
    parts = [first["training"], first["dense_layers"] and f"dense: {first['dense_layers']}"]
    setting = [part for part in (*parts, first["version"] if named else None) if part]
    return {
        "group": f"{first['trial']} {first['version']}",
        "method": min(group["label"], key=lambda label: (len(label), label)),
        "control": control,
        **{name: first[name] for name in (*COMPONENTS, *PLACE)},
        "setting": ", ".join(setting) or None,
        "seeds": len(finished),
        **_interval("top1", estimate(list(top1.values()))),
        **_interval("difference", paired(top1, reference)),
        "p": p_value(differing),
        **{name: finished[name].mean() for name in MEANS},
        "convention": _unique(finished["convention"]),
        **_speeds(finished),
        "statuses": ", ".join(f"{count} {status}" for status, count in _counts(group["status"])),
        "reason": _reasons(group[group["status"] != "ok"]),
        "note": _note(finished),
    }


def _interval(name: str, value: Any) -> dict[str, float | None]:
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}


def _speeds(finished: pd.DataFrame) -> dict[str, Any]:
    """Mean speeds of the timings that nothing disturbed; of the disturbed ones where there are no others."""
    timed = finished[finished["path"].notna()]
    calm = timed[timed["contended"].astype(object) != True]  # noqa: E712  (None is calm too)
    used = timed if calm.empty else calm
    return {
        **{name: used[name].mean() for name in SPEEDS},
        "path": _unique(used["path"]),
        "conditions": _unique(used["conditions"]),
        "contended": bool(calm.empty) if len(timed) else None,
    }


def _note(finished: pd.DataFrame) -> str | None:
    notes = [f"unstructured in {layers}" for layers in sorted(set(finished["fallbacks"].dropna()))]
    if finished["conditions"].dropna().nunique() > 1:
        notes.append("timed under different conditions: not ranked by speed")
    if (finished["updates"] == 0).any() and (finished["schedule"].fillna("never") != "never").any():
        notes.append("the topology never changed")
    return "; ".join(notes) or None


def _reasons(failed: pd.DataFrame) -> str | None:
    """Why trials are missing, without the folders of the machine on which they failed."""
    found = {
        f"{status}: {_PATH.sub('…/', ' '.join(str(reason or 'no reason given').split()))[:300]}"
        for status, reason in zip(failed["status"], failed["reason"], strict=True)
    }
    return "; ".join(sorted(found)) or None


def _counts(values: pd.Series[Any]) -> list[tuple[str, int]]:
    return sorted(Counter(values).items(), key=lambda item: (item[0] != "ok", item[0]))


def _unique(values: pd.Series[Any]) -> str | None:
    return "; ".join(sorted({str(value) for value in values.dropna()})) or None


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction over all comparisons with one dense control."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["model"], row["dataset"]), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p


def _mark_front(rows: list[dict[str, Any]]) -> None:
    """Mark what is on the front of top-1 against training FLOPs within its model and data set."""
    known = [row for row in rows if not (is_missing(row["training_flops_ratio"]) or is_missing(row["top1"]))]
    for place in {(row["model"], row["dataset"]) for row in known}:
        here = [row for row in known if (row["model"], row["dataset"]) == place]
        front = pareto([(row["training_flops_ratio"], row["top1"]) for row in here])
        for row, on_front in zip(here, front, strict=True):
            row["pareto"] = on_front


def _ranks(summary: pd.DataFrame, board: Board) -> list[float | None]:
    """The mean rank of each row's method over complete blocks; None for what isn't ranked."""
    rows = summary.to_dict("records")
    ranked = [_ranked(row, board) for row in rows]
    blocks: dict[str, dict[str, float]] = {}
    for row, counts in zip(rows, ranked, strict=True):
        if counts:
            value = row[board.by] if board.higher else -row[board.by]
            blocks.setdefault(str([row[name] for name in PLACE]), {})[_identity(row)] = value
    means = mean_ranks(blocks)
    return [means.get(_identity(row)) if counts else None for row, counts in zip(rows, ranked, strict=True)]


def _ranked(row: Mapping[Any, Any], board: Board) -> bool:
    if not is_missing(row["control"]) or is_missing(row[board.by]):
        return False
    disturbed = row["contended"] is True or "; " in str(row["conditions"])
    return not (board.name == "throughput" and disturbed)


def _identity(row: Mapping[Any, Any]) -> str:
    """What makes a method the same method on another model, data set or density."""
    return str([row[name] for name in ("method", *COMPONENTS, "setting")])


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
