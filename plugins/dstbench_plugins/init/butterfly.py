"""Butterfly patterns as an init (pixelated butterfly)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dstbench.api import Infeasible, LayerInfo, LayerView, Policy, StrategyError
from dstbench_plugins.checks import check_integer
from dstbench_plugins.draws import uniform
from dstbench_plugins.init.uniform import Uniform
from dstbench_plugins.structure.misfits import not_bipartite

_NEVER = -99.0  # of cells that no factor reaches


@dataclass(frozen=True)
class Butterfly:
    """Flat block butterfly: of a grid of b × b cells those on the diagonal, then those at i = j xor 2^k, factor by
    factor as far as the budget goes; f factors hold (1 + f)/b of the weights (Pixelated Butterfly, arXiv 2112.00029).

    Read in the authors' code. Meant for structure ``block``, never updated. A budget between two patterns takes a
    random part of the next factor, or is refused with ``exact``. Departures: the low-rank term isn't a mask, and
    isn't here; the weights' rescaling is values ``pixelfly``. A convolution is the matrix [out, in · taps].
    """

    size: int = 16  # b, a power of two
    global_size: int = 0  # the first rows and columns of cells, which are on before any factor
    exact: bool = False  # refuse budgets between two patterns

    def __post_init__(self) -> None:
        """Refuse a grid that factors don't fit."""
        check_integer("size", self.size)
        check_integer("global_size", self.global_size, least=0, most=self.size)
        if self.size & (self.size - 1):
            raise StrategyError(f"size: expected a power of two, got {self.size}")

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers without links between inputs and outputs."""
        return not_bipartite(layer)

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """0 on the diagonal, -k at factor k, random below that within a cell: float64 [*w]."""
        matrix = layer.weight.flatten(1)
        rows, columns = (torch.arange(size) * self.size // size for size in matrix.shape)
        factors = self.factors()[rows[:, None], columns].to(layer.weight.device)
        if self.exact and layer.allocation:
            held = [int((factors >= level).sum()) for level in set(factors.flatten().tolist())]
            if layer.allocation not in held:
                raise Infeasible(
                    f"{self!r}, layer {layer.name!r}: patterns hold {sorted(held)} weights, not {layer.allocation}"
                )
        return (factors - uniform(matrix, rng) / 2).view(layer.shape)

    def factors(self) -> Tensor:
        """Minus the first factor that reaches a cell: float64 [b, b]."""
        place = torch.arange(self.size)
        between = place[:, None] ^ place
        factors = torch.full(between.shape, _NEVER, dtype=torch.float64)
        for k in range(self.size.bit_length() - 1):
            factors[between == 1 << k] = -1.0 - k
        factors[between == 0] = 0
        factors[: self.global_size] = 0
        factors[:, : self.global_size] = 0
        return factors


def butterfly(size: int = 16, global_size: int = 0, exact: bool = False) -> Policy:
    """Butterfly patterns at one density in every layer."""
    return Policy(Butterfly(size, global_size, exact), Uniform())
