"""Which methods differ: Friedman over complete repetitions, then every two methods with Holm, and who can't be told
from whom.

A repetition is one seed on one block (model, data set and density), also where there are several blocks: with the
one to four blocks that a board has, tests over blocks alone (Demšar 2006) could tell nothing. What is found is about
these blocks; of others it says nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dstbench.errors import BadInput, nearest
from dstbench.report.evidence.cliques import maximal_sets
from dstbench.report.evidence.pairs import ALPHA, TESTS, Floats, Pairs, all_pairs, holm, seed_noise
from dstbench.report.evidence.tried import Block, Repetition, Tried, repetitions, tried_methods
from dstbench.report.statistics import FEWEST, critical_t, mean_interval, repetitions_needed
from dstbench.results.ranking import Ranking
from dstbench.results.table import Paths, frame, read

SHOWN = 20  # methods that are drawn, and that the noise is taken from: the best
BARS = 24
HALF = 0.5  # the difference that repetitions are worked out for: points of a metric in per cent, percent of another


@dataclass(frozen=True)
class Ranked:
    """A method with its mean rank over complete repetitions (1 = the best, ties share; None where it isn't in
    them) and its mean gain over all its ``n``."""

    name: str
    rank: float | None
    gain: float
    n: int


@dataclass(frozen=True)
class Friedman:
    """Friedman's test that all methods are the same: χ² with ``freedom`` degrees, corrected for ties."""

    statistic: float
    freedom: int
    p: float
    methods: int
    repetitions: int


@dataclass(frozen=True)
class Need:
    """How many seeds of a block it takes to see a difference, with 80 % power at Holm's first step."""

    what: str
    comparisons: int
    critical_t: float | None  # with the repetitions that are there
    seeds: int | None  # None: not known, or more than anybody runs


@dataclass(frozen=True)
class Against:
    """One method minus a baseline, in gains, paired by repetition, with the 95 % t-interval of each alone, p
    and p corrected for all methods (Holm)."""

    name: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``can't tell``."""
        if self.p_holm is None or self.p_holm >= ALPHA or not self.difference:
            return "can't tell"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Groups:
    """What repetitions say of the differences between methods, controls apart.

    ``methods`` are the best first; ``pairs``, ``told`` (the pairs that are told apart) and ``bars`` index them: the
    largest sets among the ``shown`` best of which no two are told apart. ``apart`` names what isn't ranked and why,
    ``test`` is "t" or "wilcoxon".
    """

    methods: tuple[Ranked, ...]
    blocks: tuple[Block, ...]
    complete: tuple[Repetition, ...]
    apart: tuple[str, ...]
    friedman: Friedman | None
    test: str
    pairs: Pairs
    told: tuple[tuple[int, int], ...]
    bars: tuple[tuple[int, ...], ...]
    more_bars: int
    deviation: float | None  # ``seed_noise`` of the shown
    difference: float  # what ``needs`` are for, in the metric's unit
    needs: tuple[Need, ...]
    tried: tuple[Tried, ...]

    @property
    def metric(self) -> Ranking:
        """What all its methods are ranked by."""
        return self.tried[0].metric

    @property
    def shown(self) -> int:
        """How many of the best are drawn."""
        return min(len(self.methods), SHOWN)


def groups(paths: Paths, test: str = "t", difference: float = HALF) -> list[Groups]:
    """Which methods of results folders can be told apart by the metric, and which can't.

    One for each set of blocks that have methods in common. ``test`` of every two methods: "t", or "wilcoxon", which
    with n repetitions can't give a p below 2^(1 − n). ``difference``: points of a metric in per cent, or percent of
    another, for which the repetitions needed are worked out. Raises BadInput where a folder doesn't exist, and for a
    test or difference that is none.
    """
    return groups_of(tried_methods(frame(read(paths).records), by_name=True), test, difference)


def groups_of(tried: Sequence[Tried], test: str = "t", difference: float = HALF) -> list[Groups]:
    """The groups of methods."""
    if test not in TESTS:
        raise BadInput(f"test: expected one of {', '.join(TESTS)}, got {test!r}{nearest(test, TESTS)}")
    if not 0 < difference < 100:
        raise BadInput(f"difference: expected points or percent between 0 and 100, got {difference!r}")
    methods = [method for method in tried if not method.control and method.gains]
    controls = [method for method in tried if method.control]
    return [
        _groups(part, [*part, *(c for c in controls if c.metric == part[0].metric)], test, difference)
        for part in _connected(methods)
        if len(part) > 1
    ]


def _connected(methods: Sequence[Tried]) -> list[list[Tried]]:
    """Methods that share blocks, directly or by way of others."""
    parts: list[tuple[set[Block], list[Tried]]] = []
    for method in methods:
        blocks = {repetition.block for repetition in method.gains}
        near = [part for part in parts if part[0] & blocks]
        merged = (blocks.union(*(part[0] for part in near)), [*(m for part in near for m in part[1]), method])
        parts = [*(part for part in parts if part not in near), merged]
    return [sorted(members, key=lambda method: method.name) for _, members in parts]


def _groups(methods: Sequence[Tried], tried: Sequence[Tried], test: str, difference: float) -> Groups:
    where = [r for r in repetitions(methods) if any(r in method.gains for method in methods)]
    gains = np.array([[method.gains.get(r, np.nan) for r in where] for method in methods])
    rows, columns = _complete(gains)
    ranks = dict(zip(rows, _mean_ranks(gains[np.ix_(rows, columns)]), strict=True))
    means = [sum(method.gains.values()) / len(method.gains) for method in methods]
    order = sorted(range(len(methods)), key=lambda i: (ranks.get(i, math.inf), -means[i], methods[i].name))
    pairs = all_pairs(gains[order], test)
    friedman = _friedman(gains[np.ix_(rows, columns)])
    ranked = {methods[i].name for i in rows}
    told = _told(pairs, friedman, [methods[i].name in ranked for i in order])
    bars = [bar for bar in maximal_sets(min(len(order), SHOWN), told) if len(bar) > 1]
    if not methods[0].metric.is_percent:  # percent of what the best gives
        difference = difference / 100 * abs(max(means))
    deviation = seed_noise(gains[order[:SHOWN]], [r.block for r in where])
    return Groups(
        tuple(Ranked(methods[i].name, ranks.get(i), means[i], len(methods[i].gains)) for i in order),
        tuple(dict.fromkeys(r.block for r in where)),
        tuple(where[column] for column in columns),
        tuple(_apart(methods, rows, where, columns)),
        friedman,
        test,
        pairs,
        tuple(sorted(told)),
        tuple(bars[:BARS]),
        len(bars[BARS:]),
        deviation,
        difference,
        tuple(_needs(len(order), len(columns), deviation, difference)),
        tuple(tried),
    )


def _told(pairs: Pairs, friedman: Friedman | None, ranked: Sequence[bool]) -> set[tuple[int, int]]:
    """The pairs that Holm tells apart; of those in Friedman's test none where it sees no difference anywhere."""
    told = zip(pairs.first[pairs.told].tolist(), pairs.second[pairs.told].tolist(), strict=True)
    if friedman is None or friedman.p < ALPHA:
        return set(told)
    return {(i, j) for i, j in told if not (ranked[i] and ranked[j])}


def _complete(gains: Floats) -> tuple[list[int], list[int]]:
    """The methods and repetitions that make a table without holes: what has the most holes goes first, repetitions
    before methods where they have as many."""
    known = ~np.isnan(gains)
    rows, columns = np.arange(known.shape[0]), np.arange(known.shape[1])
    while not (here := known[np.ix_(rows, columns)]).all():
        by_row, by_column = here.mean(axis=1), here.mean(axis=0)
        if by_column.min() <= by_row.min():
            columns = np.delete(columns, by_column.argmin())
        else:
            rows = np.delete(rows, by_row.argmin())
    return rows.tolist(), columns.tolist()


def _mean_ranks(gains: Floats) -> list[float]:
    if not gains.shape[1]:
        return [math.nan] * gains.shape[0]
    return [float(rank) for rank in _ranks(gains).mean(axis=1)]


def _ranks(gains: Floats) -> Floats:
    """Of each method (a row) in each repetition (a column): 1 is the highest, ties share."""
    import pandas as pd

    ranks: Floats = pd.DataFrame(-np.round(gains, 9)).rank().to_numpy()  # sums' last bits part no tie
    return ranks


def _friedman(gains: Floats) -> Friedman | None:
    """None for less than three methods or two repetitions, and where every method gives the same.

    Conover 1999, as in scipy.stats, which takes longer to import than this page's tables to make.
    """
    from scipy.special import chdtrc

    methods, n = gains.shape
    rounded = np.round(gains, 9)
    if methods < 3 or n < 2 or (rounded == rounded[:1]).all():
        return None
    tied = [np.unique(column, return_counts=True)[1] for column in rounded.T]
    ties = sum(int((count * (count * count - 1)).sum()) for count in tied)
    correction = 1 - ties / (methods * (methods * methods - 1) * n)
    squares = float((_ranks(gains).sum(axis=1) ** 2).sum())
    statistic = (12 / (methods * n * (methods + 1)) * squares - 3 * n * (methods + 1)) / correction
    return Friedman(statistic, methods - 1, float(chdtrc(methods - 1, statistic)), methods, n)


def _apart(
    methods: Sequence[Tried], rows: Sequence[int], where: Sequence[Repetition], columns: Sequence[int]
) -> Iterator[str]:
    """What isn't in the ranks, and why."""
    ranked, complete = set(rows), [where[column] for column in columns]
    for repetition in where:
        if repetition not in complete:
            missing = [method.name for method in methods if repetition not in method.gains]
            yield f"{repetition}: no result of {_few(missing)}"
    for place, method in enumerate(methods):
        if place not in ranked:
            ends = Counter(method.missing.get(r, "not run") for r in complete if r not in method.gains)
            listed = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
            yield f"{method.name}: no result in {ends.total()} of {len(complete)} repetitions ({listed})"


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _needs(methods: int, n: int, deviation: float | None, difference: float) -> Iterator[Need]:
    pairs = methods * (methods - 1) // 2
    kinds = {
        "any two methods": pairs,
        "any method and a baseline named beforehand": methods - 1,
        "two methods named beforehand": 1,
    }
    for what, comparisons in kinds.items():
        if comparisons > 1 or what.startswith("two"):
            needed = None if deviation is None else repetitions_needed(difference, deviation, comparisons)
            yield Need(what, comparisons, critical_t(n, comparisons) if n >= FEWEST else None, needed)


def against_each(tests: Sequence[Groups], baseline: str | None) -> list[list[Against]]:
    """``against`` for each of several, in their order; a baseline that one of them lacks has no rows there. Raises
    BadInput for one that all lack."""
    if baseline is None:
        return [[] for _ in tests]
    names = {method.name for one in tests for method in one.tried}
    if tests and baseline not in names:
        raise BadInput(f"baseline: no method {baseline!r} in the results{nearest(baseline, names)}")
    return [
        against(one, baseline) if any(method.name == baseline for method in one.tried) else []
        for one in tests
    ]


def against(groups: Groups, baseline: str, most: int | None = None) -> list[Against]:
    """Every method minus a baseline, which may be a control, paired by repetition; the best first, ``most`` of them.

    Dense stands beside every density. Raises BadInput for a baseline that isn't there.
    """
    by_name = {method.name: method for method in groups.tried}
    if baseline not in by_name:
        raise BadInput(f"baseline: no method {baseline!r} in the results{nearest(baseline, by_name)}")
    blocks = groups.blocks
    theirs = _beside_every_density(by_name[baseline], blocks)
    rows = []
    for method in groups.methods:
        if method.name != baseline:
            ours = by_name[method.name].gains
            common = sorted(ours.keys() & theirs.keys())
            rows.append((method.name, [ours[r] - theirs[r] for r in common]))
    width = max((len(values) for _, values in rows), default=0)
    table = np.array([[*values, *[np.nan] * (width - len(values))] for _, values in rows]).reshape(
        len(rows), width
    )
    p = TESTS[groups.test](table)[3]
    return [
        _against(name, values, float(one), float(corrected))
        for (name, values), one, corrected in list(zip(rows, p, holm(p), strict=True))[:most]
    ]


def _against(name: str, values: Sequence[float], p: float, p_holm: float) -> Against:
    interval = mean_interval(values)
    known = not math.isnan(p)
    return Against(
        name,
        interval.n,
        interval.mean,
        interval.low,
        interval.high,
        p if known else None,
        p_holm if known else None,
    )


def _beside_every_density(method: Tried, blocks: Sequence[Block]) -> dict[Repetition, float]:
    """A method's gains; those of dense at every density of its model and data set."""
    if method.control != "dense":
        return method.gains
    return {
        Repetition(block, r.seed): value
        for r, value in method.gains.items()
        for block in blocks
        if block[:2] == r.block[:2]
    }
