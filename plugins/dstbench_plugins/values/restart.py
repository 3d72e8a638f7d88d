"""Learning rates that start anew behind topology updates."""

from __future__ import annotations

from dataclasses import dataclass

from dstbench_plugins.checks import check_integer


@dataclass(frozen=True)
class Restart:
    """All learning rates × min(1, k/n), k the steps since the last topology update, so that the first step behind
    one has rate 0 (``inoam`` of CHTs, arXiv 2501.19107: n = 20 in the paper, 10 in the authors' script).

    Before the first update nothing is scaled. Schedules of learning rates, and what is logged of them, don't see it.
    """

    n: int = 20

    def __post_init__(self) -> None:
        """Refuse what isn't a number of steps."""
        check_integer("n", self.n)

    def restart(self, since: int) -> float:
        """min(1, k/n)."""
        return min(1.0, since / self.n)
