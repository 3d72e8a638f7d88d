"""Checks of strategies' parameters: a refusal names the field, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from dstbench.api import StrategyError
from dstbench.errors import nearest


def check_integer(field: str, value: object, least: int = 1, most: float = inf) -> None:
    """An integer from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        bounds = f">= {least}" if most == inf else f"from {least} to {most}"
        raise StrategyError(f"{field}: expected an integer {bounds}, got {value!r}")


def check_fraction(
    field: str, value: object, low: float = 0.0, *, above: bool = False, below: bool = False
) -> None:
    """A number from ``low`` (or only above it) to 1 (or only below it)."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= 1
        or (above and value == low)
        or (below and value == 1)
    ):
        start, end = f"above {low:g}" if above else f"from {low:g}", "below 1" if below else "1"
        raise StrategyError(f"{field}: expected a fraction {start} to {end}, got {value!r}")


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """One of a few names."""
    if value not in choices:
        hint = nearest(str(value), choices)
        raise StrategyError(f"{field}: expected one of {', '.join(choices)}, got {value!r}{hint}")
