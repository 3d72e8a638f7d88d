"""MEST's schedules: an amount of exploration that falls in steps."""

from dataclasses import dataclass
from math import ceil

from dstbench.api import Clock, StrategyError, Target
from dstbench_plugins.checks import check_fraction
from dstbench_plugins.schedule.periods import Unit, check_boundaries, check_period, is_due


@dataclass(frozen=True)
class Elastic:
    """Every ΔT prune to d - μ and grow back to d, μ falling in steps (MEST's EM, arXiv 2110.14032). With
    ``soft`` prune to d and grow to d + μ: training runs above d, and what is new lives one period before it is
    judged (EM&S).

    Published for ResNet-32, 160 epochs: every 5 epochs, with change points at 90 and 120. At density 0.1 EM's μ
    is 0.02, 0.01, 0; that of EM&S 0.05, 0.025, 0 in the authors' script (in their README 0.02, 0.01, 0). Here
    μ is a fraction of d, which is the same there and has a meaning at any density.
    """

    mu: tuple[float, ...] = (0.2, 0.1, 0.0)  # of the density, one for each phase; 0 = no exploration
    boundaries: tuple[float, ...] = (0.5625, 0.75)  # where the phases change, as fractions of the steps
    soft: bool = False
    delta_t: int = 5  # steps, or epochs, between updates
    unit: Unit = "epochs"  # of ΔT

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t, self.unit)
        for mu in self.mu:
            check_fraction("mu", mu)
        check_boundaries(self.boundaries)
        if len(self.mu) != len(self.boundaries) + 1:
            raise StrategyError(
                f"mu: expected {len(self.boundaries) + 1} values, one more than boundaries, got {list(self.mu)}"
            )
        if self.soft and self.mu[-1] != 0:
            raise StrategyError(f"mu: expected to end at 0 with soft, got {list(self.mu)}")

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d - μ, d), or (d, d + μ) with ``soft``; once μ stays 0 nothing, but for the return to d."""
        due = is_due(clock, self.delta_t, self.unit)
        extra = self.mu[sum(start <= clock.step for start in self._starts(clock))] * density
        moves = due and extra > 0 and clock.step < clock.total_steps
        if not self.soft:
            return Target(density - extra, density) if moves else None
        above = min(1.0, density + extra)
        if clock.step == 0:
            return Target(above, above)
        if moves:
            return Target(density, above)
        return Target(density, density) if clock.step == self._last(clock) else None

    def _starts(self, clock: Clock) -> list[int]:
        """The first step of every phase but the first."""
        return [ceil(boundary * clock.total_steps) for boundary in self.boundaries]

    def _last(self, clock: Clock) -> int:
        """The step of the first update after μ fell to 0 for good, at the latest the training's last."""
        phase = 1 + max((i for i, mu in enumerate(self.mu) if mu), default=-1)
        start = [0, *self._starts(clock)][phase]
        period = self.delta_t if self.unit == "steps" else self.delta_t * (clock.steps_per_epoch or 1)
        return min(max(1, ceil(start / period)) * period, clock.total_steps)
