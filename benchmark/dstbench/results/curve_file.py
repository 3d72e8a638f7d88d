"""The lines beside a trial's record that say how it went, one after each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CURVE = "curve.jsonl"
"""Beside a trial's record: a line after each epoch."""


def curve_points(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of a curve, and which of them are none: a trial that was killed leaves half a line."""
    points, wrong = [], []
    for number, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            point = json.loads(text)
        except (ValueError, RecursionError):
            point = None
        if isinstance(point, dict) and isinstance(point.get("epoch"), int) and _is_of_figures(point):
            points.append(point)
        else:
            wrong.append(f"{file}, line {number}: expected a JSON object with an epoch, of figures")
    return points, wrong


def _is_of_figures(point: Mapping[str, Any]) -> bool:
    """Whether all that a line says are numbers or None, and its channels a mapping of such."""
    channels = point.get("channels") or {}
    if not isinstance(channels, dict):
        return False
    told = (*(value for name, value in point.items() if name != "channels"), *channels.values())
    return all(value is None or isinstance(value, int | float) for value in told)
