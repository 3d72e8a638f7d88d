"""A method as data: what a recipe names, and the values that its schedule and its scores speak in. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Flag, auto
from typing import Any

from dstbench.errors import BadInput, StrategyError, nearest

Spec = str | Mapping[str, Any]
"""A component by name, or ``{"name": ..., parameter: value}``; init, prune and grow also take ``share``."""

Normal = Mapping[str, Any]
"""A component in its canonical form: its name and those of its parameters that aren't at their default."""


@dataclass(frozen=True)
class Recipe:
    """A published method: a named choice of one component of each kind. Data, not code."""

    init: Spec = "erk"
    structure: Spec = "unstructured"
    prune: Spec = "magnitude"
    grow: Spec = "gradient"
    schedule: Spec = "cosine"
    values: Spec = "keep"  # what weights hold: the model's own at first, zero where they grow
    dense_layers: tuple[str, ...] = ()  # layers left out of N and of the budget: see budgeted_layers
    dense: bool = False  # no masks at all
    narrow: bool = False  # no masks: a narrower model with as many parameters as the sparse one has weights
    multiplier: float = 1.0  # extended training: the runner scales epochs and learning-rate milestones by it

    def __post_init__(self) -> None:
        """Refuse a training without length."""
        if isinstance(self.multiplier, bool) or not 0 < self.multiplier < float("inf"):
            raise BadInput(f"multiplier: expected a number > 0, got {self.multiplier!r}")

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some parts changed."""
        return replace(self, **changes)


def recipe_of(parts: Mapping[str, Any]) -> Recipe:
    """A recipe from its fields. Raises BadInput for an unknown one, with the nearest."""
    known = [field.name for field in fields(Recipe)]
    for key in parts:
        if key not in known:
            raise BadInput(f"recipe: unknown key {key!r}{nearest(key, known)}")
    values: dict[str, Any] = {k: tuple(v) if k == "dense_layers" else v for k, v in parts.items()}
    return Recipe(**values)


def named(spec: Spec) -> Normal:
    """A spec as a mapping, whichever way it was written."""
    return {"name": spec} if isinstance(spec, str) else spec


def parts_of(recipe: Recipe) -> dict[str, Spec]:
    """Kind -> what a recipe with masks names there. Values that are the plain ones go without saying: there were
    methods before there were values."""
    parts: dict[str, Spec] = {
        part.name: getattr(recipe, part.name) for part in fields(Recipe) if part.type == "Spec"
    }
    if parts["values"] in ("keep", {"name": "keep"}):
        del parts["values"]
    return parts


class Signal(Flag):
    """What a score or share reads beyond weights and masks; collected, and charged, only when asked for."""

    NONE = 0
    GRAD = auto()  # the dense gradient of the update's batch, averaged over ranks; costs a dense backward
    ACTIVE_GRAD = auto()  # the same on active weights, zero elsewhere; free
    MOMENTUM = auto()  # an exponential average of dense gradients; costs a dense backward every step
    MEMORY = auto()  # what the method's values remember of each position; free


@dataclass(frozen=True)
class Clock:
    """Where training stands. A step is one *applied* optimizer step."""

    step: int
    total_steps: int
    steps_per_epoch: int | None = None

    @property
    def progress(self) -> float:
        """The share of the steps that are done, 0 to 1."""
        return self.step / self.total_steps

    @property
    def epoch(self) -> float:
        """Epochs done. Raises StrategyError where nobody said how long an epoch is."""
        if self.steps_per_epoch is None:
            raise StrategyError("this schedule counts epochs: pass steps_per_epoch to the Sparsifier")
        return self.step / self.steps_per_epoch


@dataclass(frozen=True)
class Target:
    """Density after the prune half and after the grow half of one topology update."""

    keep: float
    final: float
    backward: float | None = None  # density of all that trains, active or not: see Schedule

    def __post_init__(self) -> None:
        """Refuse what no update can reach."""
        if not (0 <= self.keep <= self.final <= 1 and self.final > 0):
            raise StrategyError(f"a target needs 0 <= keep <= final <= 1 and final > 0, got {self}")
        if self.backward is not None and not self.final <= self.backward <= 1:
            raise StrategyError(f"a target needs final <= backward <= 1, got {self}")

    def __repr__(self) -> str:
        """Without a ``backward`` that isn't asked for."""
        more = "" if self.backward is None else f", backward={self.backward!r}"
        return f"Target(keep={self.keep!r}, final={self.final!r}{more})"
