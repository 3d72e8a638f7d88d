"""A plan: the trials of a matrix, each resolved, checked and given its key. Runs nothing, needs no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import PARTS, STRATEGIES
from dstbench.recipe import Normal, Recipe, Spec, named, parts_of
from dstbench.registration.choice import Choice
from dstbench.registration.registry import Registry
from dstbench.results.labels import spec_text, value_text
from dstbench.results.printable import shown
from dstbench.runner.matrix.axes import COMPONENTS
from dstbench.runner.matrix.cells import Cell, cells
from dstbench.runner.matrix.config import LR_SCHEDULES, OPTIMIZERS, Matrix, Measure, Training
from dstbench.runner.matrix.grids import group_of, points, tuned
from dstbench.runner.matrix.key import trial_key
from dstbench.runner.matrix.matching import matches
from dstbench.runner.matrix.outlook import Outlook
from dstbench.runner.matrix.planned import Plan, PlannedTrial
from dstbench.runner.matrix.start import Start, changed, pinned
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.matrix.validation import validated

Settings = Mapping[str, Mapping[str, Any]]
"""Section or kind -> setting -> value."""


MOST_CELLS = 10_000
"""A matrix of more is more often a typing error than a plan."""
MOST_MATCHES = 1_000_000
"""Seconds, of cells held against rules."""


def plan(matrix: Matrix, registry: Registry, *, yes: bool = False) -> Plan:
    """Resolve every cell, and build every model once for its size.

    yes: also where there are more than MOST_CELLS of them, or MOST_MATCHES with rules, which is refused otherwise.
    Raises BadInput for every unknown name or parameter, naming the axis. A model that can't take a data
    set's images, or a density at which a layer would be empty, is a trial to skip, with its reason.
    """
    if not yes:
        _check_size(matrix)
    resolver = _Resolver(matrix, registry)
    resolver.check()
    kept, excluded = cells(matrix)
    if not kept:
        raise BadInput(f"{matrix.name}: include and exclude leave no cell of the matrix")
    ahead = Outlook(registry)
    unique: dict[str, PlannedTrial] = {}
    for cell in kept:
        trial = resolver.trial(cell)
        known = unique.get(trial.key)
        unique[trial.key] = replace(known, control=known.control or trial.control) if known else trial
    trials = [replace(trial, skip=ahead.infeasible(trial.trial)) for trial in unique.values()]
    _check_validation(matrix, trials, ahead)
    for trial in trials:
        if trial.skip is None:
            ahead.check_start(trial.trial)
            for tried in (trial.trial, *(other for _, other in trial.others)):
                ahead.check_task(tried)
    decided, tuning = tuned(trials, matrix, resolver.key)
    _check_batches(matrix, decided, ahead)
    return Plan(matrix, decided, excluded, len(kept) - len(trials), ahead.notes(trials), tuning=tuning)


def _check_validation(matrix: Matrix, trials: Sequence[PlannedTrial], ahead: Outlook) -> None:
    """Refuse to tune on data that is known to have no validation split."""
    for trial in trials if matrix.tune else ():
        if ahead.declared(trial.trial, "validation_images") == 0:
            raise BadInput(f"{matrix.name}: {without_validation(trial.trial.dataset)}")


def _check_batches(matrix: Matrix, trials: Sequence[PlannedTrial], ahead: Outlook) -> None:
    """Refuse trainings that are known to have no whole batch, or no step, in an epoch."""
    for trial in trials:
        training, entries = trial.trial.training, ahead.declared(trial.trial, "train_images")
        if trial.skip is not None or entries is None:
            continue
        where = f"{matrix.name}: {trial.label}: training"
        if training.batch_size > entries:
            raise BadInput(
                f"{where}.batch_size: {training.batch_size:,} is more than the {entries:,} training entries of "
                f"{spec_text(trial.trial.dataset)}: no whole batch; choose at most {entries:,}"
            )
        if training.gradient_accumulation > (batches := entries // training.batch_size):
            raise BadInput(
                f"{where}.gradient_accumulation: {training.gradient_accumulation:,} is more than the {batches:,} "
                f"batches of an epoch of {spec_text(trial.trial.dataset)}: no step would be applied"
            )


def without_validation(dataset: Spec) -> str:
    """Why nothing can be tuned on a data set."""
    return (
        f"tune: the data set {spec_text(dataset)} has no validation split to choose settings on, and test data is "
        "never chosen by: give it one (`validation`), or leave `tune` out"
    )


def _check_size(matrix: Matrix) -> None:
    """Raise BadInput, with the numbers, where a matrix has more cells, or more rules for them, than is meant."""
    tries = prod(map(len, matrix.tune.grid.values())) * len(matrix.tuning_seeds) if matrix.tune else 0
    cells, rules = matrix.axes.cells, len(matrix.conditions)
    said = "if that is meant, say so with --yes (yes=True)"
    if cells > MOST_CELLS:
        raise BadInput(
            f"{matrix.name}: {cells:,} cells ({_lengths(matrix)}), more than {MOST_CELLS:,}: {said}"
        )
    if cells * tries > MOST_CELLS:
        raise BadInput(
            f"{matrix.name}: {cells:,} cells with {tries:,} trainings each to tune them, more than {MOST_CELLS:,}: "
            f"{said}"
        )
    if cells * rules > MOST_MATCHES:
        raise BadInput(
            f"{matrix.name}: {cells:,} cells to hold against {rules:,} rules of include, exclude and overrides, "
            f"more than {MOST_MATCHES:,} times: {said}"
        )


def _lengths(matrix: Matrix) -> str:
    """``seed 1,000, density 20``: the axes that are longer than one, the longest first."""
    lengths = [(len(values), axis) for axis, values in matrix.axes if len(values or ()) > 1]
    return ", ".join(f"{axis} {length:,}" for length, axis in sorted(lengths, reverse=True))


class _Resolver:
    """Turns cells into trials, remembering what it has resolved."""

    def __init__(self, matrix: Matrix, registry: Registry) -> None:
        self._matrix = matrix
        self._registry = registry
        self._training = matrix.training.model_dump()
        self._measure = matrix.measure.model_dump()
        self._points = points(matrix.tune.grid if matrix.tune else {})
        self._choices: dict[str, Choice] = {}
        self._starts: dict[str, Start | None] = {}  # by what overrides change

    def check(self) -> None:
        """Resolve every name on every axis, so that an error says where it is; raise them all at once."""
        problems: list[str] = []
        for axis in COMPONENTS:
            specs = getattr(self._matrix.axes, axis) or ()
            problems += [p for i, s in enumerate(specs) if (p := self._problem(axis, s, f"axes.{axis}[{i}]"))]
        for i, spec in enumerate(self._matrix.controls):
            problems += filter(None, [self._problem("recipe", spec, f"controls[{i}]")])
        if problems:
            raise BadInput("\n".join(f"{self._matrix.name}: {problem}" for problem in problems))
        check_timm_names(self._matrix.training)

    def _choose(self, kind: str, spec: Spec) -> Choice:
        """The same question to the registry, asked once for each component."""
        name = repr((kind, spec))
        if name not in self._choices:
            self._choices[name] = self._registry.choose(kind, spec)
        return self._choices[name]

    def _normal(self, kind: str, spec: Spec) -> Normal:
        return self._choose(kind, spec).normal

    def _problem(self, kind: str, spec: Any, path: str) -> str | None:
        try:
            self._normal(kind, spec)
        except BadInput as error:
            return f"{path}: {error}"
        return None

    def trial(self, cell: Cell) -> PlannedTrial:
        """Resolve one cell."""
        settings = self._settings(cell)
        recipe, label, control = self._recipe(cell, settings)
        model, dataset = (
            self._normal(kind, _with(cell.axes[kind], settings.get(kind, {})))
            for kind in ("model", "dataset")
        )
        base = {**self._training, **settings.get("training", {})}
        start = None if recipe.narrow else self._start(settings.get("start", {}), label)
        trainings = [validated(Training, {**base, **point}, _tried(label, point)) for point in self._points]
        first, *others = (
            TrialSpec(
                model,
                dataset,
                1.0 if recipe.dense else cell.axes["density"],
                cell.axes["seed"],
                recipe,
                training.extended(recipe.multiplier),
                validated(Measure, {**self._measure, **settings.get("measure", {})}, label),
                start=start,
            )
            for training in trainings
        )
        tune = self._matrix.tune
        return PlannedTrial(
            self.key(first), first, label, control, settings=self._points[0],
            group=group_of(first, tune.per) if tune else "",
            others=tuple((self.key(other), other) for other in others),
        )  # fmt: skip

    def key(self, trial: TrialSpec) -> str:
        """A trial's key."""
        return trial_key(trial, self._choose)

    def _start(self, changes: Mapping[str, Any], label: str) -> Start | None:
        """What a trial starts from: as the matrix has it, with what overrides set."""
        own = self._matrix.start
        name = repr(changes)
        if name not in self._starts:
            settings = changed({} if own is None else own.model_dump(exclude_unset=True), changes)
            self._starts[name] = pinned(validated(Start, settings, f"{label}: start")) if settings else None
        return self._starts[name]

    def _recipe(self, cell: Cell, settings: Settings) -> tuple[Recipe, str, str | None]:
        """A cell's method with its parts in canonical form, its label, and which control it is."""
        if "recipe" not in cell.axes:
            recipe = self._resolved(Recipe(**{kind: cell.axes[kind] for kind in PARTS}), settings)
            several = len(self._matrix.axes.schedule or ()) > 1 or "name" in settings.get("schedule", {})
            shown: tuple[str, ...] = STRATEGIES if several else STRATEGIES[:-1]
            shown += ("values",) if "values" in parts_of(recipe) else ()
            return recipe, " · ".join(spec_text(getattr(recipe, kind)) for kind in shown), None
        choice = self._choose("recipe", _with(cell.axes["recipe"], settings.get("recipe", {})))
        normal, control = choice.normal, choice.component.metadata.get("control")
        built: Recipe = choice.make()
        if built.dense:
            recipe, label = Recipe(dense=True, multiplier=built.multiplier), normal
        else:
            recipe = self._resolved(built, settings)
            label = {**normal, **self._put_in(recipe, built, settings)}
        return recipe, spec_text(label), None if label.keys() & _NO_CONTROL else control

    def _put_in(self, recipe: Recipe, built: Recipe, settings: Settings) -> dict[str, str]:
        """The components that overrides put in place of a recipe's own, which its label has to say."""
        new = {
            kind: str(named(getattr(recipe, kind))["name"])
            for kind in PARTS
            if "name" in settings.get(kind, {})
        }
        return {k: v for k, v in new.items() if self._normal(k, getattr(built, k))["name"] != v}

    def _resolved(self, recipe: Recipe, settings: Settings) -> Recipe:
        """A recipe with its parts in canonical form, and the layers that the matrix keeps dense."""
        parts: dict[str, Spec] = {
            kind: self._normal(kind, _with(getattr(recipe, kind), settings.get(kind, {}))) for kind in PARTS
        }
        if parts["values"] == {"name": "keep"}:  # said as a recipe has it: records say nothing of it
            parts["values"] = Recipe().values
        return recipe.but(
            **parts, dense_layers=tuple(sorted({*recipe.dense_layers, *self._matrix.dense_layers}))
        )

    def _settings(self, cell: Cell) -> Settings:
        """What the overrides set for a cell."""
        settings: dict[str, dict[str, Any]] = {}
        for i, override in enumerate(self._matrix.overrides):
            for name, value in override.set.items():
                section, dot, setting = name.partition(".")
                if not dot or section not in _SECTIONS:
                    known = [f"{section}.…" for section in _SECTIONS]
                    raise BadInput(f"overrides[{i}].set: unknown setting {shown(name)}{nearest(name, known)}")
                if matches(cell.axes, override.when):
                    settings.setdefault(section, {})[setting] = value
        return settings


_NO_CONTROL = ("schedule", "dense", "narrow")
"""Fields of a recipe that make another method of a control: a static one that moves."""

_SECTIONS = ("training", "measure", "start", *COMPONENTS)


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


def _tried(label: str, point: Mapping[str, Any]) -> str:
    """A method with the settings that a tuning trial tries, for errors."""
    settings = " ".join(f"{name}={value_text(value)}" for name, value in point.items())
    return f"{label}, tune: {settings}" if settings else label


def _with(spec: Spec, parameters: Mapping[str, Any]) -> Spec:
    """A spec with some parameters set; another ``name`` among them is another component, without the old one's."""
    if not parameters:
        return spec
    base = named(spec)
    return {**(base if parameters.get("name", base["name"]) == base["name"] else {}), **parameters}
