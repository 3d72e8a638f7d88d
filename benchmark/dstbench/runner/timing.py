"""Measured throughput of a finished trial, side by side with dense in one process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dstbench.accel.throughput import compare, inference_call, training_call
from dstbench.core import state
from dstbench.core.sparsifier import Sparsifier
from dstbench.registration.registry import Registry
from dstbench.registration.registry import registry as default_registry
from dstbench.runner.build import Blueprint
from dstbench.runner.config import Measure, Training
from dstbench.runner.optimization import build_optimizer, memory_format
from dstbench.runner.trial import STATE


def measure_throughput(
    record: Mapping[str, Any],
    folder: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    contended: bool = False,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """The ``throughput`` field of a finished trial's record, from the weights and masks in its folder.

    ``contended`` says that something else may be running: the figures are then shown but not ranked.
    """
    trial = record["trial"]
    if threads:
        torch.set_num_threads(threads)
    settings, training = Measure(**trial.get("measure", {})), Training(**trial["training"])
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    saved = torch.load(folder / STATE, weights_only=True)
    blueprint = Blueprint.of(trial, registry or default_registry())
    shape, classes = tuple(saved["input_shape"]), saved["num_classes"]
    sparse, dense = blueprint.model(shape, classes), blueprint.dense_model(shape, classes)
    sparse.load_state_dict(saved["model"])
    layout = memory_format(training)
    sparse.to(where).to(memory_format=layout)
    dense.to(where).to(memory_format=layout)
    size = settings.batch_size or training.batch_size
    images = torch.randn(size, *shape, device=where).contiguous(memory_format=layout)
    labels = torch.randint(0, classes, (size,), device=where)
    sparsifier, step = _training_step(blueprint, sparse, training, saved["masks"])
    dense_optimizer = build_optimizer(dense, training)
    calls = {
        "train": (
            training_call(sparse, step, images, labels, training.mixed_precision),
            training_call(dense, dense_optimizer, images, labels, training.mixed_precision),
        ),
        "inference": (
            inference_call(sparse, images, training.mixed_precision),
            inference_call(dense, images, training.mixed_precision),
        ),
    }
    timed = {
        name: compare(mine, other, size, settings.rounds, settings.warmup)
        for name, (mine, other) in calls.items()
    }
    return {
        "path": "dense" if sparsifier.method.dense else "masked-dense",
        "batch_size": size,
        "precision": {"no": "float32"}.get(training.mixed_precision, training.mixed_precision),
        "threads": torch.get_num_threads(),
        "device": str(where),
        "rounds": settings.rounds,
        "contended": contended,
        **timed,
    }


def _training_step(
    blueprint: Blueprint, model: nn.Module, training: Training, packed: Mapping[str, torch.Tensor]
) -> tuple[Sparsifier, Sparsifier]:
    """A sparsifier that holds the trained masks and never updates: plain steps are what is compared."""
    recipe = blueprint.recipe.but(schedule="never", init="uniform")
    density = blueprint.trial["density"]
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    sparsifier = Sparsifier(
        model,
        build_optimizer(model, training),
        recipe,
        density,
        total_steps=1,
        registry=blueprint.registry,
    )
    model.load_state_dict(saved)
    sparsifier.set_masks({n: state.unpack(packed[n], layer.weight) for n, layer in sparsifier.layers.items()})
    return sparsifier, sparsifier
