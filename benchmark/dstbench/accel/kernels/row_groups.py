"""Executions of shuffled-block masks: all that there are for one layer, for the dispatcher to measure.

They share one storage order. Stored values are [S, B]: for each group its columns, in order; for each column one
row of B values (all taps of it, with channel columns), value b being the weight of the group's b-th row. A last
group of fewer rows is padded: its missing values have position -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dstbench.accel.kernels.compiled.ragged import ragged_executions
from dstbench.accel.kernels.groups import Columns, Groups, by_entry, layout, storage_order, taps
from dstbench.accel.kernels.stock.group_table import group_table
from dstbench.accel.kernels.stock.grouped import GroupedConvolution
from dstbench.accel.kernels.stock.pointwise import Linear, Pointwise
from dstbench.accel.kernels.triton.blocks import triton_executions
from dstbench.api import Execution, LayerCall

_WASTE = 1.25  # how many more slots than columns batched kernels may compute with, where groups are ragged
_PRODUCTS = {
    "shuffled-block bmm": torch.contiguous_format,
    "shuffled-block bmm, channels_last": torch.channels_last,
}
_CONVOLUTIONS = {
    "shuffled-block grouped convolution, NCHW": torch.contiguous_format,
    "shuffled-block grouped convolution, channels_last": torch.channels_last,
}


def row_group_executions(call: LayerCall, mask: Tensor, block_size: int, columns: Columns) -> list[Execution]:
    """Executions of one layer for one mask, bool [*w]. None for grouped convolutions.

    Batched kernels pad ragged groups to the widest, and are left out where that wastes much.
    Raises StrategyError where the mask isn't made of groups that share their columns.
    """
    if call.groups != 1 or call.info.kind == "conv_transpose":
        return []
    groups = layout(mask, block_size, columns)
    positions = storage_order(by_entry(groups, call.info.shape, columns), call.info.shape, block_size)
    return [
        *_stock(call, groups, positions, block_size, columns),
        *ragged_executions(call, mask, block_size, columns),
        *triton_executions(call, mask, block_size, columns),
    ]


def _stock(
    call: LayerCall, groups: Groups, positions: Tensor, block_size: int, columns: Columns
) -> Sequence[Execution]:
    """Stock operators on a CPU."""
    kernel = call.info.shape[2:]
    pointwise = torch.Size(kernel).numel() == 1
    if call.device.type != "cpu" or (columns == "entry" and not pointwise):
        return []
    table = group_table(groups, block_size, taps(call.info.shape, "channel"))
    if table.groups * table.slots > max(_WASTE * len(groups.cols), table.groups):
        return []
    if not kernel:
        return [Linear("shuffled-block bmm", positions, table)]
    if len(kernel) != 2:
        return []
    if pointwise and not any(call.padding):
        return [
            Pointwise(path, positions, table, call.stride, memory_format)
            for path, memory_format in _PRODUCTS.items()
        ]
    return [
        GroupedConvolution(
            path, positions, table, kernel, call.stride, call.padding, call.dilation, memory_format
        )
        for path, memory_format in _CONVOLUTIONS.items()
    ]
