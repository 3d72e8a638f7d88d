"""A plan: the trials of a matrix, each resolved, checked and given its key. Runs nothing, needs no data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import STRATEGIES
from dstbench.registration.registry import Registry
from dstbench.results.labels import spec_text
from dstbench.results.record import canonical
from dstbench.runner.matrix.cells import Cell, cells
from dstbench.runner.matrix.config import LR_SCHEDULES, OPTIMIZERS, Matrix, Measure, Training
from dstbench.runner.matrix.estimate import Prospect
from dstbench.runner.matrix.matching import matches
from dstbench.runner.matrix.planned import Plan, PlannedTrial
from dstbench.runner.matrix.validation import validated

Normal = dict[str, Any]
"""A component in its canonical form: its name and its parameters that aren't at their default."""


def plan(matrix: Matrix, registry: Registry) -> Plan:
    """Resolve every cell, and build every model once for its size.

    Raises BadInput for every unknown name or parameter, naming the axis. A model that can't take a data
    set's images, or a density at which a layer would be empty, is a trial to skip, with its reason.
    """
    resolver = _Resolver(matrix, registry)
    resolver.check()
    found, excluded = cells(matrix)
    if not found:
        raise BadInput(f"{matrix.name}: include and exclude leave no cell of the matrix")
    ahead = Prospect(registry)
    unique: dict[str, PlannedTrial] = {}
    for cell in found:
        trial = resolver.trial(cell)
        known = unique.get(trial.key)
        unique[trial.key] = replace(known, control=known.control or trial.control) if known else trial
    trials = [replace(trial, skip=ahead.infeasible(trial.trial)) for trial in unique.values()]
    return Plan(matrix, tuple(trials), excluded, len(found) - len(trials), ahead.notes(trials))


def trial_key(trial: Mapping[str, Any], components: Mapping[str, Any]) -> str:
    """sha256, hex, of a trial's canonical configuration and its components' own versions. How its speed is
    measured is no part of it.

    Integers and the floats equal to them are one value (density 1 and 1.0, lr 1 and 1.0).
    """
    identity = {name: value for name, value in trial.items() if name != "measure"}
    content = canonical(_numbers({"trial": identity, "components": components}))
    return hashlib.sha256(content.encode()).hexdigest()


class _Resolver:
    """Turns cells into trials, remembering what it has resolved."""

    def __init__(self, matrix: Matrix, registry: Registry) -> None:
        self._matrix = matrix
        self._registry = registry
        self._training = matrix.training.model_dump()
        self._measure = matrix.measure.model_dump()
        self._known: dict[str, Normal] = {}
        self._versions: dict[str, Normal] = {}

    def check(self) -> None:
        """Resolve every name on every axis, so that an error says where it is; raise them all at once."""
        problems: list[str] = []
        for axis in ("model", "dataset", *STRATEGIES, "recipe"):
            specs = getattr(self._matrix.axes, axis) or ()
            problems += [p for i, s in enumerate(specs) if (p := self._problem(axis, s, f"axes.{axis}[{i}]"))]
        for i, spec in enumerate(self._matrix.controls):
            problems += filter(None, [self._problem("recipe", spec, f"controls[{i}]")])
        if problems:
            raise BadInput("\n".join(f"{self._matrix.name}: {problem}" for problem in problems))
        check_timm_names(self._matrix.training)

    def _problem(self, kind: str, spec: Any, path: str) -> str | None:
        try:
            self.normal(kind, spec)
        except BadInput as error:
            return f"{path}: {error}"
        return None

    def normal(self, kind: str, spec: Any) -> Normal:
        """The canonical form of a spec."""
        name = repr((kind, spec))
        if name not in self._known:
            self._known[name] = self._registry.normalise(kind, spec)
        return self._known[name]

    def trial(self, cell: Cell) -> PlannedTrial:
        """Resolve one cell."""
        settings = self._settings(cell)
        recipe, label, control = self._recipe(cell, settings)
        parts: dict[str, Any] = {kind: recipe[kind] for kind in STRATEGIES if kind in recipe}
        for kind in ("model", "dataset"):
            parts[kind] = self.normal(kind, _with(cell.axes[kind], settings.get(kind, {})))
        training = validated(Training, {**self._training, **settings.get("training", {})}, label)
        training = training.extended(recipe.get("multiplier", 1.0))
        measure = validated(Measure, {**self._measure, **settings.get("measure", {})}, label)
        trial = {
            "model": parts["model"],
            "dataset": parts["dataset"],
            "density": 1.0 if recipe.get("dense") else cell.axes["density"],
            "seed": cell.axes["seed"],
            "recipe": recipe,
            "training": training.model_dump(mode="json", exclude_defaults=True),
            "measure": measure.model_dump(mode="json", exclude_defaults=True),
        }
        return PlannedTrial(trial_key(trial, self._components(parts)), trial, label, control)

    def _recipe(self, cell: Cell, settings: Mapping[str, Normal]) -> tuple[Normal, str, str | None]:
        """The five parts of a cell's method in canonical form, its label, and which control it is."""
        if "recipe" in cell.axes:
            normal = self.normal("recipe", _with(cell.axes["recipe"], settings.get("recipe", {})))
            built = self._registry.build("recipe", normal)
            control = self._registry.resolve("recipe", normal["name"]).metadata.get("control")
            control = None if normal.keys() & _NO_CONTROL else control
            flags: Normal = {"multiplier": built.multiplier} if built.multiplier != 1 else {}
            if built.dense:
                return {"dense": True, **flags}, spec_text(normal), control
            specs = {kind: getattr(built, kind) for kind in STRATEGIES}
            flags |= {"narrow": True} if built.narrow else {}
            layers = built.dense_layers
        else:
            normal, control, flags, layers = {}, None, {}, ()
            specs = {kind: cell.axes[kind] for kind in STRATEGIES}
        parts = {kind: self.normal(kind, _with(specs[kind], settings.get(kind, {}))) for kind in STRATEGIES}
        dense_layers = sorted({*layers, *self._matrix.dense_layers})
        shown = STRATEGIES if len(self._matrix.axes.schedule or ()) > 1 else STRATEGIES[:-1]
        label = spec_text(normal) if normal else " · ".join(spec_text(parts[kind]) for kind in shown)
        return {**flags, **parts, **({"dense_layers": dense_layers} if dense_layers else {})}, label, control

    def _settings(self, cell: Cell) -> dict[str, Normal]:
        """What the overrides set for a cell: section or kind -> setting -> value."""
        found: dict[str, Normal] = {}
        for i, override in enumerate(self._matrix.overrides):
            for name, value in override.set.items():
                section, dot, setting = name.partition(".")
                if not dot or section not in _SECTIONS:
                    known = [f"{section}.…" for section in _SECTIONS]
                    raise BadInput(f"overrides[{i}].set: unknown setting {name!r}{nearest(name, known)}")
                if matches(cell.axes, override.when):
                    found.setdefault(section, {})[setting] = value
        return found

    def _components(self, parts: Mapping[str, Normal]) -> dict[str, Any]:
        """What a trial's identity has of its components: full names, versions, the data's revision."""
        found = {kind: self._version(kind, spec) for kind, spec in parts.items()}
        revision = self._registry.resolve("dataset", parts["dataset"]["name"]).metadata.get("revision")
        return {**found, "dataset_revision": revision}

    def _version(self, kind: str, spec: Normal) -> Normal:
        name = repr((kind, spec))
        if name not in self._versions:
            self._versions[name] = _identity(self._registry.versions(kind, spec))
        return self._versions[name]


_NO_CONTROL = ("schedule", "dense", "narrow")
"""Fields of a recipe that make another method of a control: a static one that moves."""

_SECTIONS = ("training", "measure", "model", "dataset", *STRATEGIES, "recipe")


def check_timm_names(training: Training) -> None:
    """Refuse an optimizer or learning-rate schedule that neither we nor timm know, before anything starts."""
    if training.optimizer not in OPTIMIZERS:
        from timm.optim import list_optimizers

        known = [str(name) for name in list_optimizers()]
        if training.optimizer not in known:
            hint = nearest(training.optimizer, [*OPTIMIZERS, *known])
            raise BadInput(f"training.optimizer: unknown optimizer {training.optimizer!r}{hint}")
    if training.schedule not in LR_SCHEDULES and training.schedule not in TIMM_SCHEDULES:
        hint = nearest(training.schedule, [*LR_SCHEDULES, *TIMM_SCHEDULES])
        raise BadInput(f"training.schedule: unknown schedule {training.schedule!r}{hint}")


TIMM_SCHEDULES = ("tanh", "poly", "plateau")
"""What timm.scheduler.create_scheduler_v2 knows beyond ours; it has no list of its own."""


def _with(spec: Any, parameters: Mapping[str, Any]) -> Any:
    """A spec with some parameters set; another ``name`` among them is another component, without the old one's."""
    if not parameters:
        return spec
    base = {"name": spec} if isinstance(spec, str) else spec
    return {**(base if parameters.get("name", base["name"]) == base["name"] else {}), **parameters}


def _identity(versions: Mapping[str, Any]) -> Normal:
    """Without the distribution's version: a release that changes no component keeps every key."""
    kept: Normal = {"name": versions["name"], "version": versions["version"]}
    return {**kept, "share": _identity(versions["share"])} if "share" in versions else kept


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
