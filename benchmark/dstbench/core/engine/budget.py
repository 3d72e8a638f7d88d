"""Exact integer budgets: dividing n weights among layers in proportion, within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from dstbench.api import Infeasible, StrategyError


def apportion(
    weights: Mapping[str, float], n: int, lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, int]:
    """Divide ``n`` in proportion to ``weights`` by water-filling, exactly.

    The quota of layer l is ``min(max(λ·weight_l, lower_l), upper_l)`` with λ such that they sum to n;
    floors are handed out first, then the remainder to the largest fractional parts (first in order on a
    tie). With weights Σ shape this is ERK's solver: layers that reach their size are the dense ones.
    What exceeds the bounds of all layers with a positive weight goes to the others by their free room.

    Raises Infeasible if n lies outside [Σ lower, Σ upper], and StrategyError on a weight that is negative
    or not finite.
    """
    floor, room = sum(lower.values()), sum(upper.values())
    if not floor <= n <= room:
        bound, limits = ("least", lower) if n < floor else ("most", upper)
        heaviest = max(limits, key=limits.__getitem__, default="")
        raise Infeasible(
            f"{n} weights can't be divided among {len(weights)} layers, which take at least {floor} and at most "
            f"{room}: {heaviest!r} alone takes at {bound} {limits.get(heaviest, 0)}"
        )
    shares = {name: _exact(name, weight) for name, weight in weights.items()}
    reachable = sum(upper[name] if share > 0 else lower[name] for name, share in shares.items())
    if n > reachable:
        free = {name: Fraction(upper[name] - lower[name]) for name, share in shares.items() if share == 0}
        full = {name: upper[name] for name, share in shares.items() if share > 0}
        rest = _water_fill(free, n - sum(full.values()), lower, upper)
        return _round({name: rest[name] if name in rest else Fraction(full[name]) for name in shares}, n)
    return _round(_water_fill(shares, n, lower, upper), n)


def _exact(name: str, weight: float) -> Fraction:
    """A weight as an exact fraction."""
    if not 0 <= weight < float("inf"):
        raise StrategyError(f"layer {name!r}: a share must be finite and >= 0, got {weight}")
    return Fraction(weight)


def _water_fill(
    weights: Mapping[str, Fraction], n: int, lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, Fraction]:
    """Solve Σ clip(λ·w, lower, upper) = n. Every pass fixes at least one layer to a bound, for good."""
    quota: dict[str, Fraction] = {}
    free = dict(weights)
    left = Fraction(n)
    while free:
        total = sum(free.values())
        level = left / total if total else Fraction(0)
        wish = {name: level * weight for name, weight in free.items()}
        over = {name: upper[name] for name in free if wish[name] > upper[name]}
        under = {name: lower[name] for name in free if wish[name] < lower[name]}
        excess = sum(wish[name] - bound for name, bound in over.items())
        lack = sum(bound - wish[name] for name, bound in under.items())
        # Fixing the heavier side moves the level towards the other one, so it can't undo itself.
        fixed = over if excess >= lack and over else under
        if not fixed:
            return quota | wish
        for name, bound in fixed.items():
            quota[name] = Fraction(bound)
            left -= bound
            del free[name]
    return quota


def _round(quota: Mapping[str, Fraction], n: int) -> dict[str, int]:
    """Floors, then one more for the largest fractional parts until the sum is n."""
    counts = {name: int(value) for name, value in quota.items()}
    order = sorted(quota, key=lambda name: counts[name] - quota[name])  # stable: first in order on a tie
    for name in order[: n - sum(counts.values())]:
        counts[name] += 1
    return counts
