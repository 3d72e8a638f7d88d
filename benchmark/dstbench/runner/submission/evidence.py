"""What a result's figures have to be: counted, evaluated and retrained anew, whatever its record says."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dstbench.api import DataUnavailable
from dstbench.core.cost.cost import Cost, counted
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.errors import BadInput
from dstbench.results.ranking import TOP1
from dstbench.results.rules import EVALUATION
from dstbench.runner.matrix.config import Training
from dstbench.runner.submission import weights
from dstbench.runner.submission.weights import Weights
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.exploration import Exploration
from dstbench.runner.trial.feeding import Data, fingerprint
from dstbench.runner.trial.loop import evaluate, train
from dstbench.runner.trial.measures import ranked_by, sparsity, test_figures, validation_key
from dstbench.runner.trial.optimization import memory_format
from dstbench.runner.trial.running import CURVE, RunningTrial
from dstbench.runner.trial.started import fetched
from dstbench.runner.trial.trial import build_trial, example_batch, run_trial

LARGEST = 2**33
"""Parameters of a network that is rebuilt: more than that is an attack, not a benchmark."""
_OF_MASKS = ("density", "density_all", "collapsed", "fallbacks")
_OF_A_LAYER = ("name", "shape", "active", "channels")
_RATIOS = ("inference_flops_ratio", "hardware_flops_ratio")
RESOURCES = ("seconds", "peak_memory", "throughput")
"""Measures that no second training gives again."""


@dataclass(frozen=True)
class Evidence:
    """Figures that were made again."""

    check: str  # "checkpoint", "evaluation", "replay"
    measures: Mapping[str, Any]  # as in a record, those that follow
    provenance: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[Mapping[str, Any], ...] = ()  # the lines of ``curve.jsonl``
    steps: int = 0  # retrained
    earlier: Mapping[str, Any] = field(default_factory=dict)  # measures as earlier versions gave them


def recounted(blueprint: Blueprint, folder: Path, shape: tuple[int, ...], classes: int) -> Evidence:
    """Density by layer, parameters, FLOPs and bits of the checkpoint in ``folder``. No data are needed.

    Raises BadInput where the checkpoint is damaged, of another network, or has masks that the structure doesn't
    allow or of another size than the density asks for.
    """
    model, loaded = _network(blueprint, folder, shape, classes)
    sample = blueprint.sample(shape, classes)
    sparsifier = _sparsifier(blueprint, model, shape, classes)
    if not sparsifier.method.dense:
        sparsifier.set_masks(dict(loaded.masks))
    elif loaded.masks:
        raise BadInput(f"{weights.FILE}: expected no masks of a network that is dense")
    full = counted(blueprint.dense_model(shape, classes), None, shape, example_input=sample)
    mine = counted(model, sparsifier.masks, shape, example_input=sample)
    costs = {name: (mine.cost(name), full.cost(name)) for name in full.conventions}
    own, whole = mine.cost(), full.cost()
    sparse = sparsity(sparsifier, Exploration(), own, whole)
    layers = [{name: row[name] for name in _OF_A_LAYER} for row in sparse["layers"]]
    return Evidence(
        "checkpoint",
        {
            **{name: sparse[name] for name in _OF_MASKS},
            **({} if sparsifier.trained else {"backward_density": None}),
            "layers": layers,
            "live_channels": mine.live,
            "convention": own.convention,
            "inference_flops": own.inference_flops,
            "dense_inference_flops": whole.inference_flops,
            **_ratios(own, whole),
            "flops_by_convention": {name: _ratios(*pair) for name, pair in costs.items()},
            "parameters": own.parameters,
            "active_parameters": own.active_parameters,
            "bits": own.bits,
        },
        earlier={"density_all": _without_tied_heads(sparsifier, whole.weights)},
    )


def _without_tied_heads(sparsifier: Sparsifier, weights: int) -> float:
    """``density_all`` as long as a head whose weight is an embedding's wasn't counted among the active ones."""
    dense = sum(layer.info.numel for layer in sparsifier.dense_layers.values())
    return (sum(sparsifier.active.values()) + dense) / weights


def evaluated(blueprint: Blueprint, folder: Path, data: Place) -> Evidence:
    """The metrics of the checkpoint in ``folder``, and what follows from the data's size."""
    with tempfile.TemporaryDirectory() as scratch:
        trial = replace(blueprint.trial, start=None)  # the checkpoint's weights take their place
        running = _built(replace(blueprint, trial=trial), Path(scratch), data)
        loaded = running.data
        model, _ = _network(blueprint, folder, loaded.input_shape, loaded.num_classes)
        model.to(running.accelerator.device).to(memory_format=memory_format(running.training))
        running = replace(running, model=model)
        task, shape, classes = blueprint.task, loaded.input_shape, loaded.num_classes
        tested = None if blueprint.trial.tunes else evaluate(running, loaded.test)
        validation = evaluate(running, loaded.validation)[task.metric.key] if len(loaded.validation) else None
        training, recipe = blueprint.trial.training, blueprint.recipe
        per_epoch = len(running.batches) // training.gradient_accumulation
        steps = training.epochs * per_epoch
        sample = blueprint.sample(shape, classes)
        dense = counted(blueprint.dense_model(shape, classes), None, shape, example_input=sample)
        samples = steps * training.batch_size * training.gradient_accumulation
        figures = {
            **dict.fromkeys(
                ("task", "metric", "score", "metrics") if task.metric.key == TOP1.key else ("top1",)
            ),
            **(ranked_by(task) if tested is None else test_figures(task, tested)),
            validation_key(task): validation,
            "steps": steps,
            "dense_training_flops": 3 * samples * dense.cost().inference_flops / recipe.multiplier,
            "updates": _updates(blueprint, steps, per_epoch),
        }
        return Evidence(
            "evaluation", figures, {"dataset_fingerprint": fingerprint(loaded), "evaluation": EVALUATION}
        )


def replayed(blueprint: Blueprint, data: Place, steps: int) -> Evidence:
    """The losses and the hashes of the masks of the first steps, trained anew, and the curve as far as it got."""
    with tempfile.TemporaryDirectory() as scratch:
        running = _built(blueprint, Path(scratch), data)
        running.last_step = steps
        (Path(scratch) / CURVE).write_text("", encoding="utf-8")
        train(running)
        course = running.progress.course.measures()
        made = running.sparsifier.steps
        origin = {} if running.started is None else {"start": running.started.provenance()}
        return Evidence("replay", course, origin, curve=_curve(Path(scratch)), steps=made)


def reproduced(blueprint: Blueprint, data: Place) -> Evidence:
    """Everything, trained anew to the end. Raises BadInput where that fails."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        record = run_trial(
            blueprint.trial, folder, data_root=data.root, device=data.device, registry=blueprint.registry
        )
        if record["status"] != "ok":
            raise BadInput(f"retraining ended {record['status']}: {record['reason']}")
        measures = {name: value for name, value in record["measures"].items() if name not in RESOURCES}
        origin = {name: value for name, value in record["provenance"].items() if name == "start"}
        return Evidence("replay", measures, origin, curve=_curve(folder), steps=measures["steps"])


@dataclass(frozen=True)
class Place:
    """Where a data set's files are, and on what is computed."""

    root: Path | None = None
    device: str = "auto"


def load(blueprint: Blueprint, data: Place) -> Data:
    """The data set. Raises DataUnavailable."""
    return blueprint.data(data.root, False)


def missing_start(blueprint: Blueprint, data: Place) -> str | None:
    """Why the weights that a trial starts from aren't to be had here; None where they are, or where it has none."""
    if (start := blueprint.trial.start) is None:
        return None
    try:
        fetched(start, data.root, False)
    except (BadInput, DataUnavailable) as error:
        return str(error)
    return None


def _network(
    blueprint: Blueprint, folder: Path, shape: tuple[int, ...], classes: int
) -> tuple[nn.Module, Weights]:
    """The trial's network with the checkpoint's weights in it. One that is absurdly large isn't even built."""
    factory = blueprint.registry.build("model", blueprint.trial.model)
    with torch.device("meta"):
        size = sum(value.numel() for value in factory(num_classes=classes, input_shape=shape).parameters())
    if size > LARGEST:
        raise BadInput(f"trial.model: expected at most {LARGEST:,} parameters, got {size:,}")
    model = blueprint.model(shape, classes)
    loaded = weights.read(folder / weights.FILE, model)
    model.load_state_dict(dict(loaded.state))
    return model, loaded


def _sparsifier(blueprint: Blueprint, model: nn.Module, shape: tuple[int, ...], classes: int) -> Sparsifier:
    """One that holds the network's masks: it trains nothing."""
    plain: Training = blueprint.trial.training.model_copy(update={"storage": "masked"})
    masked = replace(blueprint, trial=replace(blueprint.trial, training=plain))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return masked.sparsifier(model, optimizer, 1, example_batch(masked, shape, classes, torch.device("cpu")))


def _built(blueprint: Blueprint, scratch: Path, data: Place) -> RunningTrial:
    torch.set_num_threads(blueprint.trial.training.threads)
    return build_trial(blueprint, scratch, data.root, False, data.device)


def _ratios(mine: Cost, full: Cost) -> dict[str, float]:
    values = (mine.inference_flops, mine.hardware_flops)
    return {name: value / full.inference_flops for name, value in zip(_RATIOS, values, strict=True)}


def _updates(blueprint: Blueprint, steps: int, per_epoch: int) -> int:
    """How many topology updates the schedule makes of a training of this length."""
    from dstbench.recipe import Clock

    if blueprint.recipe.dense or blueprint.recipe.narrow:
        return 0
    schedule = blueprint.registry.build("schedule", blueprint.recipe.schedule)
    density = blueprint.trial.density
    return sum(schedule(Clock(step, steps, per_epoch), density) is not None for step in range(1, steps + 1))


def _curve(folder: Path) -> tuple[Mapping[str, Any], ...]:
    from dstbench.results.curve_file import curve_points

    return tuple(curve_points(folder / CURVE)[0])
