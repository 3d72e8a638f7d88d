"""What a run asks of an executor: a job for every trial that is missing, and for every timing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.recipe import named
from dstbench.registration.registry import Registry
from dstbench.results.record import folder_of
from dstbench.results.tuning import settings_said
from dstbench.runner.execution.missing import State
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.server import LAZY
from dstbench.runner.execution.worker import Job, record_skip
from dstbench.runner.matrix.axes import COMPONENTS
from dstbench.runner.matrix.config import Budget, Matrix, OnError
from dstbench.runner.matrix.key import digest
from dstbench.runner.matrix.planned import PlannedTrial


@dataclass(frozen=True)
class Tasks:
    """The functions that run and time a trial, as "module:function"."""

    train: str = "dstbench.runner.trial.trial:run_trial"
    measure: str = "dstbench.runner.trial.throughput:measure_throughput"


def order_of(
    root: Path,
    due: Sequence[PlannedTrial],
    timed: Sequence[PlannedTrial],
    before: Mapping[str, State],
    budget: Budget,
    options: Mapping[str, Any],
    *,
    source: Registry,
    tasks: Tasks,
    retried: frozenset[str],
    on_error: OnError,
    tuning: str | None = None,
) -> Order:
    """Trials to train and to time, with what there is ``before``. options: keyword arguments of a training; tuning:
    what was spent on choosing settings, in words; None: as the budget says."""
    said = {"tuning": budget.tuning if tuning is None else tuning}
    stops = digest({"stop": sorted(t.key for t in due)})[:16] if on_error == "stop" else None
    train = [
        _job(
            root, t, tasks.train, budget, _named(options, t), before[t.key],
            # a trial without a record has nothing to replace: it would be tried again as often as it fails
            retry=frozenset() if before[t.key] is None else retried, provenance=said, stops_with=stops,
        )
        for t in due
    ]  # fmt: skip
    device = {"device": options["device"]}
    measure = [
        _job(
            root, t, tasks.measure, budget, device, before[t.key], phase="throughput", stops_with=stops
        )
        for t in timed
    ]  # fmt: skip
    return Order(root, tuple(train), tuple(measure), tuple(modules_of([*due, *timed], source, tasks)))


def write_skips(root: Path, trials: Sequence[PlannedTrial], before: Mapping[str, State]) -> None:
    """Records of what the plan found impossible, where there are none."""
    for trial in trials:
        if trial.skip and before[trial.key] is None:
            record_skip(_job(root, trial, "", Budget(), {}), str(trial.skip))


def modules_of(trials: Sequence[PlannedTrial], registry: Registry, tasks: Tasks) -> list[str]:
    """Modules that trials need: loaded once in the server instead of once a trial."""
    used = ((kind, spec["name"]) for trial in trials for kind, spec in trial.trial.components.items())
    return _modules(dict.fromkeys(used), registry, tasks)


def likely_modules(matrix: Matrix, registry: Registry, tasks: Tasks) -> list[str]:
    """What ``modules_of`` its trials will come to, but for what recipes choose: no plan is needed."""
    specs = [(kind, spec) for kind in COMPONENTS for spec in getattr(matrix.axes, kind) or ()]
    with suppress(BadInput, KeyError):  # the plan will say what is wrong, and where
        return _modules(dict.fromkeys((kind, named(spec)["name"]) for kind, spec in specs), registry, tasks)
    return _modules((), registry, tasks)


def _modules(components: Iterable[tuple[str, str]], registry: Registry, tasks: Tasks) -> list[str]:
    modules = {task.partition(":")[0]: None for task in (tasks.train, tasks.measure)}
    modules |= dict.fromkeys(LAZY)
    for kind, name in components:
        target = registry.resolve(kind, name).target
        modules[target.partition(":")[0] if isinstance(target, str) else target.__module__] = None
    return list(modules)


def _job(
    root: Path,
    trial: PlannedTrial,
    task: str,
    budget: Budget,
    options: Mapping[str, Any],
    state: State = None,
    **more: Any,
) -> Job:
    """A job on a trial, whose state it may change: another's, who comes in between, it leaves."""
    return Job(
        trial.key,
        trial.trial,
        trial.label,
        trial.control,
        folder_of(root.absolute(), trial.key),  # a plugin may change the working directory
        task,
        limit=budget.trial_seconds,
        memory=budget.trial_memory,
        options=options,
        replaces=state["checksum"] if isinstance(state, dict) else None,
        settings=trial.settings,
        tuned=trial.tuned,
        **more,
    )


def _named(options: Mapping[str, Any], trial: PlannedTrial) -> Mapping[str, Any]:
    """Options of a trial, with what trackers, if there are any, call it."""
    if not options.get("trackers"):
        return options
    spec = trial.trial
    where = f"{spec.model['name']}, {spec.dataset['name']}, density {spec.density:g}, seed {spec.seed}"
    said = f", {settings_said(trial.settings)}" if trial.settings else ""
    name = f"{'tuning ' if spec.tunes else ''}{trial.label}, {where}{said}"
    return {**options, "run_name": _ODD.sub("-", name)[:200]}


_ODD = re.compile(r"[^\w=(). -]+")  # it becomes a folder name
