"""Schedules whose density falls while training."""

from dataclasses import dataclass
from math import cos, pi

from dstbench.api import Clock, StrategyError, Target
from dstbench_plugins.checks import check_fraction
from dstbench_plugins.schedule.periods import check_period


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
        initial = max(self.initial, density)
        if clock.step == 0:
            return Target(initial, initial)
        if clock.step % self.delta_t or clock.step < first or clock.step >= last + self.delta_t:
            # The last step of training closes the schedule if no multiple of ΔT came after the stop.
            if clock.step != clock.total_steps or clock.step - clock.step % self.delta_t >= last:
                return None
            return Target(density, density)
        progress = min(1.0, (clock.step - first) / (last - first)) if last > first else 1.0
        now = density if progress >= 1 else density + (initial - density) * (1 - progress) ** 3
        return Target(now * (1 - self.regrow / 2 * (1 + cos(pi * progress))), now)
