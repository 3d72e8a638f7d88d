"""A method as data: what a recipe names, and the values that its schedule and its scores speak in. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Flag, auto
from typing import Any, Literal

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
    INPUTS = auto()  # of an accumulator: a sum over what the layer was given; free
    OUTPUT_GRADIENTS = auto()  # of an accumulator: a sum over the gradients of what the layer gave; free
    HESSIAN = auto()  # of an init with rounds: the Hessian times the gradient, as LayerView.extra["hessian"]


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
class Rounds:
    """How an init is scored before training: on a copy of the network, masked by the round before.

    A round scores every weight, and the best of them at its density are the next round's mask; the last round's
    density is the training's. Gradients are those of the masked network, at inactive weights, too; the weights that
    scores see are the initial ones. ``count`` = 0: none, the init is scored by itself.
    """

    count: int = 0
    probe: Literal["batch", "ones"] = "batch"  # the loss of batches, or R = Σ outputs of |network| for ones
    regain: bool = False  # whether a weight may come back, else only survivors are kept
    batches: int = 1  # of the training's data, other ones each round
    course: Literal["geometric", "linear"] = "geometric"  # of the densities
    training: bool = True  # whether modules are in training mode: norms by the batch, dropout
    temperature: float = 1.0  # the outputs are divided by it before the loss

    def __post_init__(self) -> None:
        """Refuse what can't be run."""
        for field, least in (("count", 0), ("batches", 1)):
            value = getattr(self, field)
            if type(value) is not int or value < least:
                raise StrategyError(f"rounds: {field}: expected an integer >= {least}, got {value!r}")
        if self.probe not in ("batch", "ones"):
            raise StrategyError(f"rounds: probe: expected 'batch' or 'ones', got {self.probe!r}")
        if self.course not in ("geometric", "linear"):
            raise StrategyError(f"rounds: course: expected 'geometric' or 'linear', got {self.course!r}")
        if isinstance(self.temperature, bool) or not 0 < self.temperature < float("inf"):
            raise StrategyError(f"rounds: temperature: expected a number > 0, got {self.temperature!r}")

    def density_at(self, k: int, density: float) -> float:
        """The density behind round k of 1 to ``count``, where the last one's is ``density``."""
        done = k / self.count
        return float(density**done) if self.course == "geometric" else 1 - done * (1 - density)


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
