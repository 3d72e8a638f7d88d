"""What builds up of gradients, weights and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dstbench.api import Clock, LayerView, Reset, Signal
from dstbench_plugins.checks import check_fraction, check_integer


@dataclass(frozen=True)
class SecondMoment:
    """v ← β v + (1 - β) g² of active weights: an average of squared gradients, the diagonal of the empirical Fisher
    matrix, for prune ``obd`` (known from the literature). g is the step's gradient, averaged over ranks first, so
    that v is of the mean's square. Where a weight is grown it begins anew at 0, which isn't corrected for as Adam
    does. β = 0.999 is ours: Adam's."""

    needs: ClassVar[Signal] = Signal.ACTIVE_GRAD
    dtype: ClassVar[torch.dtype] = torch.float32
    reset: ClassVar[Reset] = "grown"
    beta: float = 0.999

    def __post_init__(self) -> None:
        """Refuse what is no average."""
        check_fraction("beta", self.beta, below=True)

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """β v + (1 - β) g²: float32 [*w]."""
        assert layer.active_grad is not None
        return total.lerp(layer.active_grad.float().square(), 1 - self.beta)


@dataclass(frozen=True)
class Movement:
    """S ← S - g·w of active weights, over all steps: positive where a weight moves away from zero (movement pruning,
    arXiv 2005.07683). w is what the step starts from, g its gradient, averaged over ranks."""

    needs: ClassVar[Signal] = Signal.ACTIVE_GRAD
    dtype: ClassVar[torch.dtype] = torch.float32
    reset: ClassVar[Reset] = "never"

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """S - g·w: float32 [*w]."""
        assert layer.active_grad is not None
        return total - layer.active_grad.float() * layer.weight.float()


@dataclass(frozen=True)
class ActiveCount:
    """n ← n + mask: the steps in which a weight was active, whole numbers. For scores of one's own: DST-EE, which
    counts so (arXiv 2211.16667), isn't built, for its formula isn't confirmed."""

    dtype: ClassVar[torch.dtype] = torch.int32
    reset: ClassVar[Reset] = "never"

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """n + mask: int32 [*w]."""
        return total + layer.mask


@dataclass(frozen=True)
class GradientSum:
    """Σ g of all weights over the last ``window`` steps before a topology update, which then begins anew: RigL's
    accumulated growth, as SRigL's code has it over 8 micro-batches of one update. Each of these steps costs a dense
    backward pass. g is averaged over ranks; after each step of ours the weights have moved, theirs have not."""

    needs: ClassVar[Signal] = Signal.GRAD
    dtype: ClassVar[torch.dtype] = torch.float32
    reset: ClassVar[Reset] = "update"
    window: int = 8

    def __post_init__(self) -> None:
        """Refuse what sums nothing."""
        check_integer("window", self.window)

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """Σ + g: float32 [*w]."""
        assert layer.grad is not None
        return total + layer.grad.float()
