"""SNFS's redistribution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dstbench.api import LayerView, Signal


@dataclass(frozen=True)
class MeanMomentum:
    """Weight of layer l: mean |momentum| of its active weights (SNFS, arXiv 1907.04840).

    The paper's iterative correction of rounding is not needed: budgets are exact integers here.
    """

    uses_candidates: ClassVar[bool] = False
    needs: ClassVar[Signal] = Signal.MOMENTUM

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """Mean of |m| over active weights; 0 for a layer without any."""
        return {name: _mean(layer) for name, layer in layers.items()}


def _mean(layer: LayerView) -> float:
    assert layer.momentum is not None
    active = layer.momentum[layer.mask]
    return float(active.abs().mean()) if len(active) else 0.0
