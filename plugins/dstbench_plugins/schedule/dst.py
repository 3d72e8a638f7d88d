"""Schedules at constant density: plain dynamic sparse training, and none."""

from dataclasses import dataclass
from math import cos, pi

from dstbench.api import Clock, Target
from dstbench_plugins.schedule.checks import check_fraction, check_period


@dataclass(frozen=True)
class Cosine:
    """RigL's: every ΔT steps until T_end, ζ(t) = α/2 (1 + cos(πt/T_end)) of the weights move (arXiv 1911.11134)."""

    alpha: float = 0.3  # the drop fraction at the start
    delta_t: int = 100  # steps between updates
    stop: float = 0.75  # T_end as a fraction of the steps

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t)
        check_fraction("alpha", self.alpha)
        check_fraction("stop", self.stop)

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d(1-ζ), d) at multiples of ΔT before T_end."""
        end = self.stop * clock.total_steps
        if clock.step == 0 or clock.step % self.delta_t or clock.step >= end:
            return None
        fraction = self.alpha / 2 * (1 + cos(pi * clock.step / end))
        return Target(density * (1 - fraction), density)


@dataclass(frozen=True)
class Constant:
    """SET's: every ΔT steps a constant fraction ζ of the weights moves (arXiv 1707.04780)."""

    zeta: float = 0.3
    delta_t: int = 100
    stop: float = 1.0  # no update at or after this fraction of the steps

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t)
        check_fraction("zeta", self.zeta)
        check_fraction("stop", self.stop)

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d(1-ζ), d) at multiples of ΔT before the stop."""
        if clock.step == 0 or clock.step % self.delta_t or clock.step >= self.stop * clock.total_steps:
            return None
        return Target(density * (1 - self.zeta), density)


@dataclass(frozen=True)
class Never:
    """Static sparse training: the initial mask stays."""

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """Nothing, at any step."""
        return None
