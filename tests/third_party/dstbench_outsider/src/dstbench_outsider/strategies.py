"""Four strategies and the recipe that combines them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dstbench.api import Clock, LayerInfo, LayerView, Quota, Recipe, Signal, Target


@dataclass(frozen=True)
class SignalToNoise:
    """|g| / (|m| + ε): gradients that the running mean hasn't seen yet come first."""

    needs: ClassVar[Signal] = Signal.GRAD | Signal.MOMENTUM
    eps: float = 1e-3

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Scores, float [*w]."""
        return layer.grad.abs() / (layer.momentum.abs() + self.eps)


def shrunk_gradient(layer: LayerView, rng: Generator, *, decay: float = 0.1) -> Tensor:
    """|g| - decay |w|, as a plain function: float [*w]."""
    return layer.grad.abs() - decay * layer.weight.abs()


shrunk_gradient.needs = Signal.GRAD


@dataclass(frozen=True)
class Peak:
    """max |g| over the last few steps before each update."""

    needs: ClassVar[Signal] = Signal.GRAD
    reset: ClassVar[str] = "update"
    window: int = 3

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """The larger of both, float [*w]."""
        return total.maximum(layer.grad.abs())


@dataclass(frozen=True)
class ByPeak:
    """Where |g| was largest at any of these steps."""

    accumulators: ClassVar[dict] = {"peak": "dstbench-outsider/peak"}

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Scores, float [*w]."""
        return layer.extra["peak"].clone()


@dataclass(frozen=True)
class RaggedNOfM:
    """N:M along the input: of every m neighbouring inputs of an output, at most n are active."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        """Refuse what isn't n of m."""
        if not 0 < self.n <= self.m:
            raise ValueError(f"expected 0 < n <= m, got n={self.n}, m={self.m}")

    def units(self, layer: LayerInfo) -> Tensor:
        """Every weight for itself."""
        return torch.arange(layer.numel).view(layer.shape)

    def quota(self, layer: LayerInfo) -> Quota:
        """Groups of m along the second dimension; the last one of a row may be smaller."""
        rows, columns = layer.shape[:2]
        groups = -(-columns // self.m)
        taps = layer.numel // (rows * columns)
        row, column, tap = torch.meshgrid(
            torch.arange(rows), torch.arange(columns), torch.arange(taps), indexing="ij"
        )
        return Quota(((row * groups + column // self.m) * taps + tap).flatten(), self.n)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Depthwise kernels and other layers with fewer inputs than m."""
        return None if layer.shape[1] >= self.m else f"has {layer.shape[1]} inputs, fewer than m = {self.m}"


@dataclass(frozen=True)
class SquareRoot:
    """Weights by the square root of a layer's size: between uniform and equal counts."""

    uses_candidates: ClassVar[bool] = False

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """Weight of layer l: √N_l."""
        return {name: layer.info.numel**0.5 for name, layer in layers.items()}


@dataclass(frozen=True)
class Linear:
    """Drop fraction ζ (1 - t / stop) every ΔT steps."""

    zeta: float = 0.3
    delta_t: int = 100
    stop: float = 0.75

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """The target at multiples of ΔT before the stop."""
        left = 1 - clock.progress / self.stop
        if clock.step == 0 or clock.step % self.delta_t or left <= 0:
            return None
        return Target(density * (1 - self.zeta * left), density)


def outsider(delta_t: int = 100) -> Recipe:
    """Every strategy of this package at once."""
    return Recipe(
        structure="dstbench-outsider/ragged_n_of_m",
        grow={"name": "dstbench-outsider/snr", "share": "dstbench-outsider/square_root"},
        schedule={"name": "dstbench-outsider/linear", "delta_t": delta_t},
    )
