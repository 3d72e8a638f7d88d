"""Chase's two phases: a soft memory bound, then ordinary dynamic sparse training at exactly the target density."""

from dataclasses import dataclass
from math import ceil, cos, pi

from dstbench.api import Clock, Target
from dstbench_plugins.checks import check_fraction
from dstbench_plugins.schedule.periods import check_period


@dataclass(frozen=True)
class SoftThenHard:
    """Every ΔT: until T_A prune to d and grow to d(t), above it; afterwards kill a fraction q(t) and regrow to d.

    d(t) = d_end + (r + d - d_end) (1 + cos(πt/T_A)) / 2 and q(t) = f + (α - f) (1 + cos(πt/T)) / 2 of Chase
    (arXiv 2305.19454) as its code has them, with d_end = d + ``extra_end``. The start is at d. There is no
    update at the last step: what grows there would never be trained. Where no multiple of ΔT lies between T_A
    and the end, the one update of the second phase is at T_A.
    """

    extra: float = 0.05  # r: density above d at the start
    extra_end: float = 0.0  # density above d at the end of the first phase
    delta_t: int = 100  # steps between updates
    stop: float = 0.8125  # T_A as a fraction of the steps
    alpha: float = 0.5  # the kill fraction of the second phase, were it at the start
    floor: float = 0.005  # the same at the end

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t)
        for field in ("extra", "extra_end", "alpha", "floor", "stop"):
            check_fraction(field, getattr(self, field))

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d, d(t)), then (d (1 - q(t)), d), at multiples of ΔT before the last step."""
        if not 0 < clock.step < clock.total_steps:
            return None
        end, due, only = self.stop * clock.total_steps, clock.step % self.delta_t == 0, self._is_only(clock)
        if due and clock.step < end and not only:
            low = density + self.extra_end
            soft = low + (self.extra - self.extra_end) * (1 + cos(pi * clock.step / end)) / 2
            return Target(density, min(1.0, max(density, soft)))
        if only or (due and clock.step >= end):
            kill = self.floor + (self.alpha - self.floor) * (1 + cos(pi * clock.step / clock.total_steps)) / 2
            return Target(density * (1 - kill), density)
        return None

    def _is_only(self, clock: Clock) -> bool:
        """Whether the step is T_A and no multiple of ΔT follows before the last step."""
        end, before_last = self.stop * clock.total_steps, clock.total_steps - 1
        return before_last // self.delta_t * self.delta_t < end and clock.step == min(ceil(end), before_last)
