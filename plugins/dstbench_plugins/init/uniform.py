"""Uniform allocation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class Uniform:
    """The same density in every layer. (RigL also keeps the first convolution dense: ``dense_layers``.)"""

    uses_candidates: ClassVar[bool] = False

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """Weight of layer l: N_l."""
        return {name: float(layer.info.numel) for name, layer in layers.items()}
