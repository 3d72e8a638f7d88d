"""N:M sparsity: few of every small group of neighbouring inputs, as sparse tensor cores take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dstbench.accel.kernels.semi_structured import semi_structured_executions
from dstbench.api import Execution, LayerCall, LayerInfo, Quota
from dstbench_plugins.checks import check_integer
from dstbench_plugins.structure.misfits import transposed


@dataclass(frozen=True)
class NOfM:
    """At most n of every m consecutive weights along the input dimension (2:4 of NVIDIA Ampere, arXiv 2104.08378).

    A convolution's groups are m neighbouring in-channels at one tap: consecutive where hardware multiplies it
    as a matrix, channels last. At most, not exactly: a density below n/m leaves groups with fewer, and one
    above n/m is infeasible. At exactly n/m all groups are full, so an update moves weights within the groups
    that pruning has just opened.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        """Refuse what isn't n of m."""
        check_integer("m", self.m)
        check_integer("n", self.n, most=self.m)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers whose inputs don't fall into groups of m."""
        if reason := transposed(layer):
            return reason
        inputs = layer.shape[1]
        return f"its {inputs} inputs don't divide into groups of {self.m}" if inputs % self.m else None

    def units(self, layer: LayerInfo) -> Tensor:
        """Every weight is a unit."""
        return torch.arange(layer.numel).view(layer.shape)

    def quota(self, layer: LayerInfo) -> Quota:
        """The n of m inputs of one output row at one tap."""
        rows, inputs, *kernel = layer.shape
        groups = torch.arange(layer.numel // self.m).view(rows, inputs // self.m, *kernel)
        return Quota(groups.repeat_interleave(self.m, 1).flatten(), self.n)

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Execution]:
        """2:4 on sparse tensor cores."""
        return semi_structured_executions(call, mask) if (self.n, self.m) == (2, 4) else ()
