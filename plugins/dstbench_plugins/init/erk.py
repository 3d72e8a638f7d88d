"""Erdős–Rényi-kernel allocation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class ERK:
    """Density proportional to Σ shape / Π shape, so weights proportional to Σ shape (RigL, arXiv 1911.11134).

    The engine's water-filling is the paper's solver: a layer whose density would exceed 1 is made dense and
    the rest solved again.
    """

    uses_candidates: ClassVar[bool] = False
    power: float = 1.0  # 0 = uniform density, 1 = ERK

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """Weight of layer l: N_l (Σ shape / N_l)^power."""
        if self.power == 1:
            return {name: float(sum(layer.shape)) for name, layer in layers.items()}
        return {
            name: layer.info.numel * (sum(layer.shape) / layer.info.numel) ** self.power
            for name, layer in layers.items()
        }
