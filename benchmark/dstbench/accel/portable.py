"""Rows that read the same channels, computed together from those alone, in operators that every exporter knows.

The kernels that training and inference here run on chunk their work and reuse memory, which can't be traced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import gcd

from torch import Tensor, nn

from dstbench.accel.kernels.groups import by_entry, group_rows, layout, storage_order, taps
from dstbench.accel.kernels.stock.group_table import group_table
from dstbench.core.network.layers import maskable_layers
from dstbench.core.storage.condensed_layer import gather

_FEWEST_ROWS = 4  # in a group: products of fewer are slower than dense ones
_MOST_READ = 0.5  # of the channels by any group: else the gather costs what it saves


class Take(nn.Module):
    """Entries along an axis, in an order."""

    def __init__(self, axis: int, index: Tensor) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """x at the index, int64 [k]."""
        return x.index_select(self.axis, self.get_buffer("index"))


class Products(nn.Module):
    """One product for each group of features."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)  # [groups, K, rows]
        self.bias = None if bias is None else nn.Parameter(bias)  # [groups * rows]

    def forward(self, x: Tensor) -> Tensor:
        """[..., groups * K] -> [..., groups * rows]."""
        by_group = x.reshape(*x.shape[:-1], len(self.weight), 1, -1)
        out: Tensor = (by_group @ self.weight).flatten(-3)
        return out if self.bias is None else out + self.bias


def block_size(mask: Tensor) -> int | None:
    """Rows of a group, for a mask, bool [out, in, *kernel]: as many as always read the same channels together.

    None where groups are too small, or read too much, to pay.
    """
    reads = mask.view(*mask.shape[:2], -1).any(2)
    equal = group_rows(reads, len(reads) + 1)[1]  # of a group too large, every row is left over
    rows, most = gcd(*equal), int(reads.sum(1).max())
    return rows if rows >= _FEWEST_ROWS and 0 < most <= _MOST_READ * reads.shape[1] else None


def _grouped(layer: nn.Conv2d | nn.Linear, mask: Tensor, rows: int) -> nn.Module:
    """A gather of channels, what the groups make of them, and the rows in their order."""
    shape = tuple(mask.shape)
    reads = mask.view(*shape[:2], -1).any(2).view(*shape[:2], *(1 for _ in shape[2:]))
    groups = layout(reads.expand(shape), rows, "channel")
    table = group_table(groups, rows, taps(shape, "channel"))
    positions = storage_order(by_entry(groups, shape, "channel"), shape, rows)
    values = gather(layer.weight.detach(), positions)
    bias = None if layer.bias is None else layer.bias.detach()[table.perm]
    if isinstance(layer, nn.Linear):
        return nn.Sequential(
            Take(-1, table.channels), Products(table.fill(values), bias), Take(-1, table.inverse)
        )
    conv = nn.Conv2d(
        len(table.channels),
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        groups=table.groups,
        bias=False,
    )
    conv.weight = nn.Parameter(table.filters(values, layer.kernel_size))
    if bias is not None:
        conv.bias = nn.Parameter(bias)
    return nn.Sequential(Take(1, table.channels), conv, Take(1, table.inverse))


def portable(masked: nn.Module, masks: Mapping[str, Tensor]) -> tuple[nn.Module, int]:
    """A copy of a masked model that computes groups of rows from what they read, and in how many layers.

    masks: layer name -> bool [*w]. A layer stays dense where that wouldn't pay.
    """
    small, swapped = copy.deepcopy(masked), 0
    for name, layer in maskable_layers(small).items():
        module = layer.module
        plain = type(module) is nn.Linear or (
            type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
        )
        if not plain or name not in masks or module is small:
            continue
        if rows := block_size(masks[name]):
            small.set_submodule(name, _grouped(module, masks[name], rows))  # type: ignore[arg-type]
            swapped += 1
    return small, swapped
