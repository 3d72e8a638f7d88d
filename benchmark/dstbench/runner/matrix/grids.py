"""Grids of settings that are tried on validation data: their points, and the trials that try them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from dstbench.results.tuning import Scalar, Settings, is_number
from dstbench.runner.matrix.config import Grid, Matrix, Measure
from dstbench.runner.matrix.key import digest
from dstbench.runner.matrix.planned import PlannedTrial, Tuned
from dstbench.runner.matrix.trial_spec import TrialSpec

KeyOf = Callable[[TrialSpec], str]


def points(grid: Grid) -> tuple[Settings, ...]:
    """All combinations of a grid's values, in the order in which ties between them are decided: nearer to the middle
    first, then the smaller. Numbers lie in their order, other values in that of the file."""
    if not grid:
        return ({},)
    axes = [_in_order(values) for values in grid.values()]
    places = sorted(
        product(*(range(len(values)) for values in axes)),
        key=lambda place: (sum(abs(2 * i - len(v) + 1) for i, v in zip(place, axes, strict=True)), place),
    )
    return tuple(
        dict(zip(grid, (values[i] for i, values in zip(place, axes, strict=True)), strict=True))
        for place in places
    )


def _in_order(values: Sequence[Scalar]) -> list[Scalar]:
    numbers = [value for value in values if is_number(value)]
    return [*sorted(numbers)] if len(numbers) == len(values) else list(values)


def group_of(trial: TrialSpec, per: Sequence[str]) -> str:
    """What trials whose settings are chosen together have in common, as 64 hexadecimal digits. ``trial``: of the
    first candidate."""
    said = trial.to_json()
    kept = ["model", "dataset"]
    kept += ["density"] if "density" in per else []
    kept += ["recipe", "training", "start"] if "method" in per else []
    return digest({name: said.get(name) for name in kept})


def tuned(
    trials: Sequence[PlannedTrial], matrix: Matrix, key_of: KeyOf
) -> tuple[tuple[PlannedTrial, ...], tuple[PlannedTrial, ...]]:
    """The trials of a matrix, each with what decides it, and the tuning trials, each once. What is skipped is not
    tuned."""
    if matrix.tune is None:
        return tuple(trials), ()
    settings, seeds = points(matrix.tune.grid), matrix.tuning_seeds
    tuning: dict[str, PlannedTrial] = {}
    groups: dict[str, list[dict[str, None]]] = {}
    for trial in trials:
        if trial.skip:
            continue
        keys = groups.setdefault(trial.group, [{} for _ in settings])
        for i, spec in enumerate((trial.trial, *(spec for _, spec in trial.others))):
            for seed in seeds:
                tried = replace(spec, seed=seed, evaluated="validation", measure=Measure(throughput=False))
                key = key_of(tried)
                keys[i][key] = None
                tuning.setdefault(
                    key,
                    PlannedTrial(key, tried, trial.label, trial.control, None, settings[i], trial.group),
                )
    decided = tuple(
        replace(trial, others=())
        if trial.skip
        else replace(
            trial,
            tuned=Tuned(trial.key, settings, tuple(tuple(keys) for keys in groups[trial.group])),
        )
        for trial in trials
    )
    return decided, tuple(tuning.values())
