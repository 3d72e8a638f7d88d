"""Top-KAST's penalty."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView, StrategyError


@dataclass(frozen=True)
class ExplorationPenalty:
    """λ (Σ_A |θ|^p + Σ_B∖A |θ|^p / D): A is active, B∖A trains besides it, D is the layer's density. The stronger
    pull on what isn't active lets other weights overtake it (Top-KAST, arXiv 2106.03517).

    The power isn't settled, so it is a parameter: second-hand prose sums |θ| (p = 1), the literature calls it L2
    (p = 2, the default here), and a published copy sums the two sets' norms, not squared. The penalty's gradient
    joins the loss's just before each step, behind any clipping, and isn't in the loss that is logged. Weights that
    are neither active nor trained hold their values, unpenalised.
    """

    weight: float = 1e-4  # λ: none is known of the paper's
    power: float = 2.0  # p

    def __post_init__(self) -> None:
        """Refuse what has no gradient."""
        for field, least in (("weight", 0.0), ("power", 1.0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < inf:
                raise StrategyError(f"{field}: expected a number >= {least:g}, got {value!r}")

    def penalty(self, layer: LayerView, trained: Tensor) -> Tensor:
        """Σ_A |θ|^p + Σ_B∖A |θ|^p / D, without λ: a scalar. trained: B, bool [*w]."""
        return (layer.weight.abs() ** self.power * self._strength(layer))[trained].sum()

    def pull(self, layer: LayerView, rng: Generator) -> Tensor:
        """λ p |θ|^(p-1) sign(θ), / D where inactive: float [*w]."""
        slope = self.power * layer.weight.abs() ** (self.power - 1) * layer.weight.sign()
        return self.weight * slope * self._strength(layer)

    def _strength(self, layer: LayerView) -> Tensor:
        """1 where active, 1/D elsewhere."""
        density = max(1, int(layer.mask.count_nonzero())) / layer.info.numel
        return torch.where(layer.mask, 1.0, 1 / density).to(layer.weight)
