"""Trials as repetitions: which methods were tried, what each is made of, and what it gave at which seed and block.

A repetition is one seed on one block (model, data set and density). Trials of one repetition share their data, its
order, the initial weights and, where init and structure are the same, the initial masks: they aren't independent of
each other, repetitions are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from dstbench.hookspecs import STRATEGIES
from dstbench.report.boards import is_about_speed
from dstbench.report.scores import gain
from dstbench.report.table_rows import rows_of
from dstbench.report.values import is_missing, ranking_of_row
from dstbench.results.ranking import Ranking
from dstbench.results.record import canonical
from dstbench.results.table import settings_text

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[Any, Any]]
Marks = Mapping[tuple[str, str, str | None], str]
"""(kind, name, version) -> what tells it apart, where there are several; "data" is the kind of fingerprints."""


_COLUMNS = (
    "label", "control", *STRATEGIES, "model", "dataset", "density_requested", "seed", "trial", "versions",
    "dataset_fingerprint", "status", "score", "metric", "better",
)  # fmt: skip


class Block(NamedTuple):
    """What can be compared with each other: one model, data set and density."""

    model: str
    dataset: str
    density: float

    def __str__(self) -> str:
        """``small_cnn on digits at density 0.1``."""
        return f"{self.model} on {self.dataset} at density {self.density:g}"


class Repetition(NamedTuple):
    """One seed on one block."""

    block: Block
    seed: int

    def __str__(self) -> str:
        """``small_cnn on digits at density 0.1, seed 3``."""
        return f"{self.block}, seed {self.seed}"


@dataclass(frozen=True)
class Tried:
    """One method with what it gave; ``name`` is its alone."""

    name: str
    control: str | None
    parts: Mapping[str, str]  # kind -> component
    setting: str  # all that was set beside these
    versions: Mapping[
        str, str
    ]  # kind -> how its part ends, where results hold several versions of that component
    metric: Ranking  # of all its repetitions
    gains: dict[Repetition, float] = field(default_factory=dict)  # the metric, turned so that more is better
    missing: dict[Repetition, str] = field(default_factory=dict)  # how trials without one ended


def tried_methods(trials: pd.DataFrame, by_name: bool = False) -> list[Tried]:
    """The methods of a frame from ``load_results``, controls too, in the order of their names.

    What differs in settings, in a component's version or in the data's fingerprint is told apart by name, and never
    put together. ``by_name``: what has one label is one method on all blocks, whose parameters may follow the block,
    unless some block has several of it. What is ranked by different metrics is told apart, under the same name: no
    block, and no comparison, has both. Trials on noise, which was made to be timed on, are no evidence: there are
    none here.
    """
    return named_methods(identified(trials), by_name)


Identified = list[tuple[dict[str, Rows], Marks]]


def identified(trials: pd.DataFrame) -> Identified:
    """Of each metric the trials by method, and what tells versions apart."""
    rows: Rows = rows_of(trials[list(_COLUMNS)])
    rows = [row for row in rows if not is_about_speed(row["dataset"])]
    known = {row["dataset"]: row for row in rows if row["status"] == "ok"}
    metrics: dict[Ranking, Rows] = {}
    for row in rows:  # one that failed is of its data set's
        named = {key: known.get(row["dataset"], row)[key] for key in ("metric", "better")}
        metrics.setdefault(ranking_of_row(named), []).append(row | named)
    return [_of_one_metric(part) for part in metrics.values()]


def _of_one_metric(rows: Rows) -> tuple[dict[str, Rows], Marks]:
    settings = {text: _setting(json.loads(text)) for text in dict.fromkeys(row["trial"] for row in rows)}
    for row in rows:
        row["setting"] = settings[row["trial"]]
    marks = _marks(rows)
    return _by_identity(rows, marks), marks


def named_methods(parts: Identified, by_name: bool = False) -> list[Tried]:
    """``tried_methods`` of what was ``identified``."""
    return [method for grouped, marks in parts for method in _named(grouped, marks, by_name)]


def _named(grouped: Mapping[str, Rows], marks: Marks, by_name: bool) -> list[Tried]:
    if by_name:
        grouped = _by_label(grouped, marks)
    names = _names(grouped, marks)
    methods = [_tried(names[key], group, marks) for key, group in grouped.items()]
    return sorted(methods, key=lambda method: method.name)


def _by_identity(rows: Rows, marks: Marks) -> dict[str, Rows]:
    same: dict[tuple[Any, ...], str] = {}
    grouped: dict[str, Rows] = {}
    for row in rows:
        parts = tuple(row[key] for key in ("setting", "label", "control", *STRATEGIES, "versions"))
        if parts not in same:
            same[parts] = canonical([*parts[:3], _parts(row, marks)])
        grouped.setdefault(same[parts], []).append(row)
    return grouped


def _by_label(grouped: Mapping[str, Rows], marks: Marks) -> dict[str, Rows]:
    labels: dict[str, list[str]] = {}
    for key, rows in grouped.items():
        labels.setdefault(
            canonical([rows[0]["label"], rows[0]["control"], _versioned(rows[0], marks)]), []
        ).append(key)
    merged: dict[str, Rows] = {}
    for label, keys in labels.items():
        blocks = Counter(block for key in keys for block in {_block(row, marks) for row in grouped[key]})
        if max(blocks.values()) == 1:
            merged[label] = [row for key in keys for row in grouped[key]]
        else:
            merged |= {key: grouped[key] for key in keys}
    return merged


def repetitions(methods: Sequence[Tried]) -> list[Repetition]:
    """All repetitions that any of these was tried in, in order."""
    return sorted({repetition for method in methods for repetition in (*method.gains, *method.missing)})


def _tried(name: str, rows: Sequence[Mapping[Any, Any]], marks: Marks) -> Tried:
    method = Tried(
        name,
        rows[0]["control"],
        _parts(rows[0], marks),
        rows[0]["setting"],
        _versioned(rows[0], marks),
        ranking_of_row(rows[0]),
    )
    for row in rows:
        where = Repetition(_block(row, marks), row["seed"])
        if row["status"] == "ok" and not is_missing(row["score"]):
            method.gains.setdefault(where, gain(row))
        else:
            method.missing[where] = row["status"] if row["status"] != "ok" else f"no {method.metric.name}"
    for where in method.gains:
        method.missing.pop(where, None)
    return method


def _block(row: Mapping[Any, Any], marks: Marks) -> Block:
    versions = _versions(row)
    names = {
        kind: row[kind] + marks.get((kind, row[kind], versions.get(kind)), "")
        for kind in ("model", "dataset")
    }
    data = marks.get(("data", row["dataset"], row["dataset_fingerprint"]), "")
    return Block(names["model"], names["dataset"] + data, row["density_requested"])


def _setting(trial: Mapping[str, Any]) -> str:
    """What was set beside the five choices, as text; "" for nothing."""
    more = {name: value for name, value in trial["recipe"].items() if name not in STRATEGIES}
    texts = (settings_text(trial), settings_text({"training": more}) if more else "")
    return ", ".join(filter(None, texts))


def _parts(row: Mapping[Any, Any], marks: Marks) -> dict[str, str]:
    """Kind -> component, with its version where there are several of it."""
    marked = _versioned(row, marks)
    return {kind: row[kind] + marked.get(kind, "") for kind in STRATEGIES if row[kind] is not None}


def _versioned(row: Mapping[Any, Any], marks: Marks) -> dict[str, str]:
    """Kind -> the mark of its component's version, of those that have one."""
    versions = _versions(row)
    marked = {kind: marks.get((kind, row[kind], versions.get(kind)), "") for kind in STRATEGIES}
    return {kind: mark for kind, mark in marked.items() if mark}


def _versions(row: Mapping[Any, Any]) -> Mapping[str, str]:
    """Kind -> version of a trial's components; {} where it didn't get that far."""
    return _versions_in(row["versions"] or "")


@lru_cache(1024)  # trials agree in most of it
def _versions_in(text: str) -> Mapping[str, str]:
    parts = (part.rpartition(" v") for part in text.split(", ") if part)
    return {kind: version for kind, _, version in parts}


def _marks(rows: Sequence[Mapping[Any, Any]]) -> Marks:
    """What tells several versions of one component, and several states of one data set, apart."""
    seen: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for kind, version in _versions(row).items():
            if row.get(kind) is not None:
                seen.setdefault((kind, row[kind]), set()).add(version)
        if not is_missing(row["dataset_fingerprint"]):
            seen.setdefault(("data", row["dataset"]), set()).add(row["dataset_fingerprint"])
    several = {key: values for key, values in seen.items() if len(values) > 1}
    return {
        (kind, name, value): f" (data {value[:8]})" if kind == "data" else f" v{value}"
        for (kind, name), values in several.items()
        for value in values
    }


def _names(grouped: Mapping[str, Sequence[Mapping[Any, Any]]], marks: Marks) -> dict[str, str]:
    """A name for each method: its label, with more where several have it."""
    names = {key: str(rows[0]["label"]) for key, rows in grouped.items()}
    tellers: tuple[Callable[[Mapping[Any, Any]], str], ...] = (
        lambda row: row["setting"],
        lambda row: ", ".join(f"{kind} {part}" for kind, part in _parts(row, marks).items()),
    )
    for tell in tellers:
        count = Counter(names.values())
        names = {
            key: f"{name} ({tell(grouped[key][0])})" if count[name] > 1 else name
            for key, name in names.items()
        }
    return names
