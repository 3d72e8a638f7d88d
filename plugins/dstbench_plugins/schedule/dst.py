"""Schedules at constant density: plain dynamic sparse training, and none."""

from dataclasses import dataclass
from math import cos, inf, pi

from dstbench.api import Clock, StrategyError, Target
from dstbench_plugins.checks import check_fraction
from dstbench_plugins.schedule.periods import Unit, check_period, is_due


@dataclass(frozen=True)
class Cosine:
    """RigL's: every ΔT until T_end, a fraction ζ(t) = f + (α - f)/2 (1 + cos(πt/T_end)) of the weights moves
    (arXiv 1911.11134, where the floor f is 0; SNFS, ITOP: 0.005)."""

    alpha: float = 0.3  # the drop fraction at the start
    delta_t: int = 100  # steps, or epochs, between updates
    stop: float = 0.75  # T_end as a fraction of the steps
    unit: Unit = "steps"  # of ΔT
    floor: float = 0.0  # the drop fraction towards the end

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t, self.unit)
        check_fraction("alpha", self.alpha)
        check_fraction("floor", self.floor)
        check_fraction("stop", self.stop)

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d(1-ζ), d) at multiples of ΔT before T_end."""
        end = self.stop * clock.total_steps
        if clock.step >= end or not is_due(clock, self.delta_t, self.unit):
            return None
        fraction = self.floor + (self.alpha - self.floor) / 2 * (1 + cos(pi * clock.step / end))
        return Target(density * (1 - fraction), density)


@dataclass(frozen=True)
class Constant:
    """SET's: every ΔT a constant fraction ζ of the weights moves (arXiv 1707.04780)."""

    zeta: float = 0.3
    delta_t: int = 100  # steps, or epochs, between updates
    stop: float = 1.0  # no update at or after this fraction of the steps
    unit: Unit = "steps"  # of ΔT

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t, self.unit)
        check_fraction("zeta", self.zeta)
        check_fraction("stop", self.stop)

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d(1-ζ), d) at multiples of ΔT before the stop."""
        if clock.step >= self.stop * clock.total_steps or not is_due(clock, self.delta_t, self.unit):
            return None
        return Target(density * (1 - self.zeta), density)


@dataclass(frozen=True)
class InversePower:
    """Every ΔT until T_end, a fraction α(1 - t/T_end)^k of the weights moves (RigL, arXiv 1911.11134, appendix G).

    k = 1 falls linearly, k = 3 as the rate of gradual pruning does. Found there: linear is about as good as RigL's
    cosine, k = 3 worse where ΔT is long.
    """

    k: float = 3.0  # 1 = linear
    alpha: float = 0.3  # the drop fraction at the start
    delta_t: int = 100  # steps, or epochs, between updates
    stop: float = 0.75  # T_end as a fraction of the steps
    unit: Unit = "steps"  # of ΔT

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t, self.unit)
        check_fraction("alpha", self.alpha)
        check_fraction("stop", self.stop)
        if isinstance(self.k, bool) or not isinstance(self.k, int | float) or not 0 < self.k < inf:
            raise StrategyError(f"k: expected a number > 0, got {self.k!r}")

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d(1-ζ), d) at multiples of ΔT before T_end."""
        end = self.stop * clock.total_steps
        if clock.step >= end or not is_due(clock, self.delta_t, self.unit):
            return None
        return Target(density * (1 - self.alpha * (1 - clock.step / end) ** self.k), density)


@dataclass(frozen=True)
class Never:
    """Static sparse training: the initial mask stays."""

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """Nothing, at any step."""
        return None
