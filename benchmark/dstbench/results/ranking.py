"""What a trial is ranked by: top-1, unless its record says otherwise. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ranking:
    """The metric that a board ranks by."""

    key: str
    title: str
    better: str  # "higher" or "lower"

    @property
    def sign(self) -> int:
        """What makes more better: 1 or -1."""
        return -1 if self.better == "lower" else 1


TOP1 = Ranking("top1", "top-1 %", "higher")
"""Of image classification, which all records are of that name no metric."""


def ranking_of(measures: Mapping[str, Any]) -> Ranking:
    """By what a record's measures say that it is ranked."""
    said = measures.get("metric")
    return Ranking(said["key"], said["title"], said["better"]) if said else TOP1
