"""Schedules whose density falls while training."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, exp, pi

from dstbench.api import Clock, StrategyError, Target
from dstbench_plugins.checks import check_fraction
from dstbench_plugins.schedule.periods import Unit, check_period, period_of


@dataclass(frozen=True)
class Cubic:
    """Gradual pruning: sparsity rises as s_f + (s_i - s_f)(1 - progress)³ (GMP, arXiv 1710.01878).

    With ``regrow`` > 0 it is GraNet's (arXiv 2106.10404): a cosine-decayed fraction more is pruned and grown
    back at every update.
    """

    initial: float = 1.0  # density before the first update
    delta_t: int = 100
    start: float = 0.0  # as fractions of the steps
    stop: float = 0.75
    regrow: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t)
        check_fraction("initial", self.initial, above=True)
        check_fraction("regrow", self.regrow)
        check_fraction("stop", self.stop, above=True)
        check_fraction("start", self.start)
        if self.start > self.stop:
            raise StrategyError(f"start: expected at most the stop {self.stop}, got {self.start}")

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d_t(1-r), d_t) every ΔT steps from the start to the first multiple of ΔT at or past the stop."""
        first, last = self.start * clock.total_steps, self.stop * clock.total_steps
        return _falling(
            clock, density, self.initial, self.delta_t, first, last, lambda x: 1 - (1 - x) ** 3, self.regrow
        )


@dataclass(frozen=True)
class Sigmoid:
    """Gradual pruning along a sigmoid: s_t = s_i + (s_f - s_i) P(x), P(x) = [σ(2k(x - ½)) - σ(-k)] / [σ(k) - σ(-k)],
    x from 0 at the start to 1 at the stop (CHTss, arXiv 2501.19107; k = 6 in the paper and in the authors' code).

    A cosine-decayed fraction ``regrow`` more is pruned and grown back at every update. Over its window the sigmoid is
    half of the way down on average, the cubic three quarters: with the cubic's start and stop and ``window`` 0.5, the
    published matching, both spend the same FLOPs. The default stop is that of the authors' command, steps 8,000 of
    10,000.

    Departures: the authors prune to d_t and then remove and regrow in a second pass; here both are one update. Their
    command's updates end at 0.75 of the steps, before the window does, at 0.8989 sparsity for an asked 0.9; here the
    last update is exactly at the density.
    """

    initial: float = 0.5  # density before the first update
    k: float = 6.0  # steepness
    delta_t: int = 100  # steps, or epochs, between updates
    start: float = 0.0  # as fractions of the steps
    stop: float = 0.8
    window: float = 1.0  # the part of start to stop, from the start on, in which the density falls
    regrow: float = 0.1
    unit: Unit = "steps"  # of ΔT

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t, self.unit)
        check_fraction("initial", self.initial, above=True)
        check_fraction("regrow", self.regrow)
        check_fraction("window", self.window, above=True)
        check_fraction("stop", self.stop, above=True)
        check_fraction("start", self.start)
        if self.start > self.stop:
            raise StrategyError(f"start: expected at most the stop {self.stop}, got {self.start}")
        if isinstance(self.k, bool) or not isinstance(self.k, int | float) or not 0 < self.k <= 100:
            raise StrategyError(f"k: expected a number above 0 to 100, got {self.k!r}")

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d_t(1-r), d_t) every ΔT from the start to the first multiple of ΔT at or past the end of the window."""
        first = self.start * clock.total_steps
        last = first + self.window * (self.stop * clock.total_steps - first)
        period = period_of(clock, self.delta_t, self.unit)
        return _falling(clock, density, self.initial, period, first, last, self.fallen, self.regrow)

    def fallen(self, x: float) -> float:
        """P(x)."""
        low, high = _sigmoid(-self.k), _sigmoid(self.k)
        return (_sigmoid(2 * self.k * (x - 0.5)) - low) / (high - low)


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def _falling(
    clock: Clock,
    density: float,
    initial: float,
    period: int,
    first: float,
    last: float,
    fallen: Callable[[float], float],
    regrow: float,
) -> Target | None:
    """(d_t(1-r), d_t) every ``period`` steps from step ``first`` to the first multiple of it at or past ``last``.

    fallen: of the way from the initial density to the last, what is done at a fraction of the window, 0 to 1.
    """
    initial = max(initial, density)
    if clock.step == 0:
        return Target(initial, initial)
    if clock.step % period or clock.step < first or clock.step >= last + period:
        # The last step of training closes the schedule if no multiple of the period came after the window.
        over = clock.step - clock.step % period >= last
        if clock.step != clock.total_steps or over or initial == density:
            return None
        return Target(density, density)
    progress = min(1.0, (clock.step - first) / (last - first)) if last > first else 1.0
    now = density if progress >= 1 else density + (initial - density) * (1 - fallen(progress))
    return Target(now * (1 - regrow / 2 * (1 + cos(pi * progress))), now)
