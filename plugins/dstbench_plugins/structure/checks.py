"""Checks of structures' parameters."""

from __future__ import annotations

from dstbench.api import StrategyError


def check_size(name: str, value: object, most: int | None = None) -> None:
    """Refuse what isn't an integer of at least 1 and, where given, at most ``most``."""
    expected = "an integer >= 1" if most is None else f"an integer from 1 to {most}"
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < 1
        or (most is not None and value > most)
    ):
        raise StrategyError(f"{name}: expected {expected}, got {value!r}")
