"""Top-KAST's schedule: the active set is drawn up anew, and a superset of it trains."""

from __future__ import annotations

from dataclasses import dataclass

from dstbench.api import Clock, Target
from dstbench_plugins.checks import check_fraction, check_integer
from dstbench_plugins.values.scaled import check_scale


@dataclass(frozen=True)
class TopKast:
    """At each update the active set is the largest |θ| of a layer, D of its weights, and ``beyond`` times as many
    more train, D(1 + beyond) (Top-KAST, arXiv 2106.03517): at every step while exploring, then every ΔT.

    Defaults are those of a published copy, where ``beyond`` is a factor of D and exploration the first tenth of the
    epochs. To be used with prune and grow ``magnitude``, which take the best of all by |θ| together: all but one unit
    of a layer are up for choice.
    """

    beyond: float = 1.0  # M / D
    explore: float = 0.1  # of the steps
    delta_t: int = 1000  # steps between updates afterwards

    def __post_init__(self) -> None:
        """Refuse what isn't a schedule."""
        check_scale(self.beyond, "beyond")
        check_fraction("explore", self.explore)
        check_integer("delta_t", self.delta_t)

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """(0, D), D(1 + beyond) training; (D, D) at step 0."""
        exploring = clock.step <= self.explore * clock.total_steps
        if not exploring and clock.step % self.delta_t:
            return None
        keep = 0.0 if clock.step else density
        return Target(keep, density, backward=min(1.0, density * (1 + self.beyond)))
