"""What a trial is ranked by, and how it is spoken of: top-1, unless its record says otherwise. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

_TITLE = re.compile(r"(?P<name>.+?)\s*(?:\((?P<unit>[^()]+)\)|(?P<percent>%))")
POINTS = "percent points"


@dataclass(frozen=True)
class Ranking:
    """The metric that a board ranks by."""

    key: str
    title: str  # ``loss (nats per token)``, ``top-1 %``, ``perplexity``
    better: str  # "higher" or "lower"

    @property
    def sign(self) -> int:
        """What makes more better: 1 or -1."""
        return -1 if self.better == "lower" else 1

    @property
    def direction(self) -> str:
        """``lower is better``."""
        return f"{'lower' if self.sign < 0 else 'higher'} is better"

    @cached_property
    def _parts(self) -> tuple[str, str]:
        match = _TITLE.fullmatch(self.title.strip())
        return (match["name"], match["unit"] or "%") if match else (self.title, "")

    @property
    def name(self) -> str:
        """The title without its unit: ``loss``, ``top-1``."""
        return self._parts[0]

    @property
    def unit(self) -> str:
        """``nats per token``, ``%``; "" where the title has none."""
        return self._parts[1]

    @property
    def is_percent(self) -> bool:
        """Whether values are in per cent, and differences in percent points."""
        return self.unit == "%"

    @property
    def unit_of_differences(self) -> str:
        """``percent points``, ``nats per token``; of what has no unit its name."""
        return POINTS if self.is_percent else self.unit or self.name

    @property
    def is_exponential(self) -> bool:
        """Whether it is e to a mean loss, so that means and intervals are those of losses, exponentiated."""
        return self.name == "perplexity"

    @property
    def word(self) -> str:
        """What the metric is about, in running text: ``accuracy`` of top-1, else its name."""
        return "accuracy" if self.key == TOP1.key else self.name


TOP1 = Ranking("top1", "top-1 %", "higher")
"""Of image classification, which all records are of that name no metric."""


@cache
def ranking_titled(title: str, better: str) -> Ranking:
    """What rows say that they are ranked by; their figures stand in the column ``score``."""
    return TOP1 if title == TOP1.title else Ranking("score", title, better)


def ranking_of(measures: Mapping[str, Any]) -> Ranking:
    """By what a record's measures say that it is ranked."""
    said = measures.get("metric")
    return Ranking(said["key"], said["title"], said["better"]) if said else TOP1
