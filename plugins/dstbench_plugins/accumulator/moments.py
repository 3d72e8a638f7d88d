"""Moments of what an init's layers are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from dstbench.api import Clock, LayerView, Signal
from dstbench_plugins.checks import check_choice

Of = Literal["count", "sum", "square", "product"]


@dataclass(frozen=True)
class InputMoment:
    """Of each input column over all samples and places: their ``count``, the ``sum`` of x, or of its ``square``; or
    of each pair of columns the ``product``, Σ x_a · x_b at row r and column b, a = r mod in: an init's linear layers.

    Summed in float64, over ranks, too: variances are differences of these. What CSTI's Pearson correlations are made
    of (CHTs, arXiv 2501.19107), batch by batch; the authors have the whole training set at once.
    """

    needs: ClassVar[Signal] = Signal.INPUTS
    dtype: ClassVar[torch.dtype] = torch.float64
    of: Of = "sum"

    def __post_init__(self) -> None:
        """Refuse what is no moment."""
        check_choice("of", self.of, get_args(Of))

    @property
    def pairs(self) -> bool:
        """Whether it is summed over pairs."""
        return self.of == "product"

    def entry(self, values: Tensor) -> Tensor:
        """1, x or x²: float64."""
        exact = values.double()
        if self.of == "count":
            return torch.ones_like(exact)
        return exact.square() if self.of == "square" else exact

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """Σ: float64 [1, in, *kernel], or [out, in]."""
        return total + layer.extra["seen"]
