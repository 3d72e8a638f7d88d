"""Pruning by the loss that a weight's removal would cost, to first order."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor

from dstbench.api import LayerView, Signal, StrategyError


@dataclass(frozen=True)
class Taylor:
    """Keep the largest |g·w|^power (Molchanov et al., arXiv 1906.10771): the change of the loss without the weight.

    Single weights rank alike by both powers. A unit of a structure is worth the mean of its weights' scores, so
    there it matters: 2 is the published one. Formula known from the literature, (g·w)² seen in code. One batch's
    gradient is noisy, where papers average over many; and what was grown at zero scores 0 until it has moved.
    """

    needs: ClassVar[Signal] = Signal.ACTIVE_GRAD
    power: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        """Refuse another power."""
        if self.power not in (1, 2):
            raise StrategyError(f"power: expected 1 or 2, got {self.power!r}")

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|g·w|^power: float64 [*w], for the square of a small float32 is 0."""
        assert layer.active_grad is not None
        saliency = (layer.active_grad.double() * layer.weight.double()).abs()
        return saliency if self.power == 1 else saliency.square()
