"""Erdős–Rényi allocation."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from torch import Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class ER:
    """Density proportional to (in + out) / (in · out), whatever the kernel (SET, arXiv 1707.04780).

    SET's own ε is the proportion's factor: the target density stands for it here, and layers that would
    exceed 1 are made dense. Of a linear layer it is ERK.
    """

    uses_candidates: ClassVar[bool] = False

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """Weight of layer l: (in + out) · Π kernel."""
        return {name: float(sum(layer.shape[:2]) * prod(layer.shape[2:])) for name, layer in layers.items()}
