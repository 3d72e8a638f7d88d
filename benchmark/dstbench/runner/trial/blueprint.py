"""A trial's description turned into data, model and sparsifier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dstbench.accel.throughput import PRECISIONS
from dstbench.api import CLASSIFICATION, Batch, DataUnavailable, Recipe, Spec, Task
from dstbench.core.engine.allocation import check_density
from dstbench.core.network.ownership import budgeted_layers
from dstbench.core.training.calibration import Calibration
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.errors import BadInput
from dstbench.recipe import named
from dstbench.registration.registry import Registry
from dstbench.results.labels import spec_text
from dstbench.runner.matrix.start import Start
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.feeding import Data
from dstbench.runner.trial.small_dense import narrow
from dstbench.runner.trial.started import Started, fetched, load_start


@dataclass(frozen=True)
class Blueprint:
    """What a trial names, and where it is looked up. Every method raises BadInput for what isn't registered."""

    trial: TrialSpec
    registry: Registry

    @property
    def recipe(self) -> Recipe:
        """The trial's method."""
        return self.trial.recipe

    @cached_property
    def task(self) -> Task:
        """What the data set asks for; known without data."""
        asked: Task = getattr(self.registry.build("dataset", self.trial.dataset), "task", CLASSIFICATION)
        if self.trial.training.label_smoothing and not asked.smooths:
            raise BadInput(f"training.label_smoothing: the task {asked.name} has none")
        return asked

    def example(self, size: int, input_shape: tuple[int, ...], num_classes: int) -> Batch:
        """A made-up batch like those to come."""
        return self.task.made_up(size, input_shape, num_classes)

    def sample(self, input_shape: tuple[int, ...], num_classes: int) -> Tensor | None:
        """One input to count the cost with, where zeros of that shape won't do."""
        return self.task.sample(input_shape, num_classes)

    def data(self, root: Path | None, download: bool) -> Data:
        """Load the data set. Raises DataUnavailable, saying what was looked for and where."""
        loaded: Data = self.registry.build("dataset", self.trial.dataset)(root, download)
        return loaded

    def dense_model(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The full model, initialised from the trial's seed: the same for every method."""
        factory = self.registry.build("model", self.trial.model)
        torch.manual_seed(self.trial.seed)
        model: nn.Module = factory(num_classes=num_classes, input_shape=input_shape)
        return model

    def model(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The model that the trial trains: the full one, or for small-dense a narrower one."""
        model = self.dense_model(input_shape, num_classes)
        if not self.recipe.narrow:
            return model
        factory = self.registry.build("model", self.trial.model)
        target = parameters_at(model, self.trial.density, self.recipe.dense_layers)
        torch.manual_seed(self.trial.seed)
        return narrow(factory, num_classes, input_shape, target)

    def started(
        self, model: nn.Module, input_shape: tuple[int, ...], root: Path | None, download: bool
    ) -> Started | None:
        """Put the weights that the trial starts from into its model; None where it has none but its seed's. Raises
        BadInput where they don't fit, DataUnavailable where they aren't here."""
        start = self.trial.start
        if start is None:
            return None
        return load_start(
            start, model, spec_text(self.trial.model), input_shape, fetched(start, root, download)
        )

    def sparsifier(
        self,
        model: nn.Module,
        optimizer: Any,
        steps_per_epoch: int,
        example_input: Tensor,
        batches: Iterable[Batch] | None = None,
    ) -> Sparsifier:
        """What trains the model, stored as the trial says; measured, where it must be, in the trial's precision.
        batches: for an init that looks at some before training; else at ``example_input``, which it learns nothing
        from.
        """
        if batches is None:
            size, *shape = example_input.shape
            _, targets = self.task.made_up(size, tuple(shape), 2)
            batches = [(example_input, targets)]
        training = self.trial.training
        # the model is the narrower one already
        recipe = self.recipe.but(narrow=False, dense=True) if self.recipe.narrow else self.recipe
        precision = PRECISIONS[training.mixed_precision]
        with torch.autocast(example_input.device.type, precision, enabled=precision is not None):
            return Sparsifier(
                model,
                optimizer,
                recipe,
                self.trial.density,
                total_steps=training.epochs * steps_per_epoch,
                steps_per_epoch=steps_per_epoch,
                seed=self.trial.seed,
                storage=training.storage,
                example_input=example_input,
                registry=self.registry,
                calibration=Calibration(batches, self.task.loss),
            )


def parameters_at(model: nn.Module, density: float, dense_layers: tuple[str, ...] = ()) -> int:
    """All parameters of a model but the weights that a density leaves inactive."""
    layers, _ = budgeted_layers(model, dense_layers)
    weights = sum(layer.info.numel for layer in layers.values())
    inactive = weights - round(check_density(density) * weights)
    return sum(parameter.numel() for parameter in model.parameters()) - inactive


def load_data(registry: Registry, spec: Spec, data_root: str | Path | None, download: bool) -> Data:
    """Load a data set. Raises BadInput where its files aren't there."""
    try:
        data: Data = registry.build("dataset", spec)(data_root and Path(data_root), download)
    except DataUnavailable as error:
        raise BadInput(f"dataset {named(spec)['name']!r}: {error}") from error
    return data


def find_start(start: Start, data_root: str | Path | None, download: bool) -> None:
    """Find, or download, what trials start from. Raises BadInput where it isn't here."""
    try:
        fetched(start, Path(data_root) if data_root else None, download)
    except DataUnavailable as error:
        raise BadInput(str(error)) from error
