"""Copies of a Sparsifier: it lives in hooks on its optimizer and weights, which copies of these come without."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput

if TYPE_CHECKING:
    from dstbench.core.training.sparsifier import Sparsifier


def state_of(sparsifier: Sparsifier) -> dict[str, Any]:
    """All but the hooks, which a copy makes anew, and the registry, of which only names are asked."""
    parts = {id(part) for part in sparsifier.optimizers}
    wrapper = next((given for given in sparsifier.given if id(given) not in parts), None)
    if wrapper is not None:
        raise BadInput(
            f"a Sparsifier can't be copied with its {type(wrapper).__name__}: load its state_dict() into a new one"
        )
    assert sparsifier.identity is not None
    left = {name: value for name, value in vars(sparsifier).items() if name != "_hooks"}
    return left | {"_outer": None, "_named": None}


def deep(sparsifier: Sparsifier, memo: dict[int, Any]) -> Sparsifier:
    """What ``copy.deepcopy`` makes of it. Raises BadInput where nothing else was copied before it."""
    if not memo:
        raise alone()
    made = object.__new__(type(sparsifier))
    memo[id(sparsifier)] = made
    made.__setstate__(copy.deepcopy(state_of(sparsifier), memo))
    return made


def alone() -> BadInput:
    """Why there is no copy of a Sparsifier alone."""
    return BadInput(
        "a copy of a Sparsifier alone would train nothing: copy.deepcopy((model, optimizer, sparsifier)) copies all "
        "that belongs together, in this order, and state_dict() what a new one continues from"
    )
