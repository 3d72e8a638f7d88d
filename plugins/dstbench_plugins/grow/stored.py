"""Growth by what inactive weights hold."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView
from dstbench_plugins.draws import uniform


@dataclass(frozen=True)
class StoredMagnitude:
    """Activate where |w| is largest, of what this update dropped and of what inactive weights hold in a training with
    a backward superset (Top-KAST, arXiv 2106.03517). Those that hold nothing come last, at random; without a superset
    they all do, for else what was just dropped would come back, and no mask would ever move."""

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|w|, in [-2, -1) where that is 0, or everywhere if no inactive weight holds anything: float64 [*w]."""
        stored, others = layer.weight.abs().double(), -1 - uniform(layer.weight, rng)
        if not bool(stored[~layer.before].any()):
            return others
        return torch.where(stored > 0, stored, others)
