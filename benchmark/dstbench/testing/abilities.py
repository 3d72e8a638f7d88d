"""The check of names: an optional ability that is misspelt is one that nobody reads."""

from __future__ import annotations

from dstbench.api.abilities import misplaced, near_misses
from dstbench.testing.problem import Findings


def misspelt(component: object, kind: str) -> Findings:
    """Public attributes that are nearly an ability of a ``score``, ``share``, ``accumulator`` or ``structure``."""
    for attribute, ability in near_misses(component, kind):
        yield "abilities", f"nothing reads {attribute!r}; did you mean {ability!r}?"
    for attribute, owners in misplaced(component, kind):
        yield "abilities", f"nothing reads {attribute!r} here: it is an ability of {owners}"
