"""Pruning by magnitude."""

from dataclasses import dataclass

from torch import Generator, Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class Magnitude:
    """Keep the largest |w|."""

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|w|."""
        return layer.weight.abs()
