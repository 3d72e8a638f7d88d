"""The cells of a matrix: every combination of its axes, with include, exclude and controls applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import STRATEGIES
from dstbench.runner.matrix.config import Matrix
from dstbench.runner.matrix.matching import matches, same, several

SETTING_AXES = ("seed", "model", "dataset", "density")
"""In the order in which they vary, slowest first: the first seed of everything is done before the second."""
DEFAULTS = {
    "init": "erk",
    "structure": "unstructured",
    "prune": "magnitude",
    "grow": "gradient",
    "schedule": "cosine",
}
"""What a strategy axis holds when only others are given; the same as ``api.Recipe``'s fields."""


@dataclass(frozen=True)
class Cell:
    """One combination: axis -> what the matrix says there. Either ``recipe`` or all strategy axes."""

    axes: Mapping[str, Any]

    @property
    def setting(self) -> tuple[str, ...]:
        """What the cell has in common with its controls."""
        return tuple(repr(self.axes[axis]) for axis in SETTING_AXES)


def cells(matrix: Matrix) -> tuple[list[Cell], int]:
    """The matrix's cells, controls first in each setting, and how many include and exclude took away."""
    _check_matches(matrix)
    every = [Cell(axes) for axes in _combinations(matrix)]
    kept = [cell for cell in every if _wanted(cell, matrix)]
    controlled: set[tuple[str, ...]] = set()
    found: list[Cell] = []
    for cell in kept:
        if cell.setting not in controlled:
            controlled.add(cell.setting)
            found += [_control(cell, recipe) for recipe in matrix.controls]
        found.append(cell)
    return found, len(every) - len(kept)


def _combinations(matrix: Matrix) -> Iterator[dict[str, Any]]:
    axes = matrix.axes
    settings = [getattr(axes, axis) for axis in SETTING_AXES]
    methods: list[dict[str, Any]] = [{"recipe": recipe} for recipe in axes.recipe or ()]
    if axes.has_product:
        choices = [getattr(axes, axis) or (DEFAULTS[axis],) for axis in STRATEGIES]
        methods += [dict(zip(STRATEGIES, choice, strict=True)) for choice in product(*choices)]
    for setting in product(*settings):
        for method in methods:
            yield {**dict(zip(SETTING_AXES, setting, strict=True)), **method}


def _control(cell: Cell, recipe: Any) -> Cell:
    return Cell({**{axis: cell.axes[axis] for axis in SETTING_AXES}, "recipe": recipe})


def _wanted(cell: Cell, matrix: Matrix) -> bool:
    included = not matrix.include or any(matches(cell.axes, where) for where in matrix.include)
    return included and not any(matches(cell.axes, where) for where in matrix.exclude)


def _check_matches(matrix: Matrix) -> None:
    """Refuse a match on a value that its axis doesn't hold: a typing error there would do nothing."""
    listed = [(f"include[{i}]", where) for i, where in enumerate(matrix.include)]
    listed += [(f"exclude[{i}]", where) for i, where in enumerate(matrix.exclude)]
    listed += [(f"overrides[{i}].when", override.when) for i, override in enumerate(matrix.overrides)]
    for path, where in listed:
        for axis, wanted in where.items():
            held = _held(matrix, axis)
            for value in several(wanted):
                if not any(same(spec, value) for spec in held):
                    names = [str(spec["name"] if isinstance(spec, Mapping) else spec) for spec in held]
                    hint = nearest(str(value), names)
                    raise BadInput(f"{path}.{axis}: {value!r} is not on that axis of the matrix{hint}")


def _held(matrix: Matrix, axis: str) -> list[Any]:
    held = list(getattr(matrix.axes, axis) or ())
    if axis == "recipe":
        return held + list(matrix.controls)
    return held or ([DEFAULTS[axis]] if matrix.axes.has_product and axis in DEFAULTS else [])
