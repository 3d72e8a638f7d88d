"""What schedules have in common: when ΔT is over, and refusing what no training can have."""

from typing import Literal, get_args

from dstbench.api import Clock, StrategyError
from dstbench.errors import nearest

Unit = Literal["steps", "epochs"]


def is_due(clock: Clock, delta_t: int, unit: Unit) -> bool:
    """Whether the step ends a period of ΔT steps or epochs. Raises StrategyError if an epoch's length is unknown."""
    if unit == "steps":
        return clock.step > 0 and clock.step % delta_t == 0
    return clock.epoch > 0 and clock.epoch % delta_t == 0


def check_period(delta_t: int) -> None:
    """Steps or epochs between updates: an integer >= 1."""
    if isinstance(delta_t, bool) or not isinstance(delta_t, int) or delta_t < 1:
        raise StrategyError(f"delta_t: expected a number of steps or epochs >= 1, got {delta_t!r}")


def check_unit(unit: str) -> None:
    """What ΔT counts."""
    if unit not in get_args(Unit):
        raise StrategyError(
            f"unit: expected steps or epochs, got {unit!r}{nearest(str(unit), get_args(Unit))}"
        )


def check_fraction(field: str, value: float, low: float = 0.0, *, above: bool = False) -> None:
    """A fraction from ``low`` (or only above it) to 1."""
    if not (low < value <= 1 if above else low <= value <= 1):
        expected = f"above {low} and at most 1" if above else f"from {low} to 1"
        raise StrategyError(f"{field}: expected a fraction {expected}, got {value!r}")
