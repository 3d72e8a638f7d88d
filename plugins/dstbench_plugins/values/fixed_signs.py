"""Weights of fixed sign (Deep R)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView, StrategyError
from dstbench_plugins.draws import normal, uniform

_EPSILON = 1e-12  # θ of a weight that wakes


@dataclass(frozen=True)
class FixedSigns:
    """Deep R (arXiv 1711.05136, as its code has it): w = sign · θ, each position's sign drawn once for good. Active
    weights start with the model's own magnitudes and wake at θ = 1e-12; besides -η ∂E/∂θ each step adds
    -η α + η N(0, ``noise``) to θ. With prune ``deep-r`` what comes to θ <= 0 dies.

    Drift and noise go with the gradient, as penalties do: under plain SGD that is the code's update; momentum or Adam
    make another of it. The paper's own noise, √η times a temperature's, isn't confirmed and isn't here. No topology
    update follows a training's last step, so what crosses zero in it stays as it is, where the code has it dormant.
    """

    alpha: float = 1e-5  # of the drift towards 0, an L1 penalty
    noise: float = 1e-5  # standard deviation

    def __post_init__(self) -> None:
        """Refuse what pulls nowhere."""
        for field in ("alpha", "noise"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
                raise StrategyError(f"{field}: expected a number >= 0, got {value!r}")

    def remember(self, layer: LayerView, rng: Generator) -> Tensor:
        """The signs, ±1: float [*w]."""
        if layer.memory is not None:
            return layer.memory
        return torch.where(uniform(layer.weight, rng) < 0.5, -1.0, 1.0).to(layer.weight)

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """sign · |w|, and no less than what wakes: float [*w]."""
        assert layer.memory is not None
        return layer.memory * layer.weight.abs().clamp(min=_EPSILON)

    def grown(self, layer: LayerView, rng: Generator) -> Tensor:
        """sign · 1e-12: float [*w]."""
        assert layer.memory is not None
        return layer.memory * _EPSILON

    def pull(self, layer: LayerView, rng: Generator) -> Tensor:
        """sign · (α - N(0, noise)), the gradient of θ's drift: float [*w]."""
        assert layer.memory is not None
        if not self.noise:
            return layer.memory * self.alpha
        return layer.memory * (self.alpha - self.noise * normal(layer.weight, rng)).to(layer.weight.dtype)
