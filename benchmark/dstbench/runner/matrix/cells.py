"""The cells of a matrix: every combination of its axes, with include, exclude and controls applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import PARTS
from dstbench.results.printable import shown
from dstbench.runner.matrix.axes import SETTING, held
from dstbench.runner.matrix.config import Matrix
from dstbench.runner.matrix.matching import listed, matches, same


@dataclass(frozen=True)
class Cell:
    """One combination: axis -> what the matrix says there. Either ``recipe`` or all strategy axes."""

    axes: Mapping[str, Any]

    @property
    def setting(self) -> tuple[str, ...]:
        """What the cell has in common with its controls."""
        return tuple(repr(self.axes[axis]) for axis in SETTING)


def cells(matrix: Matrix) -> tuple[list[Cell], int]:
    """The matrix's cells, controls first in each setting, and how many include and exclude took away."""
    _check_matches(matrix)
    every = [Cell(axes) for axes in _combinations(matrix)]
    kept = [cell for cell in every if _wanted(cell, matrix)]
    controlled: set[tuple[str, ...]] = set()
    ordered: list[Cell] = []
    for cell in kept:
        if cell.setting not in controlled:
            controlled.add(cell.setting)
            ordered += [_control(cell, recipe) for recipe in matrix.controls]
        ordered.append(cell)
    return ordered, len(every) - len(kept)


def _combinations(matrix: Matrix) -> Iterator[dict[str, Any]]:
    axes = matrix.axes
    settings = [getattr(axes, axis) for axis in SETTING]
    methods: list[dict[str, Any]] = [{"recipe": recipe} for recipe in axes.recipe or ()]
    if axes.has_product:
        choices = [held(dict(axes), (), axis) for axis in PARTS]
        methods += [dict(zip(PARTS, choice, strict=True)) for choice in product(*choices)]
    for setting in product(*settings):
        for method in methods:
            yield {**dict(zip(SETTING, setting, strict=True)), **method}


def _control(cell: Cell, recipe: Any) -> Cell:
    return Cell({**{axis: cell.axes[axis] for axis in SETTING}, "recipe": recipe})


def _wanted(cell: Cell, matrix: Matrix) -> bool:
    included = not matrix.include or any(matches(cell.axes, where) for where in matrix.include)
    return included and not any(matches(cell.axes, where) for where in matrix.exclude)


def _check_matches(matrix: Matrix) -> None:
    """Refuse a match on a value that its axis doesn't hold: a typing error there would do nothing."""
    for path, where in matrix.conditions:
        for axis, wanted in where.items():
            standing = held(dict(matrix.axes), matrix.controls, axis)
            for value in listed(wanted):
                if not any(same(spec, value) for spec in standing):
                    names = [str(spec["name"] if isinstance(spec, Mapping) else spec) for spec in standing]
                    hint = nearest(str(value), names)
                    raise BadInput(
                        f"{path}.{axis}: {shown(value, 100)} is not on that axis of the matrix{hint}"
                    )
