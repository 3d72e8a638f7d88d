"""Densities that rise and fall in cycles, then ordinary dynamic sparse training (EAST)."""

from dataclasses import dataclass
from math import cos, pi
from typing import Literal, get_args

from dstbench.api import Clock, StrategyError, Target
from dstbench_plugins.checks import check_choice, check_fraction, check_integer
from dstbench_plugins.schedule.periods import check_period

Shape = Literal["cosine", "triangular"]


@dataclass(frozen=True)
class Cyclic:
    """d(t) = d + (m - 1) d (1 - cos 2πx)/2, x the place in the cycle; behind the cycles a fraction ζ(t) of the
    weights moves at every update, as a cosine over all steps (EAST, as a copy of its released code has it).

    While the density rises weights only grow, while it falls they only go; ``triangular`` rises and falls linearly.
    Defaults of that code: m = 3, two cycles of 50 epochs, then ΔT 4000; here the cycles are fractions of any
    training, their length and period and ζ's start our choice. The copy itself can't run these cycles: it uses a
    ``min_density`` whose definition is commented out. The method's changes to the network aren't part of this.
    """

    multiplier: float = 3.0  # m: the peak as a multiple of the density, at most 1 in all
    cycles: int = 2
    length: float = 0.2  # of a cycle, as a fraction of the steps
    shape: Shape = "cosine"
    delta_t: int = 100  # steps between updates inside the cycles
    late_delta_t: int | None = None  # the same behind them; None: as inside
    alpha: float = 0.5  # the drop fraction behind the cycles, were it at the start

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t)
        check_integer("cycles", self.cycles)
        check_fraction("length", self.length, above=True)
        check_fraction("alpha", self.alpha)
        check_choice("shape", self.shape, get_args(Shape))
        if self.late_delta_t is not None:
            check_integer("late_delta_t", self.late_delta_t)
        if isinstance(self.multiplier, bool) or not 1 < self.multiplier < float("inf"):
            raise StrategyError(f"multiplier: expected a number > 1, got {self.multiplier!r}")
        if self.cycles * self.length > 1:
            raise StrategyError(
                f"length: expected at most 1 in {self.cycles} cycles, got {self.cycles} x {self.length:g}"
            )

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(the lower of the densities now and ΔT ago, d(t)); behind the cycles (d(1-ζ), d), before the last step."""
        end = self.cycles * self.length * clock.total_steps
        closing = min(-(-end // self.delta_t) * self.delta_t, clock.total_steps)  # where the cycles are over
        if clock.step == 0:
            return None
        if clock.step < closing:
            if clock.step % self.delta_t:
                return None
            now = self._density(clock.step, clock.total_steps, density)
            return Target(min(now, self._density(clock.step - self.delta_t, clock.total_steps, density)), now)
        if clock.step == closing == clock.total_steps:
            return Target(density, density) if closing > self.delta_t else None
        due = clock.step == closing or clock.step % (self.late_delta_t or self.delta_t) == 0
        if not due or clock.step == clock.total_steps:
            return None
        return Target(density * (1 - self.alpha / 2 * (1 + cos(pi * clock.progress))), density)

    def _density(self, step: int, total_steps: int, density: float) -> float:
        """d(t) inside the cycles."""
        place = step / (self.length * total_steps) % 1
        raised = (1 - cos(2 * pi * place)) / 2 if self.shape == "cosine" else 1 - abs(1 - 2 * place)
        return min(1.0, density + (self.multiplier - 1) * density * raised)
