"""DSR's schedule: rewiring that grows rarer as training goes on."""

from dataclasses import dataclass
from math import ceil

from dstbench.api import Clock, Target
from dstbench_plugins.checks import check_fraction
from dstbench_plugins.schedule.periods import check_boundaries, check_period


@dataclass(frozen=True)
class Lengthening:
    """A constant fraction of the weights moves, every ΔT steps at first; ΔT doubles at each boundary (DSR,
    arXiv 1902.05967).

    Published periods: WRN-28-2, 200 epochs: 100, 200, 400, 800 steps from epoch 0, 25, 80, 140, none from 190
    on; ResNet-50, 100 epochs: 1000 to 8000 steps from epoch 0, 25, 50, 75, none from 95 on. Boundaries and
    stop are fractions of the training here, so any length has all phases (the defaults are WRN-28-2's; those
    of ResNet-50 are 0.25, 0.5, 0.75), and steps are counted from the last boundary.

    DSR prunes N_p weights an event by a threshold that chases N_p; here exactly a fraction of the active ones
    goes. N_p is 20,000 for WRN-28-2 (of 1.46 M weights) and 400,000 for ResNet-50 (of 25.5 M): at density 0.1
    that is 0.14 and 0.16 of the active weights, at 0.2 half of it. None is published for MNIST.
    """

    fraction: float = 0.15  # of the active weights, at every event
    delta_t: int = 100  # steps between the events of the first phase
    boundaries: tuple[float, ...] = (0.125, 0.4, 0.7)  # where ΔT doubles, as fractions of the steps
    stop: float = 0.95  # no event at or after this fraction of the steps

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_period(self.delta_t)
        check_fraction("fraction", self.fraction)
        check_fraction("stop", self.stop)
        check_boundaries(self.boundaries)

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(d - moved, d) every ΔT·2^i steps from the i-th boundary on.

        Pruned weights can't grow back at once, so at most half as many are moved as are inactive.
        """
        starts = [0, *(ceil(boundary * clock.total_steps) for boundary in self.boundaries)]
        phase = sum(start <= clock.step for start in starts) - 1
        elapsed, period = clock.step - starts[phase], self.delta_t * 2**phase
        if clock.step == 0 or elapsed % period or clock.step >= self.stop * clock.total_steps:
            return None
        return Target(density - min(self.fraction * density, (1 - density) / 2), density)
