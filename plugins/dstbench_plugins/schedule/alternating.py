"""AC/DC's schedule: sparse and dense phases by turns."""

from dataclasses import dataclass
from math import ceil

from dstbench.api import Clock, StrategyError, Target
from dstbench_plugins.schedule.periods import check_boundaries

RESNET50 = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.85)
"""Of 100 epochs: dense until 10, then sparse and dense for 5 each, the last dense phase 10 and the last sparse 15."""


@dataclass(frozen=True)
class Alternating:
    """Dense at first, then sparse and dense phases by turns, sparse at the end; masks stay within a sparse phase
    (AC/DC, arXiv 2106.12379).

    ``phases`` are where they begin: at even places a compression, Target(d, d), whose mask comes from the dense
    weights; at odd ones a decompression, Target(d, 1), at which what comes back starts at zero. The default is that
    of the authors' configuration for ResNet-50, 100 epochs; theirs for WRN-28-10 on CIFAR-100, 200 epochs, is 0.05,
    0.15, 0.25, … 0.85. Half of the epochs are dense: at density 0.1 training runs at 0.55 on average. Phases that a
    short training can't tell apart fall together, and the last of them counts.
    """

    phases: tuple[float, ...] = RESNET50  # increasing fractions of the steps; an odd number of them

    def __post_init__(self) -> None:
        """Refuse what doesn't end sparse."""
        check_boundaries(self.phases)
        if len(self.phases) % 2 == 0 or self.phases[0] == 0:
            raise StrategyError(
                "phases: expected an odd number of fractions above 0, so that the last is a compression, "
                f"got {list(self.phases)}"
            )

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(1, 1) at step 0; (d, d) or (d, 1) where a phase begins."""
        if clock.step == 0:
            return Target(1.0, 1.0)
        beginning = [ceil(phase * clock.total_steps - 1e-9) for phase in self.phases]
        if clock.step not in beginning:
            return None
        place = max(place for place, step in enumerate(beginning) if step == clock.step)
        return Target(density, 1.0 if place % 2 else density)
