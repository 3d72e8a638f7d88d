"""Which choice matters: main effects and two-way interactions of a factorial experiment, over repetitions.

Each repetition (a seed on a block) is the whole experiment once: every effect is computed within it, by least
squares, and its interval is Student's t over the repetitions. That asks nothing of the trials inside a repetition,
which share initial weights and masks and differ in noise by orders of magnitude where some combinations collapse.
Intervals hold together with 95 % in each of three families (main effects, differences of two levels, interactions),
by Bonferroni: at confidence 1 − 0.05 / (effects of the family that differ in more than their sign). They are about
the blocks that are there, whose own differences widen them; about others they say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from dstbench.report.evidence.experiment import Cell, Experiment, Factor, experiments
from dstbench.report.evidence.model import (
    Array,
    Term,
    Variance,
    analysis_of_variance,
    estimable,
    fitted,
    is_full_rank,
)
from dstbench.report.evidence.tried import Repetition, tried_methods
from dstbench.report.statistics import CONFIDENCE, FEWEST, mean_interval
from dstbench.results.table import Paths, frame, read


@dataclass(frozen=True)
class Effect:
    """One effect, in percent points or the metric's own unit, more being better, with its simultaneous interval
    (None below three repetitions, and where all give the same). Of a main effect or an interaction ``levels`` are
    what it is of; of a difference, above and below."""

    term: str
    levels: tuple[str, ...]
    mean: float
    low: float | None
    high: float | None
    alike: int  # blocks in which it has the sign of the mean

    @property
    def told(self) -> bool:
        """Whether its interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def largest(self) -> float | None:
        """The largest size that its interval doesn't rule out."""
        return None if self.low is None or self.high is None else max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Family:
    """Effects whose intervals hold together, each at ``confidence``."""

    effects: tuple[Effect, ...]
    confidence: float

    def of(self, term: str) -> list[Effect]:
        """Those of one term."""
        return [effect for effect in self.effects if effect.term == term]


@dataclass(frozen=True)
class Mean:
    """What one combination gave: the mean gain over ``n`` repetitions; None over none."""

    cell: Cell
    gain: float | None
    n: int


@dataclass(frozen=True)
class Effects:
    """What a factorial experiment says of its choices, and what it doesn't.

    ``used`` are the repetitions that effects are computed from, ``unused`` those that have too few trials for it;
    ``inestimable`` names the terms that the trials can't tell apart; ``explained`` is the share of the differences
    between combinations' means that choices and their pairs account for, None where a combination is missing.
    """

    experiment: Experiment
    used: tuple[Repetition, ...]
    unused: tuple[Repetition, ...]
    mean: float | None  # gain of all combinations
    main: Family
    differences: Family
    interactions: Family
    variance: tuple[Variance, ...]
    inestimable: tuple[str, ...]
    explained: float | None
    means: tuple[Mean, ...]

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The choices."""
        return self.experiment.factors

    @property
    def blocks(self) -> int:
        """How many blocks effects are computed from."""
        return len({repetition.block for repetition in self.used})


def effects(paths: Paths) -> list[Effects]:
    """The effects of every factorial experiment in results folders: in percent points, or the metric's own
    unit, as gains: more is better.

    One for each setting in which at least two of init, structure, prune, grow and schedule were crossed; [] where
    none was. Raises BadInput where a folder doesn't exist.
    """
    return effects_of(experiments(tried_methods(frame(read(paths).records))))


def effects_of(made: Sequence[Experiment]) -> list[Effects]:
    """The effects of experiments."""
    return [_effects(experiment) for experiment in made]


def _effects(experiment: Experiment) -> Effects:
    factors = experiment.factors
    cells = list(dict.fromkeys(cell for values in experiment.gains.values() for cell in values))
    terms, inestimable = estimable(factors, cells)
    used = [
        r for r, values in experiment.gains.items() if terms and is_full_rank(terms, factors, list(values))
    ]
    fits = {r: fitted(terms, factors, experiment.gains[r]) for r in used}
    by_term = {term: {r: fits[r][1][place] for r in used} for place, term in enumerate(terms)}
    mains = {term: by_term[term] for term in terms if len(term.factors) == 1}
    pairs = {term: by_term[term] for term in terms if len(term.factors) == 2}
    data = [experiment.gains[r] for r in used]
    return Effects(
        experiment,
        tuple(used),
        tuple(r for r in experiment.gains if r not in fits),
        sum(fits[r][0] for r in used) / len(used) if used else None,
        _family(mains),
        _differences(mains),
        _family(pairs),
        tuple(analysis_of_variance(terms, factors, data)) if used else (),
        tuple(term.name for term in inestimable),
        _explained(terms, factors, data),
        _means(experiment),
    )


def _family(terms: Mapping[Term, Mapping[Repetition, Array]]) -> Family:
    confidence = _together(sum(term.distinct for term in terms))
    return Family(
        tuple(
            _effect(term.name, levels, {r: float(values[place]) for r, values in parts.items()}, confidence)
            for term, parts in terms.items()
            for place, levels in enumerate(term.cells)
            if parts
        ),
        confidence,
    )


def _differences(mains: Mapping[Term, Mapping[Repetition, Array]]) -> Family:
    """Every two levels of a choice, the higher first."""
    confidence = _together(sum(len(term.cells) * (len(term.cells) - 1) // 2 for term in mains))
    differences = []
    for term, parts in mains.items():
        for (i, (one,)), (j, (other,)) in combinations(enumerate(term.cells), 2):
            values = {r: float(effects[i] - effects[j]) for r, effects in parts.items()}
            if values and sum(values.values()) < 0:
                one, other, values = other, one, {r: -value for r, value in values.items()}
            if values:
                differences.append(_effect(term.name, (one, other), values, confidence))
    return Family(tuple(differences), confidence)


def _together(comparisons: int) -> float:
    return 1 - (1 - CONFIDENCE) / max(comparisons, 1)


def _effect(
    term: str, levels: tuple[str, ...], values: Mapping[Repetition, float], confidence: float
) -> Effect:
    interval = mean_interval(list(values.values()), confidence)
    mean = interval.mean or 0.0
    few = interval.n < FEWEST
    blocks: dict[object, list[float]] = {}
    for repetition, value in values.items():
        blocks.setdefault(repetition.block, []).append(value)
    alike = sum(sum(here) * mean > 0 for here in blocks.values())
    return Effect(term, levels, mean, None if few else interval.low, None if few else interval.high, alike)


def _explained(
    terms: Sequence[Term], factors: Sequence[Factor], data: Sequence[dict[Cell, float]]
) -> float | None:
    """R² of the terms on the means of combinations, where every repetition has all of them."""
    if not data or any(values.keys() != data[0].keys() for values in data):
        return None
    means = {cell: sum(values[cell] for values in data) / len(data) for cell in data[0]}
    lines = analysis_of_variance(terms, factors, [means])
    return 1 - lines[-1].share


def _means(experiment: Experiment) -> tuple[Mean, ...]:
    means = []
    for cell in Term(experiment.factors).cells:
        values = [gains[cell] for gains in experiment.gains.values() if cell in gains]
        means.append(Mean(cell, sum(values) / len(values) if values else None, len(values)))
    return tuple(means)
