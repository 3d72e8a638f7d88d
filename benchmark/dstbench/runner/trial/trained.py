"""The network of a finished trial, from the weights and masks that its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dstbench.api import Batch, Layout, Structure
from dstbench.core.network.layers import maskable_layers
from dstbench.core.training import checkpoint
from dstbench.errors import BadInput, in_a_line
from dstbench.registration.registry import Registry
from dstbench.registration.registry import registry as default_registry
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import tensor_files
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.running import STATE


@dataclass(frozen=True)
class Trained:
    """A trained network, on the CPU, and what it was built from."""

    blueprint: Blueprint
    model: nn.Module
    masks: Mapping[str, Tensor]  # layer name -> bool [*w]; empty for the controls that have none
    sparsifier: Mapping[str, Any]  # its state at the end of training
    input_shape: tuple[int, ...]
    num_classes: int

    @property
    def structure(self) -> Layout | Structure:
        """Which masks were legal, as the recipe names it: the engine's wrapping would hide what it can do."""
        built: Layout | Structure = self.blueprint.registry.build(
            "structure", self.blueprint.recipe.structure
        )
        return built

    @property
    def sample(self) -> Tensor | None:
        """One input to count its cost with, where zeros won't do."""
        return self.blueprint.sample(self.input_shape, self.num_classes)

    def example(self, size: int) -> Batch:
        """A made-up batch."""
        return self.blueprint.example(size, self.input_shape, self.num_classes)

    def dense(self) -> nn.Module:
        """The full model as it was before training."""
        return self.blueprint.dense_model(self.input_shape, self.num_classes)


def load_trained(trial: TrialSpec, folder: Path, registry: Registry | None = None) -> Trained:
    """Rebuild a finished trial's network. ``folder`` is where its ``state.pt`` is. Raises BadInput where that
    isn't there, or is damaged."""
    if not (folder / STATE).is_file():
        raise BadInput(
            f"{folder} has no {STATE}, which holds the trained network and stays where a trial ran: run the trial "
            "again to have it"
        )
    blueprint = Blueprint(trial, registry or default_registry())
    saved = tensor_files.read(folder / STATE)
    try:
        return _rebuilt(blueprint, saved)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(f"{folder / STATE}: it isn't of this trial: {in_a_line(error)}") from error


def _rebuilt(blueprint: Blueprint, saved: dict[str, Any]) -> Trained:
    shape, classes = tuple(saved["input_shape"]), saved["num_classes"]
    model = blueprint.model(shape, classes)
    model.load_state_dict(saved["model"])
    layers = maskable_layers(model)
    packed = {} if blueprint.recipe.dense or blueprint.recipe.narrow else saved["masks"]
    masks = {name: checkpoint.unpack(bits, layers[name].weight) for name, bits in packed.items()}
    return Trained(blueprint, model, masks, saved["sparsifier"], shape, classes)
