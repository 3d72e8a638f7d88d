"""Records of made-up factorial experiments: a trial for each combination, its top-1 a function of it."""

from __future__ import annotations

from itertools import product

import pytest

from fakes.records import make_record, recipe_of

LEVELS = {
    "init": ("erk", "uniform"),
    "structure": ("unstructured",),
    "prune": ("magnitude", "set", "mest"),
    "grow": ("gradient", "random"),
}


def make_factorial(top1, seeds=range(3), levels=LEVELS, **changes):
    """``top1(init, structure, prune, grow, seed)`` gives a percentage, a status, or None: no such trial."""
    records = []
    for seed, parts in product(seeds, product(*levels.values())):
        value = top1(*parts, seed)
        if value is None:
            continue
        label = " · ".join(parts)
        if isinstance(value, str):
            trouble = {"status": value, "reason": "out of luck", "phase": "train", "measures": {}}
            records.append(make_record(label, seed, recipe=recipe_of(parts), **changes) | trouble)
        else:
            records.append(make_record(label, seed, value, recipe=recipe_of(parts), **changes))
    return records


@pytest.fixture
def factorial():
    return make_factorial
