"""SNFS's growth."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerView, Signal


@dataclass(frozen=True)
class Momentum:
    """Activate where the momentum of the dense gradient is largest (SNFS, arXiv 1907.04840).

    It is an average of its own: the optimizer's, which is zero wherever the mask is, would grow arbitrary
    positions.
    """

    needs: ClassVar[Signal] = Signal.MOMENTUM

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|m|."""
        assert layer.momentum is not None
        return layer.momentum.abs()
