"""Soft memory bound: training runs above the target density, new weights live one period before judgement."""

from dataclasses import dataclass
from math import cos, pi

from dstbench.api import Clock, Target
from dstbench_plugins.checks import check_fraction
from dstbench_plugins.schedule.periods import check_period


@dataclass(frozen=True)
class SoftMemory:
    """Prune to d, then grow to d + μ(t), in one event; at the stop prune to d for good.

    The idea of MEST's EM&S (arXiv 2110.14032) and of Chase's first phase (arXiv 2305.19454) on its own: μ falls
    from ``extra`` to 0 as a half cosine. As published they are ``elastic`` with ``soft``, whose μ falls in steps,
    and ``soft_then_hard``, which goes on at d.
    """

    extra: float = 0.05  # μ at the start, as a density
    delta_t: int = 100
    stop: float = 0.75

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t)
        check_fraction("extra", self.extra)
        check_fraction("stop", self.stop, above=True)

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d, d + μ(t)) at multiples of ΔT; (d, d) at the first one at or past the stop."""
        end = self.stop * clock.total_steps
        if clock.step == 0:
            start = min(1.0, density + self.extra)
            return Target(start, start)
        if clock.step % self.delta_t == 0 and clock.step < end:
            extra = self.extra / 2 * (1 + cos(pi * clock.step / end))
            return Target(density, min(1.0, density + extra))
        first = -(-end // self.delta_t) * self.delta_t
        return Target(density, density) if clock.step == min(first, clock.total_steps) else None
