"""Every two methods against each other, paired by repetition: thousands of tests at once, as arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dstbench.report.statistics import FEWEST, ROUNDING

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
ALPHA = 0.05


@dataclass(frozen=True)
class Pairs:
    """All pairs (first, second) of methods, one element each, NaN where there is none.

    ``mean`` and ``deviation`` are of the paired differences first − second over ``n`` common repetitions.
    """

    first: Integers
    second: Integers
    n: Integers
    mean: Floats
    deviation: Floats
    p: Floats
    p_holm: Floats

    @property
    def told(self) -> npt.NDArray[np.bool_]:
        """Which pairs Holm's correction tells apart."""
        return np.nan_to_num(self.p_holm, nan=1.0) < ALPHA

    @property
    def equal(self) -> int:
        """Pairs with enough repetitions whose differences are all the same: a test has nothing to say of them."""
        return int(((self.n >= FEWEST) & np.isnan(self.p)).sum())


def seed_noise(gains: Floats, blocks: Sequence[object]) -> float | None:
    """The standard deviation of one paired difference between two rows of ``gains`` over seeds of one block, in
    their unit: the root of Σ (n − 1) s² / Σ (n − 1) over all pairs and blocks. None where no block has two seeds,
    and where nothing varies.

    blocks: that of each column.
    """
    squares, freedom = 0.0, 0
    for block in dict.fromkeys(blocks):
        here = gains[:, [column for column, other in enumerate(blocks) if other == block]]
        for place in range(len(here) - 1):
            n, _, deviation, _ = paired_t(here[place] - here[place + 1 :])
            several = n > 1
            squares += float(((n - 1) * deviation**2)[several].sum())
            freedom += int((n - 1)[several].sum())
    return math.sqrt(squares / freedom) if squares > 0 else None


def paired_t(differences: Floats) -> tuple[Integers, Floats, Floats, Floats]:
    """n, mean, standard deviation (ddof = 1) and two-sided p of a t-test of each row, NaN left out.

    As ``statistics.p_value``: no p below three values, and none where all are equal but for rounding.
    """
    from scipy.special import stdtr

    known = ~np.isnan(differences)
    n = known.sum(axis=1)
    values = np.where(known, differences, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values.sum(axis=1) / n
        squares = np.where(known, (values - mean[:, None]) ** 2, 0.0).sum(axis=1)
        deviation = np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)
        varies = deviation > ROUNDING * np.maximum(100.0, np.abs(values).max(axis=1, initial=0.0))
        deviation = np.where(varies | (n < 2), deviation, 0.0)
        t = -np.abs(mean) / (deviation / np.sqrt(n))
        p = np.where(varies & (n >= FEWEST), 2 * stdtr(n - 1, t), np.nan)
    return n, mean, deviation, p


def signed_rank(differences: Floats) -> tuple[Integers, Floats, Floats, Floats]:
    """The same with Wilcoxon's signed-rank test, exact where there are few values and no ties (scipy)."""
    from scipy.stats import wilcoxon

    n, mean, deviation, p = paired_t(differences)
    for row in np.flatnonzero(~np.isnan(p)):
        values = differences[row]
        p[row] = wilcoxon(values[~np.isnan(values)]).pvalue
    return n, mean, deviation, p


TESTS: dict[str, Callable[[Floats], tuple[Integers, Floats, Floats, Floats]]] = {
    "t": paired_t,
    "wilcoxon": signed_rank,
}
"""What can be asked of paired differences, by the name that ``--test`` takes."""


def holm(p: Floats) -> Floats:
    """Holm's step-down correction (Holm 1979); NaN stays NaN and isn't counted as a comparison."""
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN comes last
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def all_pairs(gains: Floats, test: str = "t") -> Pairs:
    """Every two rows of ``gains`` (methods, repetitions; NaN where there is no result) against each other."""
    methods = len(gains)
    rows = [TESTS[test](gains[i] - gains[i + 1 :]) for i in range(methods - 1)]
    first, second = np.triu_indices(methods, k=1)
    if not rows:
        none = np.zeros(0)
        return Pairs(first, second, none.astype(np.int64), none, none, none, none)
    n, mean, deviation, p = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return Pairs(first, second, n, mean, deviation, p, holm(p))
