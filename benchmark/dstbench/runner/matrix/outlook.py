"""What a plan will come to: how big its networks are, how often their masks move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput, Infeasible, StrategyError, in_a_line
from dstbench.recipe import Clock
from dstbench.registration.registry import Registry
from dstbench.results.labels import spec_text
from dstbench.results.record import canonical
from dstbench.runner.matrix.planned import PlannedTrial
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.matrix.widths import why_not

if TYPE_CHECKING:
    from torch import Tensor

    from dstbench.api import LayerInfo, Task

FEW_UPDATES = 10
_CLASSES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}  # of torch.optim
_LOST = "the network can't be built for this data: "


@dataclass(frozen=True)
class Profile:
    """A model at a data set's shape, dense."""

    macs: int  # multiply-accumulates of one forward pass of one entry
    parameters: int
    layers: tuple[LayerInfo, ...]  # in the budget
    misfit: str | None = None  # why the model can't be built


class Outlook:
    """Looks ahead at trials; remembers each network that it built and each schedule that it played."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._profiles: dict[str, Profile] = {}
        self._updates: dict[str, int] = {}
        self._said: dict[str, Mapping[str, Any]] = {}  # of a data set at its parameters
        self._fitting: set[str] = set()  # networks with what they start from
        self._bounds: dict[str, tuple[dict[str, int], dict[str, int]]] = {}  # least and most weights by layer
        self._odds: dict[str, str | None] = {}  # of methods as they are stored: why they can't be

    def profile(self, trial: TrialSpec) -> Profile | None:
        """The trial's model at its data's declared shape; None where the data set declares none.

        Raises BadInput for a model that doesn't exist, or ``dense_layers`` that match nothing.
        """
        shape, classes = self.declared(trial, "input_shape"), self.declared(trial, "num_classes")
        if shape is None or classes is None:
            return None
        patterns = trial.recipe.dense_layers
        name = canonical([trial.model, shape, classes, patterns])
        if name not in self._profiles:
            factory = self._registry.build("model", trial.model)
            example = self._example(trial, tuple(shape), classes)
            self._profiles[name] = _profile(factory, tuple(shape), classes, patterns, example)
        return self._profiles[name]

    def _example(self, trial: TrialSpec, shape: tuple[int, ...], classes: int) -> Tensor | None:
        """One input to count with, where the data set's task has others than zeros of the shape."""
        return self._task(trial).sample(shape, classes)

    def _task(self, trial: TrialSpec) -> Task:
        """What the data set asks."""
        from dstbench.api import CLASSIFICATION

        asked: Task = getattr(self._registry.build("dataset", trial.dataset), "task", CLASSIFICATION)
        return asked

    def check_task(self, trial: TrialSpec) -> None:
        """Raise BadInput for a setting of the training that the task doesn't know."""
        if trial.training.label_smoothing and not (task := self._task(trial)).smooths:
            raise BadInput(f"training.label_smoothing: the task {task.name} has none")

    def check_start(self, trial: TrialSpec) -> None:
        """Raise BadInput, naming the entries, where what a trial starts from isn't of its network, as far as that
        shows without its data and without fetching anything."""
        from dstbench.runner.matrix.start_fit import check_fit, entries_ahead, needed_by

        shape, classes = self.declared(trial, "input_shape"), self.declared(trial, "num_classes")
        if trial.start is None or shape is None or classes is None:
            return
        name = canonical([trial.model, shape, classes, trial.start.model_dump()])
        if name not in self._fitting and (given := entries_ahead(trial.start, tuple(shape))) is not None:
            network = self._registry.build("model", trial.model)(
                num_classes=classes, input_shape=tuple(shape)
            )
            check_fit(given, needed_by(network), trial.start, spec_text(trial.model))
        self._fitting.add(name)

    def samples_per_entry(self, trial: TrialSpec) -> int:
        """How many samples an evaluation counts in one entry: 1 of an image, the tokens of a window of a text."""
        task = self._task(trial)
        shape, classes = self.declared(trial, "input_shape"), self.declared(trial, "num_classes")
        _, targets = task.made_up(1, tuple(shape), classes)
        return max(1, task.count(targets))

    def infeasible(self, trial: TrialSpec) -> str | None:
        """Why a trial can't run, as far as that shows without data."""
        profile = self.profile(trial)
        if profile is None:
            return None
        if trial.recipe.narrow:
            return profile.misfit or why_not(self._registry.build("model", trial.model))
        if profile.misfit or trial.recipe.dense:
            return profile.misfit
        reason = self._at_odds(trial) or self._out_of_bounds(trial, profile.layers, trial.density)
        start = self._start(trial)
        if reason or start == trial.density:
            return reason
        reason = self._out_of_bounds(trial, profile.layers, start)
        return reason and f"the schedule {trial.components['schedule']['name']} starts higher: {reason}"

    def _at_odds(self, trial: TrialSpec) -> str | None:
        """Why a method's parts don't go together, or not with how its training stores or steps weights; None if they
        do."""
        from dstbench.api import StrategyError
        from dstbench.core.training.method import build_method
        from dstbench.core.training.preparing import check_stored

        storage, optimizer = trial.training.storage, _CLASSES.get(trial.training.optimizer)
        name = canonical([trial.components, storage, optimizer])
        if name not in self._odds:
            try:
                method = build_method(trial.recipe, self._registry)
                first = method.schedule(Clock(0, 1, 1), trial.density)
                check_stored(method, first is not None and first.backward is not None, storage)
                if optimizer:
                    method.values.for_optimizer(optimizer)
                self._odds[name] = None
            except (BadInput, StrategyError) as error:
                self._odds[name] = str(error)
        return self._odds[name]

    def _start(self, trial: TrialSpec) -> float:
        """The density with which the schedule starts."""
        schedule = self._registry.build("schedule", trial.recipe.schedule)
        first = schedule(Clock(0, 1, 1), trial.density)
        return trial.density if first is None else float(first.final)

    def _out_of_bounds(self, trial: TrialSpec, layers: Sequence[LayerInfo], density: float) -> str | None:
        """Why a structure can't leave every layer a unit at this density, or hold so many; None if it can."""
        from dstbench.core.engine.allocation import bounds, uniform_budget
        from dstbench.core.engine.structures import as_structure, fitted

        infos = {layer.name: layer for layer in layers}
        recipe = trial.recipe
        name = canonical([trial.model, trial.dataset, recipe.dense_layers, recipe.structure])
        if name not in self._bounds:
            structure = as_structure(self._registry.build("structure", recipe.structure))
            self._bounds[name] = bounds(infos, {n: fitted(structure, layer)[0] for n, layer in infos.items()})
        try:
            uniform_budget(infos, round(density * sum(layer.numel for layer in layers)), *self._bounds[name])
        except Infeasible as error:
            return f"density {density:g}: {error}"
        return None

    def updates(self, trial: TrialSpec) -> int | None:
        """How many topology updates a trial makes, counted up to FEW_UPDATES; None where that isn't known."""
        schedule, images = trial.components.get("schedule"), self.declared(trial, "train_images")
        if schedule is None or (images is None and schedule["name"] != "never"):
            return None
        training = trial.training
        batches = max(1, (images or 1) // training.batch_size)
        total = max(1, training.epochs * batches // training.gradient_accumulation)
        per_epoch = max(1, batches // training.gradient_accumulation)
        name = canonical([schedule, trial.density, total, per_epoch])
        if name not in self._updates:
            built = self._registry.build("schedule", schedule)
            self._updates[name] = _count_updates(built, trial.density, total, per_epoch)
        return self._updates[name]

    def notes(self, trials: Sequence[PlannedTrial]) -> tuple[str, ...]:
        """What to know before starting: masks that never move, and updates too few to tell methods apart."""
        still: list[str] = []
        few: dict[int, list[str]] = defaultdict(list)
        for planned in trials:
            if planned.control or planned.skip or planned.trial.recipe.dense:
                continue
            count = self.updates(planned.trial)
            name = f"{planned.label} at density {planned.trial.density:g}"
            if count == 0 or planned.trial.density == 1:
                still.append(name)
            elif count is not None and count < FEW_UPDATES:
                few[count].append(name)
        notes = [f"masks never move in {_some(still)}"] if still else []
        notes += [
            f"only {count} topology update{'s' * (count > 1)} in {_some(names)}: at least {FEW_UPDATES} "
            "are needed to compare methods (train longer, or set a smaller delta_t)"
            for count, names in sorted(few.items())
        ]
        return (*notes, *_anew(trials))

    def disk(self, trial: TrialSpec) -> float | None:
        """Bytes of a finished trial: float32 weights, packed masks, texts."""
        profile = self.profile(trial)
        return None if profile is None else 4.2 * profile.parameters + 40_000

    def macs(self, trial: TrialSpec) -> float | None:
        """Multiply-accumulates that training executes: forward, and twice that backward. Masked-dense training
        costs what dense does."""
        images, profile = self.declared(trial, "train_images"), self.profile(trial)
        if images is None or profile is None:
            return None
        share = trial.density if trial.recipe.narrow else 1.0
        return float(3.0 * profile.macs * images * trial.training.epochs * share)

    def declared(self, trial: TrialSpec, what: str) -> Any:
        """What a data set was registered with, or says of itself at these parameters; None if neither."""
        spec = trial.dataset
        if len(spec) == 1 and what in (said := self._registry.resolve("dataset", spec["name"]).metadata):
            return said[what]
        name = canonical(spec)
        if name not in self._said:
            self._said[name] = getattr(self._registry.build("dataset", spec), "declared", {})
        return self._said[name].get(what)


def _profile(
    factory: Any,
    shape: tuple[int, ...],
    classes: int,
    dense_layers: tuple[str, ...],
    example: Tensor | None = None,
) -> Profile:
    from dstbench.core.cost.layers import layer_costs
    from dstbench.core.network.ownership import budgeted_layers

    try:
        network = factory(num_classes=classes, input_shape=shape)
        costs = layer_costs(network, shape, example_input=example)
    except (BadInput, StrategyError) as error:  # a size or a rate that no network has
        raise BadInput(f"axes.model: {error}") from None
    except Exception as error:  # a third party's model may raise anything
        return Profile(0, 0, (), f"{_LOST}{in_a_line(error)}")
    sparse, _ = budgeted_layers(network, dense_layers)
    return Profile(
        macs=sum(layer.macs for layer in costs.values()),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        layers=tuple(layer.info for layer in sparse.values()),
    )


def _count_updates(schedule: Any, density: float, total: int, per_epoch: int) -> int:
    updates = 0
    for step in range(1, total + 1):
        updates += schedule(Clock(step, total, per_epoch), density) is not None
        if updates == FEW_UPDATES:
            break
    return updates


def _anew(trials: Sequence[PlannedTrial]) -> list[str]:
    """Which controls have fresh weights where all others start from some."""
    sources = {t.trial.start.source for t in trials if t.trial.start is not None}
    narrow = {t.label for t in trials if t.trial.recipe.narrow} if sources else set()
    if not narrow:
        return []
    what = _some(sorted(sources))
    return [f"{_some(sorted(narrow))} has fresh weights: {what} doesn't fit a narrower network"]


def _some(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return "; ".join(unique[:3]) + more
