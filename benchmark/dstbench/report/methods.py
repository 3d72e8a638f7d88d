"""One method against another in the same results, paired by seed: is mine better than RigL?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput, nearest
from dstbench.report.apart import apart
from dstbench.report.compare import (
    TOLERANCE,
    Change,
    Trials,
    all_together,
    change_of,
    judged,
    mean,
    metric_of,
    scores,
)
from dstbench.report.statistics import differences, holm, p_value, paired
from dstbench.report.table_rows import rows_of
from dstbench.report.values import MISSING, Column, kind_of, ranking_of_row, show
from dstbench.results.printable import counted
from dstbench.results.ranking import TOP1, Ranking
from dstbench.results.table import Paths, load_results

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

COLUMNS = (
    "method", "against", "model", "dataset", "density", "setting", "seeds", "metric", "better", "score",
    "score_against", "top1", "top1_against",
    "difference", "difference_low", "difference_high", "p", "p_holm", "verdict", "basis",
)  # fmt: skip


def compare_methods(paths: Paths, method: str, against: str, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """The metric of ``method`` minus that of ``against``, in its own sense and unit (percent points of top-1): a row
    per model, data set and density.

    Both by the names that boards give them. What differs in other settings, such as ``training.storage``, is
    compared apart; a method that is there in other settings only is compared with these, and ``setting`` says so.
    Dense stands beside every density. ``verdict`` and ``basis`` are as in ``compare``, ``p`` is of the paired t-test
    and ``p_holm`` the same, corrected for the number of rows. ``attrs["blocks"]`` judges all rows that have a seed in
    common together, where there are several (see ``compare.over_blocks``). Raises BadInput for a method that isn't
    there, and where both never meet.
    """
    import pandas as pd

    results = load_results(paths)
    trials: Trials = apart(rows_of(results))
    ours, theirs = (_variants(trials, name) for name in (method, against))
    pairs = list(_pairs(ours, theirs))
    rows = [_row(mine, rival, tolerance) for mine, rival in pairs]
    changes = [change for mine, rival in pairs if (change := _change(mine, rival))[1].difference]
    if not rows:
        raise BadInput(f"--method: {method!r} and {against!r} have no model, data set and density in common")
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.sort_values(["model", "dataset", "density", "setting"], kind="stable").reset_index(
        drop=True
    )
    table.attrs |= {which: results.attrs[which] for which in ("rejected", "faults")}
    table.attrs["blocks"] = all_together(changes, tolerance) if len(changes) > 1 else []
    return table


def _change(mine: Trials, rival: Trials) -> tuple[Ranking, Change]:
    """By what, and by how much the first is higher."""
    return metric_of([*mine, *rival]), change_of(scores(mine), scores(rival))


def _variants(trials: Trials, name: str) -> list[Trials]:
    """The trials of a method, those that differ in the seed alone together."""
    found: dict[str, Trials] = {}
    for trial in trials:
        if trial["label"] == name:
            found.setdefault(trial["trial"], []).append(trial)
    if not found:
        raise BadInput(f"--method: no {name!r} in the results{nearest(name, {t['label'] for t in trials})}")
    return list(found.values())


def _pairs(ours: Sequence[Trials], theirs: Sequence[Trials]) -> Iterator[tuple[Trials, Trials]]:
    """What is compared with what: variants of one block, in the same setting where there is one."""
    for mine in ours:
        rivals = [rival for rival in theirs if _meet(mine[0], rival[0])]
        same = [rival for rival in rivals if rival[0]["training"] == mine[0]["training"]]
        others = [] if same else [r for r in rivals if not any(_alike(r[0], other[0]) for other in ours)]
        yield from product([mine], same or others)


def _meet(mine: dict[Any, Any], rival: dict[Any, Any]) -> bool:
    """Whether two trials are of one model and data set, and of one density unless one of them is dense."""
    dense = "dense" in (mine["control"], rival["control"])
    return all(mine[name] == rival[name] for name in ("model", "dataset")) and (
        dense or mine["density_requested"] == rival["density_requested"]
    )


def _alike(rival: dict[Any, Any], other: dict[Any, Any]) -> bool:
    return _meet(rival, other) and bool(rival["training"] == other["training"])


def _row(mine: Trials, rival: Trials, tolerance: float) -> dict[str, Any]:
    first, other, now, was = mine[0], rival[0], scores(mine), scores(rival)
    settings = dict.fromkeys(trial["training"] or "as set" for trial in (first, other))
    effect, common = paired(now, was), now.keys() & was.keys()
    metric = metric_of([*mine, *rival])
    verdict, basis = judged(now, was, tolerance, metric)
    return {
        "method": first["label"],
        "against": other["label"],
        "model": first["model"],
        "dataset": first["dataset"],
        "density": min(first["density_requested"], other["density_requested"]),
        "setting": " against ".join(settings),
        "seeds": effect.n,
        "metric": metric.title,
        "better": metric.better,
        "score": mean(now, common),
        "score_against": mean(was, common),
        "top1": mean(now, common) if metric is TOP1 else None,
        "top1_against": mean(was, common) if metric is TOP1 else None,
        "difference": effect.mean,
        "difference_low": effect.low,
        "difference_high": effect.high,
        "p": p_value(differences(now, was)),
        "verdict": verdict,
        "basis": basis,
    }


def _said(rows: Sequence[Mapping[Any, Any]]) -> str:
    """The metrics of the rows, with the direction of what is better lower."""
    metrics = dict.fromkeys(map(ranking_of_row, rows))
    return ", ".join(
        "top-1 in percent" if one is TOP1 else f"{one.title}, {one.direction}" for one in metrics
    )


def _effect(row: Mapping[Any, Any]) -> str:
    """A difference with its interval and unit."""
    metric = ranking_of_row(row)
    unit = "points" if metric.is_percent else metric.unit
    return f"{Column('difference', '', '', 'points', interval=True).text(row)} {unit}".rstrip()


def render_methods(table: pd.DataFrame) -> RenderableType:
    """What ``compare_methods`` found, a few lines a row: no width of a terminal hides a figure."""
    from rich.text import Text

    rows = rows_of(table)
    lines = [(f"{rows[0]['method']} against {rows[0]['against']}, {_said(rows)}, paired by seed", "bold")]
    several = len({(row["model"], row["dataset"], row["density"]) for row in rows}) < len(rows)
    for row in rows:
        place = f"{row['model']} on {row['dataset']} at density {row['density']:g}"
        lines.append(("", ""))
        lines.append((f"{place} ({row['setting']})" if several or "against" in row["setting"] else place, ""))
        lines.append((f"  {row['verdict']}: {_effect(row)} ({row['basis']})", _style(row)))
        p = "" if show("p", row["p"]) == MISSING else f", p = {show('p', row['p'])}".replace("= <", "< ")
        corrected = (
            f" (Holm over {len(rows)} rows: {show('p', row['p_holm'])})" if p and len(rows) > 1 else ""
        )
        kind = kind_of(ranking_of_row(row))
        means = f"{show(kind, row['score'])} against {show(kind, row['score_against'])}"
        lines.append((f"  {means} over {counted(row['seeds'], 'seed')}{p}{corrected}", ""))
    for row in table.attrs.get("blocks", []):
        said = f"all {row['of']} together: {row['verdict']}: {_effect(row)} ({row['basis']})"
        lines += [("", ""), (said, _style(row))]
    return Text("\n").join(Text(line, style=style) for line, style in lines)


def _style(row: Mapping[Any, Any]) -> str:
    return {"worse": "red", "better": "green"}.get(row["verdict"], "")
