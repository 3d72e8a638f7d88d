"""RigL's growth."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerView, Signal


@dataclass(frozen=True)
class Gradient:
    """Activate where the dense gradient, averaged over ranks, is largest (RigL, arXiv 1911.11134)."""

    needs: ClassVar[Signal] = Signal.GRAD

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|g|."""
        assert layer.grad is not None
        return layer.grad.abs()
