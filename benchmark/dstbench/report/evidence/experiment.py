"""Which of the methods make a factorial experiment: choices that were crossed, and what of it is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeVar

from dstbench.hookspecs import STRATEGIES
from dstbench.report.evidence.tried import Repetition, Tried, repetitions
from dstbench.results.ranking import TOP1, Ranking

CROSSED = (
    0.5  # a level is part of an experiment where it was tried with this share of the others' combinations
)

Cell = tuple[str, ...]  # a level of each factor
T = TypeVar("T")


@dataclass(frozen=True)
class Factor:
    """One choice with what was chosen, in order."""

    kind: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """Crossed choices with what each combination gave in each repetition, all else the same."""

    setting: str
    factors: tuple[Factor, ...]
    gains: dict[Repetition, dict[Cell, float]]  # the metric, turned so that more is better
    missing: dict[Repetition, dict[Cell, str]]  # how trials without one ended
    empty: tuple[Cell, ...]  # combinations that no repetition tried
    aside: tuple[str, ...]  # methods of the same setting that aren't part of it
    metric: Ranking = TOP1  # of all its methods

    @property
    def cells(self) -> int:
        """How many combinations there are, tried or not."""
        return prod(len(factor.levels) for factor in self.factors)


def experiments(methods: Sequence[Tried]) -> list[Experiment]:
    """The factorial experiments among methods: at least two choices crossed, two levels each or more.

    Methods that differ in anything but the five choices are never put into one, nor are two versions of a component:
    the one with the most results counts. Of named recipes, only those levels count that were tried with at least half
    of the combinations of the others. ``aside`` names the rest.
    """
    settings: dict[tuple[str, str], list[Tried]] = {}
    for method in methods:
        if not method.control:
            settings.setdefault((method.setting, method.metric.title), []).append(method)
    made = (_experiment(setting, group) for (setting, _), group in sorted(settings.items()))
    return [experiment for experiment in made if experiment]


def _experiment(setting: str, methods: Sequence[Tried]) -> Experiment | None:
    factors, crossed = _crossed(_of_one_version(methods))
    cells = list(product(*(factor.levels for factor in factors)))
    by_cell: dict[Cell, list[Tried]] = {}
    for method in crossed:
        by_cell.setdefault(_cell(method, factors), []).append(method)
    if len(factors) < 2 or len(by_cell) <= CROSSED * len(cells):
        return None
    everywhere = repetitions(crossed)
    gains = {cell: _merged([method.gains for method in group]) for cell, group in by_cell.items()}
    missing = {cell: _merged([method.missing for method in group]) for cell, group in by_cell.items()}
    return Experiment(
        setting,
        factors,
        {r: {cell: gains[cell][r] for cell in cells if r in gains.get(cell, ())} for r in everywhere},
        {
            r: {
                cell: missing[cell].get(r, "not run")
                for cell in cells
                if cell in gains and r not in gains[cell]
            }
            for r in everywhere
        },
        tuple(cell for cell in cells if cell not in by_cell),
        tuple(sorted({method.name for method in methods} - {method.name for method in crossed})),
        methods[0].metric,
    )


def _of_one_version(methods: Sequence[Tried]) -> list[Tried]:
    """Those made of one version of each component: the one with the most results, or the later in order."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for method in methods:
        for kind, mark in method.versions.items():
            counts.setdefault((kind, method.parts[kind].removesuffix(mark)), Counter())[mark] += len(
                method.gains
            )
    kept = {key: max(marks, key=lambda mark: (marks[mark], mark)) for key, marks in counts.items()}
    return [
        method
        for method in methods
        if all(
            kept[kind, method.parts[kind].removesuffix(mark)] == mark
            for kind, mark in method.versions.items()
        )
    ]


def _merged(parts: Sequence[dict[Repetition, T]]) -> dict[Repetition, T]:
    return {repetition: value for part in parts for repetition, value in part.items()}


def _cell(method: Tried, factors: Sequence[Factor]) -> Cell:
    return tuple(method.parts.get(factor.kind, "") for factor in factors)


def _factors(methods: Sequence[Tried]) -> tuple[Factor, ...]:
    """The choices that differ within a repetition: what follows the block is part of the block."""
    factors = []
    for kind in STRATEGIES:
        levels: dict[Repetition, set[str]] = {}
        for method in methods:
            for repetition in (*method.gains, *method.missing):
                levels.setdefault(repetition, set()).add(method.parts.get(kind, ""))
        if any(len(names) > 1 for names in levels.values()):
            factors.append(Factor(kind, tuple(sorted(set[str]().union(*levels.values())))))
    return tuple(factors)


def _crossed(methods: Sequence[Tried]) -> tuple[tuple[Factor, ...], list[Tried]]:
    """Without the levels that were tried with too few of the others' combinations, the rarest first."""
    kept = list(methods)
    while factors := _factors(kept):
        tried = {_cell(method, factors) for method in kept}
        cells = prod(len(factor.levels) for factor in factors)
        shares = {
            (place, level): count * len(factor.levels) / cells
            for place, factor in enumerate(factors)
            for level, count in Counter(cell[place] for cell in tried).items()
        }
        place, level = min(shares, key=lambda choice: (shares[choice], choice))
        if shares[place, level] >= CROSSED:
            break
        kept = [method for method in kept if _cell(method, factors)[place] != level]
    return factors, kept
