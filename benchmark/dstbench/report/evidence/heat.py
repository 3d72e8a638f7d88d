"""Every combination's mean, two choices across and a panel for each combination of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from dstbench.report.evidence.effects import Effects, Mean
from dstbench.report.evidence.experiment import Factor

ACROSS = ("prune", "grow", "structure", "init", "schedule")  # the first two that vary are the axes of a panel


@dataclass(frozen=True)
class Panel:
    """One table: what all its combinations have in common, and a row of means for each level of ``down``."""

    title: str
    down: Factor
    across: Factor
    rows: tuple[tuple[str, tuple[Mean, ...]], ...]


def panels(effects: Effects) -> list[Panel]:
    """The panels, in the order of the other choices' levels."""
    factors = effects.factors
    down, across = sorted(factors, key=lambda factor: ACROSS.index(factor.kind))[:2]
    others = sorted(
        (factor for factor in factors if factor not in (down, across)),
        key=lambda factor: ACROSS.index(factor.kind),
    )
    means = {mean.cell: mean for mean in effects.means}

    def mean(levels: dict[str, str]) -> Mean:
        return means[tuple(levels[factor.kind] for factor in factors)]

    made = []
    for chosen in product(*(factor.levels for factor in others)):
        common = {factor.kind: level for factor, level in zip(others, chosen, strict=True)}
        rows = tuple(
            (level, tuple(mean({**common, down.kind: level, across.kind: other}) for other in across.levels))
            for level in down.levels
        )
        title = (
            ", ".join(f"{kind} {level}" for kind, level in common.items()) or f"{down.kind} × {across.kind}"
        )
        made.append(Panel(title, down, across, rows))
    return made


def full(effects: Effects) -> int:
    """How many repetitions a combination has that none is missing of."""
    return len(effects.experiment.gains)


def span(effects: Effects) -> tuple[float, float]:
    """The lowest and the highest mean gain."""
    known: Sequence[float] = [mean.gain for mean in effects.means if mean.gain is not None]
    return (min(known), max(known)) if known else (0.0, 100.0)
