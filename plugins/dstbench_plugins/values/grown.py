"""What weights hold where they grow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView
from dstbench_plugins.draws import uniform
from dstbench_plugins.values.scaled import check_scale


@dataclass(frozen=True)
class LastValue:
    """A weight comes back with the value that it last had, and at zero where it never was active (CHTs, arXiv
    2501.19107, appendix J: ``history_weights`` of the authors' code for perceptrons; that for LLaMA stores it and
    restores none).

    Costs one number for each position, active or not, which is kept in checkpoints, too.
    """

    def remember(self, layer: LayerView, rng: Generator) -> Tensor:
        """The values of active weights; elsewhere what was remembered."""
        if layer.memory is None:
            return torch.zeros_like(layer.weight)
        return torch.where(layer.mask, layer.weight, layer.memory)

    def grown(self, layer: LayerView, rng: Generator) -> Tensor:
        """The memory: float [*w]."""
        assert layer.memory is not None
        return layer.memory


@dataclass(frozen=True)
class UniformGrown:
    """Grown weights are uniform within ±scale/√F, F the active weights of their row behind the update: an option of
    HASTE's code (github.com/xmc-aalto/haste), whose F is constant. A linear layer's own initial values, at the fan-in
    that is left."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what isn't a scale."""
        check_scale(self.scale)

    def grown(self, layer: LayerView, rng: Generator) -> Tensor:
        """(2u - 1) · scale / √F: float [*w]."""
        fan_in = layer.mask.flatten(1).sum(1).clamp(min=1).double()
        limit = self.scale / fan_in.sqrt().reshape(-1, *(1,) * (layer.weight.ndim - 1))
        return (limit * (2 * uniform(layer.weight, rng) - 1)).to(layer.weight.dtype)
