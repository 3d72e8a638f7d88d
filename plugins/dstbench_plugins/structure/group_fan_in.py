"""Fan-in that rows share in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from dstbench.accel.kernels.row_groups import row_group_executions
from dstbench.api import Execution, LayerCall, LayerInfo, Quota
from dstbench_plugins.checks import check_integer
from dstbench_plugins.structure.misfits import not_bipartite


@dataclass(frozen=True)
class GroupFanIn:
    """A unit is one input of ``block_size`` consecutive rows, which share their inputs; with ``fan_in`` F no group
    has more than F of them (HASTE's shared fan-in, G of 16, 32 or 64 and F of 64; one row a group is Spartex').

    Read in the authors' code, github.com/xmc-aalto/haste, which prunes by the mean |w| of a unit, as here, and draws
    new inputs with replacement: a group can hold an input twice there, and has less than F then. Which rows make a
    group, clustered labels there, is their order here. The last group is smaller where the size doesn't divide the
    rows. Shuffled blocks' kernels compute it.
    """

    block_size: int = 16  # G, rows of a group
    fan_in: int | None = None  # F, the most inputs of a group; None: any number, by the budget alone

    def __post_init__(self) -> None:
        """Refuse what isn't a group."""
        check_integer("block_size", self.block_size)
        if self.fan_in is not None:
            check_integer("fan_in", self.fan_in)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers without links between inputs and outputs."""
        return not_bipartite(layer)

    def units(self, layer: LayerInfo) -> Tensor:
        """The unit of every weight, numbered group by group; a convolution's inputs are (in-channel, tap) pairs."""
        rows, columns = layer.shape[0], prod(layer.shape[1:])
        group = torch.arange(rows)[:, None] // self.block_size
        return (group * columns + torch.arange(columns)).view(layer.shape)

    def quota(self, layer: LayerInfo) -> Quota | None:
        """F of each group's inputs."""
        groups, columns = -(-layer.shape[0] // self.block_size), prod(layer.shape[1:])
        owner = torch.arange(groups).repeat_interleave(columns)
        return None if self.fan_in is None else Quota(owner, self.fan_in)

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Execution]:
        """What computes from the shared inputs alone."""
        return row_group_executions(call, mask, self.block_size, "entry")
