"""What varies in a matrix: its axes, and what stands on them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, prod
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from dstbench.hookspecs import PARTS
from dstbench.recipe import Recipe
from dstbench.runner.matrix.matching import listed
from dstbench.runner.matrix.validation import Frozen

CONTROLS = ("dense", "static", "small-dense")
"""A matrix's controls where it names none."""


LONGEST_NAME = 200
"""Characters of the name of a component."""


def _spec(value: Any) -> Any:
    name = value.get("name") if isinstance(value, Mapping) else value
    if not isinstance(name, str) or not (name or isinstance(value, Mapping)):
        raise ValueError("expected a name, or a mapping with `name` and parameters")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"expected a name of at most {LONGEST_NAME} characters")
    check_finite(value)
    return value if isinstance(value, str) else dict(value)


def check_finite(value: Any, path: str = "") -> None:
    """Raise ValueError for a number that no trial's key can hold, naming the parameter."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check_finite(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            check_finite(inner, path)
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{path}: expected a finite number")


def _density(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError("expected a number in (0, 1]")
    return float(value)


Spec = Annotated[Any, PlainValidator(_spec)]
Density = Annotated[float, PlainValidator(_density)]
Specs = Annotated[tuple[Spec, ...], BeforeValidator(listed), Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Axes(Frozen):
    """What varies. Methods are the product of the strategy axes, the recipes, or both beside each other."""

    model: Specs
    dataset: Specs
    density: Annotated[tuple[Density, ...], BeforeValidator(listed), Field(min_length=1)]
    seed: Annotated[tuple[Seed, ...], BeforeValidator(listed), Field(min_length=1)] = (0,)
    init: Specs | None = None
    structure: Specs | None = None
    prune: Specs | None = None
    grow: Specs | None = None
    schedule: Specs | None = None
    values: Specs | None = None
    recipe: Specs | None = None

    @model_validator(mode="after")
    def _has_methods(self) -> Axes:
        if not self.has_product and self.recipe is None:
            raise ValueError(
                "expected `recipe`, or some of init, structure, prune, grow, schedule and values"
            )
        return self

    @property
    def cells(self) -> int:
        """How many combinations there are, before include, exclude and controls; they aren't made for that."""
        crossed = prod(len(getattr(self, axis) or "1") for axis in PARTS) if self.has_product else 0
        return prod(len(getattr(self, axis)) for axis in SETTING) * (crossed + len(self.recipe or ()))

    @property
    def has_product(self) -> bool:
        """Whether any strategy axis is given; those that aren't then hold Recipe's default alone."""
        return any(getattr(self, axis) is not None for axis in PARTS)


AXES = tuple(Axes.model_fields)
SETTING = ("seed", "model", "dataset", "density")
"""The axes that a trial shares with its controls, in the order in which they vary, slowest first: the first seed of
everything is done before the second."""
COMPONENTS = tuple(axis for axis in AXES if axis not in ("density", "seed"))
"""The axes that hold components, named for their kinds."""


def held(axes: Mapping[str, Any], controls: Any, axis: str) -> list[Any]:
    """What stands on an axis, checked or as the file has it: beside recipes their controls, and on a strategy axis
    that isn't given, where another one is, what a Recipe has there."""
    values = [] if axes.get(axis) is None else [*listed(axes[axis])]
    if axis == "recipe":
        return [*values, *listed(controls)]
    crossed = axis in PARTS and any(axes.get(other) is not None for other in PARTS)
    return values or ([getattr(Recipe, axis)] if crossed else [])
