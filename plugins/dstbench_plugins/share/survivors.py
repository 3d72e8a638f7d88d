"""DSR's redistribution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class Survivors:
    """Weight of layer l: its weights that survived pruning (DSR, arXiv 1902.05967)."""

    uses_candidates: ClassVar[bool] = False

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """The active weights of l."""
        return {name: float(layer.active) for name, layer in layers.items()}
