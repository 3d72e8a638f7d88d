"""Growth by the gradients of several steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from dstbench.api import LayerView
from dstbench_plugins.checks import check_integer


@dataclass(frozen=True)
class AccumulatedGradient:
    """Activate where |Σ g| over the last ``window`` steps is largest (RigL, arXiv 1911.11134, with the accumulation
    of SRigL's code, 8 micro-batches). See accumulator ``gradient_sum``."""

    window: int = 8

    def __post_init__(self) -> None:
        """Refuse what sums nothing."""
        check_integer("window", self.window)

    @property
    def accumulators(self) -> dict[str, Any]:
        """The sum of gradients."""
        return {"gradient_sum": {"name": "gradient_sum", "window": self.window}}

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|Σ g|: float32 [*w]."""
        return layer.extra["gradient_sum"].abs()
