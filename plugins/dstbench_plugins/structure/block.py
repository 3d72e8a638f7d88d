"""Fixed blocks: contiguous tiles of the weight matrix."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from dstbench.api import LayerInfo
from dstbench_plugins.checks import check_integer
from dstbench_plugins.structure.misfits import transposed


@dataclass(frozen=True)
class Block:
    """A unit is a contiguous tile of block_size × columns weights: what shuffled blocks have to beat.

    A weight ``[out, in, *kernel]`` is the matrix ``[out, in · taps]``, as it is for shuffled blocks.
    """

    block_size: int = 16  # rows of a tile
    columns: int | None = None  # its width; None: as wide as it is high

    def __post_init__(self) -> None:
        """Refuse what isn't a tile."""
        check_integer("block_size", self.block_size)
        if self.columns is not None:
            check_integer("columns", self.columns)

    @property
    def width(self) -> int:
        """The columns of a tile."""
        return self.block_size if self.columns is None else self.columns

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers that tiles don't fill exactly."""
        if reason := transposed(layer):
            return reason
        rows, columns = layer.shape[0], prod(layer.shape[1:])
        if rows % self.block_size or columns % self.width:
            return (
                f"its {rows} x {columns} weights don't divide into tiles of {self.block_size} x {self.width}"
            )
        return None

    def units(self, layer: LayerInfo) -> Tensor:
        """The tile of every weight, numbered row by row."""
        rows, columns = layer.shape[0], prod(layer.shape[1:])
        down, across = torch.arange(rows) // self.block_size, torch.arange(columns) // self.width
        return (down[:, None] * (columns // self.width) + across).view(layer.shape)
