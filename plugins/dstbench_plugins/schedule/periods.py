"""What schedules have in common: when ΔT is over, and where phases begin."""

from collections.abc import Sequence
from typing import Literal, get_args

from dstbench.api import Clock, StrategyError
from dstbench_plugins.checks import check_choice, check_fraction, check_integer

Unit = Literal["steps", "epochs"]


def is_due(clock: Clock, delta_t: int, unit: Unit = "steps") -> bool:
    """Whether the step ends a period of ΔT steps or epochs. Raises StrategyError if an epoch's length is unknown."""
    if unit == "steps":
        return clock.step > 0 and clock.step % delta_t == 0
    return clock.epoch > 0 and clock.epoch % delta_t == 0


def period_of(clock: Clock, delta_t: int, unit: Unit = "steps") -> int:
    """ΔT in steps. Raises StrategyError if an epoch's length is unknown."""
    if unit == "steps":
        return delta_t
    clock.epoch  # noqa: B018 (refuses a clock without epochs)
    return delta_t * (clock.steps_per_epoch or 1)


def check_period(delta_t: int, unit: str = "steps") -> None:
    """Steps or epochs between updates: an integer >= 1."""
    check_integer("delta_t", delta_t)
    check_choice("unit", unit, get_args(Unit))


def check_boundaries(boundaries: Sequence[float]) -> None:
    """Where phases change: fractions of the steps, increasing."""
    for boundary in boundaries:
        check_fraction("boundaries", boundary)
    if list(boundaries) != sorted(set(boundaries)):
        raise StrategyError(f"boundaries: expected increasing fractions, got {list(boundaries)}")
