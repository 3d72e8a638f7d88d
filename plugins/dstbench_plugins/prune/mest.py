"""MEST's pruning."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerView, Signal


@dataclass(frozen=True)
class Mest:
    """Keep the largest |w| + λ|g|, g on active weights only (MEST, arXiv 2110.14032).

    The authors' code clears the gradient before it is read, so their λ has no effect; here it has one.
    """

    needs: ClassVar[Signal] = Signal.ACTIVE_GRAD
    lam: float = 1.0

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|w| + λ|g|."""
        assert layer.active_grad is not None
        return layer.weight.abs() + self.lam * layer.active_grad.abs()
