"""Models that ship."""

from __future__ import annotations

from dstbench.errors import BadInput


def widen(channels: int, width: float) -> int:
    """``channels`` times ``width``, to the nearest integer, at least 1. Raises BadInput where width <= 0."""
    if not 0 < width < float("inf"):
        raise BadInput(f"width: expected a number greater than 0, got {width!r}")
    return max(1, round(channels * width))
