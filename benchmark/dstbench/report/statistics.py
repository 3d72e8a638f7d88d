"""Statistics over seeds: intervals, paired differences, Holm, ranks, Pareto fronts.

All intervals are two-sided Student-t intervals of a mean (standard deviation with ddof = 1): with three
seeds they hold their nominal coverage, where percentile bootstraps don't. One seed gives no interval.
scipy.special is imported where it is used, scipy.stats (0.7 s) only for what needs it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
FEWEST = 3  # seeds below which nothing is ever called a difference
EVIDENCE = 2  # seeds below which the order of figures is chance: rows keep it, but aren't numbered
ROUNDING = 64 * sys.float_info.epsilon
"""Relative to the values, and to 100 at least, since differences of percents carry the percents' rounding."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its interval. ``low`` and ``high`` are None where there is none: where n < 2, and where all
    values are equal, since what never varied says nothing of how it may vary. ``mean`` is None where n = 0."""

    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> MeanInterval:
    """Mean and t-interval: m ± t(1 − (1 − c)/2, n − 1) · s/√n. NaN values are left out."""
    values = [float(value) for value in values if not math.isnan(value)]
    n = len(values)
    if n == 0:
        return MeanInterval(0, None)
    mean = math.fsum(values) / n
    deviation = _deviation(values, mean)
    if deviation is None:
        return MeanInterval(n, mean)
    half = _t_quantile(0.5 + confidence / 2, n - 1) * deviation / math.sqrt(n)
    return MeanInterval(n, mean, mean - half, mean + half)


def differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """``ours − theirs`` on the seeds that both have, in the order of the seeds."""
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> MeanInterval:
    """The mean difference ``ours − theirs`` over common seeds, with its t-interval."""
    return mean_interval(differences(ours, theirs))


def p_value(values: Sequence[float]) -> float | None:
    """Two-sided t-test that the mean of these (paired) differences is zero.

    None with fewer than three seeds, and where all are equal but for rounding: a t-test has nothing to say there.
    """
    n = len(values)
    if n < FEWEST:
        return None
    mean = math.fsum(values) / n
    deviation = _deviation(values, mean)
    if deviation is None:
        return None
    from scipy.special import stdtr

    return float(2 * stdtr(n - 1, -abs(mean) / (deviation / math.sqrt(n))))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Holm 1979); None stays None and isn't counted as a comparison."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for position, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - position)))
        adjusted[index] = largest
    return adjusted


def critical_t(n: int, comparisons: int = 1, confidence: float = CONFIDENCE) -> float:
    """The |t| beyond which Holm's first step tells a paired difference over n repetitions, of so many comparisons."""
    return _t_quantile(1 - (1 - confidence) / (2 * comparisons), n - 1)


def power(n: int, effect: float, comparisons: int = 1, confidence: float = CONFIDENCE) -> float:
    """The chance that a paired t-test over n repetitions, at Holm's first step, tells a difference of ``effect``
    standard deviations: P(|T| > t*), T noncentral t with n − 1 degrees of freedom and noncentrality effect · √n,
    t* = ``critical_t`` (Cohen 1988). The other tail, a difference told in the wrong direction, counts as none."""
    from scipy.special import nctdtr

    below = float(nctdtr(n - 1, effect * math.sqrt(n), critical_t(n, comparisons, confidence)))
    return 1 - below if math.isfinite(below) else 1.0  # beyond what the series adds up: no doubt is left


def repetitions_needed(
    difference: float, deviation: float, comparisons: int = 1, sure: float = 0.8, most: int = 100_000
) -> int | None:
    """The fewest repetitions (seeds of a block) at which ``power`` reaches ``sure`` for a difference of two methods.

    deviation: the standard deviation of one paired difference, in the same unit. None where it takes more than
    ``most``. Raises ValueError unless both are > 0.
    """
    if not (difference > 0 and deviation > 0):
        raise ValueError(f"expected a difference and a deviation > 0, got {difference!r} and {deviation!r}")
    low, high = FEWEST - 1, FEWEST  # low never suffices: below it nothing is called a difference
    while power(high, difference / deviation, comparisons) < sure:
        low, high = high, 2 * high
        if low >= most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        reached = power(middle, difference / deviation, comparisons) >= sure
        low, high = (low, middle) if reached else (middle, high)
    return high if high <= most else None


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which ``(cost, gain)`` points no other beats: none as cheap with more gain, none cheaper with as much.

    Points that are equal stand or fall together; a point with NaN is never on the front.
    """
    front = [False] * len(points)
    best, cost_of_best = -math.inf, math.nan
    known = [index for index, point in enumerate(points) if not any(map(math.isnan, point))]
    for index in sorted(known, key=lambda i: (points[i][0], -points[i][1])):
        cost, gain = points[index]
        if gain > best or (gain == best and cost == cost_of_best):
            front[index] = True
            best, cost_of_best = gain, cost
    return front


def mean_ranks(blocks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean rank of each method over blocks (1 = highest value; ties share the mean of their ranks).

    ``blocks[block][method]`` is a value. Only methods with a value in *every* block are ranked, among
    themselves: ranks over different blocks can't be compared.
    """
    if not blocks:
        return {}
    complete = sorted(set.intersection(*(set(values) for values in blocks.values())))
    totals = dict.fromkeys(complete, 0.0)
    for values in blocks.values():
        for method in complete:
            above = sum(values[other] > values[method] for other in complete)
            ties = sum(values[other] == values[method] for other in complete)
            totals[method] += above + (ties + 1) / 2
    return {method: total / len(blocks) for method, total in totals.items()}


def _deviation(values: Sequence[float], mean: float) -> float | None:
    """The standard deviation; None where there is nothing to deviate from, or no more than rounding."""
    if len(values) < 2:
        return None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return deviation if deviation > ROUNDING * max(100.0, *map(abs, values)) else None


@cache
def _t_quantile(p: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))
