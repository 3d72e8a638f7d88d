"""Removal of what crossed zero (Deep R)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView, Signal


@dataclass(frozen=True)
class CrossedZero:
    """Weights whose θ = w · sign isn't above 0 go, however many they are (Deep R, arXiv 1711.05136): -inf removes
    them even where the target keeps all. Where it keeps fewer, the smallest θ go, too.

    Signs belong to positions, and values ``deep-r`` remember them. What died may wake in the same update, at
    the values' θ of a weight that wakes, as in the authors' code.
    """

    needs: ClassVar[Signal] = Signal.MEMORY

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """θ, -inf where θ <= 0: float [*w]."""
        assert layer.memory is not None
        theta = layer.weight * layer.memory
        return theta.masked_fill(theta <= 0, -torch.inf)
