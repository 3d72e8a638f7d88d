"""Unstructured masks on a CPU: every row has a list of entries of its own, a row group of one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from dstbench.accel.kernels.compiled.ragged import RaggedExecution, offered
from dstbench.accel.kernels.groups import Groups
from dstbench.api import Execution, LayerCall
from dstbench.core.engine import structures

__all__ = ["Unstructured", "csr_executions"]


@dataclass(frozen=True)
class Unstructured(structures.Unstructured):
    """Every mask is legal, and may have a fast path: what the engine's own can't say, which imports no kernels."""

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Execution]:
        """A compiled kernel, on a CPU."""
        return csr_executions(call, mask)


def csr_executions(call: LayerCall, mask: Tensor) -> list[Execution]:
    """What computes any mask, bool [*w], from its active weights in row-major order, int64 positions [active].

    One execution, or none where ``ragged.offered`` says why. Worth it at a few per cent of the weights.
    """
    if offered(call) is not None:
        return []
    positions = mask.flatten().nonzero()[:, 0]
    rows = torch.arange(len(mask))
    ptr = torch.cat([rows.new_zeros(1), mask.flatten(1).sum(1).cumsum(0)])
    cols = (positions % prod(mask.shape[1:])).to(torch.int32)
    return [RaggedExecution("csr compiled", positions, call, Groups(rows, ptr, cols), 1)]
