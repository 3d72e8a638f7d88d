"""Growth guided by the gradients of a random subset (GSE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView, Signal, StrategyError
from dstbench_plugins.draws import uniform


@dataclass(frozen=True)
class GuidedExploration:
    """Activate where |g| is largest among ⌊γ · active weights⌋ positions drawn uniformly with replacement, active
    ones among them (Guided Stochastic Exploration, arXiv 2401.06898, as its code has it).

    γ = 1 is the default there, 2 for ImageNet. Where at least half of a layer is active every position is drawn, as
    it is by RigL. Fewer candidates than places are made up by random ones, so that counts are exact; the code grows
    fewer. It grows before it prunes, so what an update drops isn't a candidate there: here it comes last. The other
    two ways to draw, by activations and by output gradients, aren't here. The dense gradient is computed, and
    charged, where theirs is computed at the drawn positions alone.
    """

    needs: ClassVar[Signal] = Signal.GRAD
    gamma: float = 1.0  # positions drawn per active weight

    def __post_init__(self) -> None:
        """Refuse what draws nothing."""
        if isinstance(self.gamma, bool) or not 0 < self.gamma < float("inf"):
            raise StrategyError(f"gamma: expected a number > 0, got {self.gamma!r}")

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|g| where drawn, in [-2, -1) elsewhere, in [-4, -3) where just dropped: float64 [*w]."""
        assert layer.grad is not None
        others = -1 - uniform(layer.weight, rng)
        scores = torch.where(self._drawn(layer, rng), layer.grad.abs().double(), others)
        return torch.where(layer.before & ~layer.mask, others - 2, scores)

    def _drawn(self, layer: LayerView, rng: Generator) -> Tensor:
        """Which positions were drawn, bool [*w]."""
        active, size = int(layer.before.count_nonzero()), layer.info.numel
        drawn = torch.ones(size, dtype=torch.bool)
        if 2 * active < size:
            drawn = torch.zeros(size, dtype=torch.bool)
            drawn[torch.randint(size, (int(self.gamma * active),), generator=rng)] = True
        return drawn.view(layer.shape).to(layer.weight.device)
