"""What a plan will come to: how big its networks are, how often their masks move, what it costs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput
from dstbench.results.record import canonical, read_record, record_files
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.widths import why_not

if TYPE_CHECKING:
    from dstbench.api import LayerInfo
    from dstbench.registration.registry import Registry
    from dstbench.runner.matrix.planned import PlannedTrial

FEW_UPDATES = 10
GUESS = {"core": 1e10, "GPU": 2e12}
"""Dense multiply-accumulates a second that are assumed of one worker where nothing was measured yet."""
_LOST = "the network can't be built for this data: "


@dataclass(frozen=True)
class Profile:
    """A model at a data set's shape, dense."""

    macs: int  # multiply-accumulates of one forward pass of one image
    parameters: int
    layers: tuple[LayerInfo, ...]  # in the budget
    misfit: str | None = None  # why the model can't be built


@dataclass(frozen=True)
class Estimate:
    """What running some trials costs. None: the data set says too little to know."""

    trials: int
    macs: float | None  # that the hardware executes: masked-dense training costs what dense does
    seconds: float | None  # of wall clock
    basis: str  # what the seconds come from
    disk: int | None  # bytes


class Prospect:
    """Looks ahead at trials; remembers each network that it built and each schedule that it played."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._profiles: dict[str, Profile] = {}
        self._updates: dict[str, int] = {}
        self._bounds: dict[str, tuple[dict[str, int], dict[str, int]]] = {}  # least and most weights by layer

    def profile(self, trial: Mapping[str, Any]) -> Profile | None:
        """The trial's model at its data's declared shape; None where the data set declares none.

        Raises BadInput for a model that doesn't exist, or ``dense_layers`` that match nothing.
        """
        shape, classes = self._declared(trial, "input_shape"), self._declared(trial, "num_classes")
        if shape is None or classes is None:
            return None
        patterns = tuple(trial["recipe"].get("dense_layers", ()))
        name = canonical([trial["model"], shape, classes, patterns])
        if name not in self._profiles:
            factory = self._registry.build("model", trial["model"])
            self._profiles[name] = _profile(factory, tuple(shape), classes, patterns)
        return self._profiles[name]

    def infeasible(self, trial: Mapping[str, Any]) -> str | None:
        """Why a trial can't run, as far as that shows without data."""
        found = self.profile(trial)
        if found is None:
            return None
        if trial["recipe"].get("narrow"):
            return found.misfit or why_not(self._registry.build("model", trial["model"]))
        spec = trial["recipe"].get("structure")
        if found.misfit or spec is None:
            return found.misfit
        name = canonical([trial["model"], trial["dataset"], trial["recipe"].get("dense_layers"), spec])
        density = trial["density"]
        reason = self._out_of_bounds(name, found.layers, spec, density)
        start = self._start(trial)
        if reason or start == density:
            return reason
        reason = self._out_of_bounds(name, found.layers, spec, start)
        return reason and f"the schedule {trial['recipe']['schedule']['name']} starts higher: {reason}"

    def _start(self, trial: Mapping[str, Any]) -> float:
        """The density with which the schedule starts."""
        from dstbench.api import Clock

        schedule = self._registry.build("schedule", trial["recipe"]["schedule"])
        first = schedule(Clock(0, 1, 1), trial["density"])
        return trial["density"] if first is None else float(first.final)

    def _out_of_bounds(
        self, name: str, layers: Sequence[LayerInfo], spec: Mapping[str, Any], density: float
    ) -> str | None:
        """Why a structure can't leave every layer a unit at this density, or hold so many; None if it can."""
        from dstbench.api import Infeasible
        from dstbench.core.engine.allocation import bounds, uniform_budget
        from dstbench.core.engine.structures import as_structure, fitted

        infos = {layer.name: layer for layer in layers}
        if name not in self._bounds:
            structure = as_structure(self._registry.build("structure", spec))
            self._bounds[name] = bounds(infos, {n: fitted(structure, layer)[0] for n, layer in infos.items()})
        try:
            uniform_budget(infos, round(density * sum(layer.numel for layer in layers)), *self._bounds[name])
        except Infeasible as error:
            return f"density {density:g}: {error}"
        return None

    def updates(self, trial: Mapping[str, Any]) -> int | None:
        """How many topology updates a trial makes, counted up to FEW_UPDATES; None where that isn't known."""
        schedule, images = trial["recipe"].get("schedule"), self._declared(trial, "train_images")
        if schedule is None or (images is None and schedule["name"] != "never"):
            return None
        training = Training(**trial["training"])
        batches = max(1, (images or 1) // training.batch_size)
        total = max(1, training.epochs * batches // training.gradient_accumulation)
        per_epoch = max(1, batches // training.gradient_accumulation)
        name = canonical([schedule, trial["density"], total, per_epoch])
        if name not in self._updates:
            built = self._registry.build("schedule", schedule)
            self._updates[name] = _count_updates(built, trial["density"], total, per_epoch)
        return self._updates[name]

    def notes(self, trials: Sequence[PlannedTrial]) -> tuple[str, ...]:
        """What to know before starting: masks that never move, and updates too few to tell methods apart."""
        still: list[str] = []
        few: dict[int, list[str]] = defaultdict(list)
        for planned in trials:
            if planned.control or planned.skip or "schedule" not in planned.trial["recipe"]:
                continue
            count = self.updates(planned.trial)
            name = f"{planned.label} at density {planned.trial['density']:g}"
            if count == 0 or planned.trial["density"] == 1:
                still.append(name)
            elif count is not None and count < FEW_UPDATES:
                few[count].append(name)
        found = [f"masks never move in {_some(still)}"] if still else []
        found += [
            f"only {count} topology update{'s' * (count > 1)} in {_some(names)}: at least {FEW_UPDATES} "
            "are needed to compare methods (train longer, or set a smaller delta_t)"
            for count, names in sorted(few.items())
        ]
        return tuple(found)

    def estimate(
        self, trials: Sequence[PlannedTrial], out: Path, workers: int, kind: str = "core"
    ) -> Estimate:
        """What running these trials takes: time from finished trials of the same kind, or else a guess.

        kind: what each worker has, a "core" or a "GPU".
        """
        measured = _measured_seconds(out) if trials else {}
        macs = [self._macs(planned.trial) for planned in trials]
        past = [measured.get(_kind(planned.trial)) for planned in trials]
        spent = [
            m / GUESS[kind] if p is None and m is not None else p for p, m in zip(past, macs, strict=True)
        ]
        disk = [_disk(self.profile(planned.trial)) for planned in trials]
        guessed, seconds = past.count(None), _total(spent)
        guess = f"a guess of {GUESS[kind] / 1e9:g} billion multiply-accumulates a second on a {kind}"
        return Estimate(
            trials=len(trials),
            macs=_total(macs),
            seconds=None if seconds is None else seconds / max(1, workers),
            basis="finished trials of the same kind"
            if not guessed
            else guess
            if guessed == len(trials)
            else f"finished trials of the same kind, and for {guessed} of {len(trials)} trials {guess}",
            disk=None if None in disk else round(sum(filter(None, disk))),
        )

    def _macs(self, trial: Mapping[str, Any]) -> float | None:
        """Multiply-accumulates that training executes: forward, and twice that backward."""
        images, found = self._declared(trial, "train_images"), self.profile(trial)
        if images is None or found is None:
            return None
        share = trial["density"] if trial["recipe"].get("narrow") else 1.0
        return float(3.0 * found.macs * images * trial["training"]["epochs"] * share)

    def _declared(self, trial: Mapping[str, Any], what: str) -> Any:
        """What a data set was registered with, or says of itself at these parameters; None if neither."""
        spec = trial["dataset"]
        if len(spec) == 1:
            return self._registry.resolve("dataset", spec["name"]).metadata.get(what)
        return getattr(self._registry.build("dataset", spec), "declared", {}).get(what)


def _profile(factory: Any, shape: tuple[int, ...], classes: int, dense_layers: tuple[str, ...]) -> Profile:
    from dstbench.core.cost.layers import layer_costs
    from dstbench.core.network.layers import budgeted_layers

    try:
        network = factory(num_classes=classes, input_shape=shape)
        costs = layer_costs(network, shape)
    except BadInput as error:
        raise BadInput(f"axes.model: {error}") from None
    except Exception as error:  # a third party's model may raise anything
        return Profile(0, 0, (), f"{_LOST}{type(error).__name__}: {error}")
    sparse, _ = budgeted_layers(network, dense_layers)
    return Profile(
        macs=sum(layer.macs for layer in costs.values()),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        layers=tuple(layer.info for layer in sparse.values()),
    )


def _count_updates(schedule: Any, density: float, total: int, per_epoch: int) -> int:
    from dstbench.api import Clock

    found = 0
    for step in range(1, total + 1):
        found += schedule(Clock(step, total, per_epoch), density) is not None
        if found == FEW_UPDATES:
            break
    return found


def _some(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return "; ".join(unique[:3]) + more


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _disk(found: Profile | None) -> float | None:
    """float32 weights, packed masks, texts."""
    return None if found is None else 4.2 * found.parameters + 40_000


def _kind(trial: Mapping[str, Any]) -> str:
    """Trials that take about as long."""
    return canonical([trial["model"], trial["dataset"], trial["training"]])


def _measured_seconds(out: Path) -> dict[str, float]:
    """Median seconds of the finished trials in a results folder, by kind."""
    found: dict[str, list[float]] = defaultdict(list)
    for path in record_files(out) if out.is_dir() else ():
        record = read_record(path)
        if isinstance(record, dict) and record["status"] == "ok" and record["measures"].get("seconds"):
            found[_kind(record["trial"])].append(record["measures"]["seconds"])
    return {kind: statistics.median(seconds) for kind, seconds in found.items()}
