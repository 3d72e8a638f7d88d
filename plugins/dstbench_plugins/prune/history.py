"""Pruning by what a weight and its gradients did over many steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class OptimalBrainDamage:
    """Keep the largest w² · E[g²]: the loss without a weight, to second order, ½ h w² with h ≈ E[g²], the empirical
    Fisher matrix's diagonal (Optimal Brain Damage, LeCun et al., 1989; its saliency h u²/2 was read second-hand).

    The average is accumulator ``second_moment``'s, over all steps since a weight was grown. Departures: LeCun's h is
    the Hessian's own diagonal, at the end of a training; ½ changes no order. A weight that was just grown scores 0.
    """

    beta: float = 0.999  # of the average

    @property
    def accumulators(self) -> dict[str, Any]:
        """The average of g²."""
        return {"second_moment": {"name": "second_moment", "beta": self.beta}}

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """w² · v: float32 [*w]."""
        return layer.weight.float().square() * layer.extra["second_moment"]


@dataclass(frozen=True)
class MovementPruning:
    """Keep the largest S = -Σ g·w over all steps: weights that moved away from zero (arXiv 2005.07683).

    The rule was read in another library's account of it. Departures: the paper learns S by a straight-through
    gradient, with its own learning rate, of weights that are masked, too, and masks anew at every step; here g·w of
    active weights counts, and a weight that was pruned keeps its S.
    """

    accumulators: ClassVar[dict[str, Any]] = {"movement": "movement"}

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """S: float32 [*w]."""
        return layer.extra["movement"].clone()
