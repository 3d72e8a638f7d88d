"""Refusing what no training can have, when a schedule is made rather than at some step."""

from dstbench.api import StrategyError


def check_period(delta_t: int) -> None:
    """Steps between updates: an integer >= 1."""
    if isinstance(delta_t, bool) or not isinstance(delta_t, int) or delta_t < 1:
        raise StrategyError(f"delta_t: expected a number of steps >= 1, got {delta_t!r}")


def check_fraction(field: str, value: float, low: float = 0.0, *, above: bool = False) -> None:
    """A fraction from ``low`` (or only above it) to 1."""
    if not (low < value <= 1 if above else low <= value <= 1):
        expected = f"above {low} and at most 1" if above else f"from {low} to 1"
        raise StrategyError(f"{field}: expected a fraction {expected}, got {value!r}")
