"""What a finished trial measured, as the fields of its record."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from torch import nn

from dstbench.api import StrategyError, Task
from dstbench.core.cost.cost import Cost, Counted, counted
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.results.ranking import TOP1
from dstbench.runner.trial.exploration import Exploration, channel_statistics, plain
from dstbench.runner.trial.running import RunningTrial


def final_measures(running: RunningTrial, figures: Mapping[str, float] | None) -> dict[str, Any]:
    """The task's figures on the test split, sparsity, theoretical cost and resources of the final epoch.

    figures: None of a trial that chooses settings, which never sees test data.
    """
    sparsifier, data = running.sparsifier, running.data
    if not running.meter.samples:
        raise StrategyError(
            "no step was applied: no weight got a gradient that isn't zero in the whole training"
        )
    check_budget(sparsifier)
    blueprint, shape, classes = running.blueprint, data.input_shape, data.num_classes
    sample = blueprint.sample(shape, classes)
    work = running.work  # what a network multiplies doesn't change while it trains
    network = logical_model(running)
    my_count = counted(network, sparsifier.masks, shape, example_input=sample, work=work)
    if blueprint.recipe.narrow:
        full_count = counted(blueprint.dense_model(shape, classes), None, shape, example_input=sample)
    else:
        full_count = counted(network, None, shape, example_input=sample, work=work)
    mine, dense = my_count.cost(), full_count.cost()
    return {
        **(ranked_by(running.task) if figures is None else test_figures(running.task, figures)),
        validation_key(running.task): running.progress.validation,
        "density_requested": 1.0 if blueprint.recipe.dense else blueprint.trial.density,
        **sparsity(sparsifier, running.progress.exploration, mine, dense),
        "live_channels": my_count.live,
        **_flops(running, mine, dense),
        "flops_by_convention": _by_convention(running, my_count, full_count),
        "parameters": mine.parameters,
        "active_parameters": mine.active_parameters,
        "bits": mine.bits,
        "peak_memory": peak_memory(running.accelerator.device),
        "seconds": running.progress.seconds,
        "epochs": running.training.epochs,
        "steps": sparsifier.steps,
        **running.progress.course.measures(),
    }


def test_figures(task: Task, figures: Mapping[str, float]) -> dict[str, Any]:
    """A task's metrics as fields of a record; what ranks, and in which direction, is among them.

    Top-1 has a field of its own, for there were records before there were other tasks.
    """
    if task.metric.key == TOP1.key:
        return dict(figures)
    return {**ranked_by(task), "score": figures[task.metric.key], "metrics": dict(figures)}


def ranked_by(task: Task) -> dict[str, Any]:
    """What ranks, and in which direction, where that isn't top-1."""
    ranking = task.metric
    if ranking.key == TOP1.key:
        return {}
    metric = {"key": ranking.key, "title": ranking.title, "better": ranking.better}
    return {"task": task.name, "metric": metric}


def validation_key(task: Task) -> str:
    """The field, and the curve's, of the ranking metric on the validation split."""
    return "top1_validation" if task.metric.key == TOP1.key else "score_validation"


def logical_model(running: RunningTrial) -> nn.Module:
    """The network as it was built, with the trained weights: where they are stored otherwise, a copy."""
    inner = running.inner
    if running.training.storage == "masked":
        return inner
    whole = running.blueprint.model(running.data.input_shape, running.data.num_classes)
    whole.load_state_dict(inner.state_dict())
    return whole.to(running.accelerator.device)


def check_budget(sparsifier: Sparsifier) -> None:
    """Refuse a training whose schedule didn't come to its end: its density isn't the one asked for."""
    asked, held = round(sparsifier.target_density * sparsifier.size), sum(sparsifier.budget.values())
    if asked != held:
        skipped = sparsifier.steps < sparsifier.total_steps and not sparsifier.evolution.state.waits
        zeros = ", ".join(map(repr, sparsifier.collapsed))
        why = (
            "skipped steps took the last update with them; let the schedule stop earlier"
            if skipped
            else "its last updates had gradients of zeros alone to decide by"
            + (f", and all weights of {zeros} are zero" if zeros else "")
            + ": the network has died"
        )
        raise StrategyError(
            f"{sparsifier.method.schedule}: {held} weights are in the budget after {sparsifier.steps} of "
            f"{sparsifier.total_steps} steps, {asked} were asked for: {why}"
        )


def sparsity(sparsifier: Sparsifier, exploration: Exploration, mine: Cost, full: Cost) -> dict[str, Any]:
    """Requested and measured density, exploration and movement."""
    history, active = sparsifier.history, sparsifier.active
    narrower = mine.weights != full.weights  # it has no masks: its weights against the full model's
    inactive = 0 if narrower else sparsifier.size - sum(active.values())  # what isn't in the budget is dense
    of_full = (mine.weights - inactive) / full.weights
    rows = layer_rows(sparsifier)
    return {
        "density": of_full if narrower else sparsifier.density,
        "density_all": of_full,
        **({"backward_density": sparsifier.backward_density} if sparsifier.trained else {}),
        "layers": rows,
        "r_s": None if sparsifier.method.dense else sparsifier.r_s,
        **exploration.measures(),
        "updates": len(history),
        "changed": sum(report.grown + report.dropped for report in history),
        "churn": fmean(report.grown / report.active for report in history) if history else 0.0,
        "channels_removed": sum(row["removed"] for row in rows),
        "collapsed": len(sparsifier.collapsed),
        "fallbacks": sorted(sparsifier.fallbacks),
        **({"unscored": sorted(sparsifier.unscored)} if sparsifier.unscored else {}),
    }


def layer_rows(sparsifier: Sparsifier) -> list[dict[str, Any]]:
    """One object a layer: requested and measured numbers of weights, exploration, rows removed for good, and its
    channels if it has any."""
    kept, initial, support = sparsifier.kept, sparsifier.initial, sparsifier.support
    statistics = {} if sparsifier.method.dense else channel_statistics(sparsifier)
    return [
        {
            "name": name,
            "shape": list(layer.info.shape),
            "allocation": sparsifier.budget[name],
            "active": sparsifier.active[name],
            "r_s": sparsifier.explored[name] / layer.info.numel,
            "never_dropped": kept[name] / initial[name],
            "removed": int((~support[name].flatten(1).any(1)).sum()) if name in support else 0,
            "channels": plain(statistics.get(name)),
        }
        for name, layer in sparsifier.layers.items()
    ]


def _flops(running: RunningTrial, mine: Cost, full: Cost) -> dict[str, Any]:
    """Theoretical cost against the full dense model; an extended training is set against the plain length."""
    training, _ = running.meter.flops(mine.convention)
    dense_training = 3 * running.meter.samples * full.inference_flops / running.blueprint.recipe.multiplier
    return {
        "convention": mine.convention,
        "inference_flops": mine.inference_flops,
        "dense_inference_flops": full.inference_flops,
        "inference_flops_ratio": mine.inference_flops / full.inference_flops,
        "training_flops": training,
        "dense_training_flops": dense_training,
        "training_flops_ratio": training / dense_training,
        "hardware_flops_ratio": mine.hardware_flops / full.inference_flops,
    }


def _by_convention(running: RunningTrial, mine: Counted, full: Counted) -> dict[str, dict[str, float]]:
    """The ratios to dense by every convention, so that published ones have something of their own to meet."""
    flops = {name: _flops(running, mine.cost(name), full.cost(name)) for name in full.conventions}
    return {
        name: {key: value for key, value in measures.items() if key.endswith("_ratio")}
        for name, measures in flops.items()
    }


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes: the GPU's allocator, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
